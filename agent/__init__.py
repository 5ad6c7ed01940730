"""Plumbline's process. Its rooms, in the order of the data:

- cli, __main__: the command line, thin; config/: the YAML file, its defaults, the words for every mistake
- events: what travels between the stages; errors: what can go wrong, by what the caller does about it
- ingest/: sources (kafka, files, demo), decoding to columns, mapping of foreign formats
- measure/: panes, label join, windows, metrics and their catalogue, baseline; which counts each detector gets
- judge: closed steps and matured hours → detectors → alarms → retraining requests, for one model
- respond/: alarm life, retraining policy, outbox and its sinks, /metrics, /status, the page
- pipeline: the wiring; state: what a commit saves and a start restores; store: the one commit point
- runner: the loop and the only clock; reload: a new config at a commit; logs: how it speaks
- failpoint: where a test may end the process
- doctor: what is wrong before a start; sample: a topic as the config reads it; schemas: what producers send
- backtest: the same pipeline over files; demo: over a simulation
"""
