"""The last stage: decide on alarms and retraining, send what was decided, show what was committed.

roles    what metrics are for, and when nobody is called
decide   the life of an alarm: pending, firing, resolved
relate   which alarms belong together
trigger  when to ask for retraining
request  the CloudEvents that ask for it
outbox   committed messages on their way out: to Kafka or to files
view     the last committed state, as everything outside sees it
families the name, meaning and labels of every metric
expose   the view as Prometheus text
status   the view as JSON
server   one HTTP port for both, and for the probes
gate     who may read, and who may reload
certificate what the port's TLS shows
"""
