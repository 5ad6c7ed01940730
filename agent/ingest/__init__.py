"""Records in, columns out.

source     what Kafka, files and the demo have in common
kafka      a consumer group's partitions
librdkafka confluent-kafka's consumer in the guise of the other, for the extra `fast`
records    record batches to columns, past the client's object for each record
client     connection options and secrets
tls        certificates to the broker
refusal    why the broker is not reached, in words
consumer   a connected member of the group
placement  where an assigned partition begins
progress   whether reading goes on
poison     the way past a batch that cannot be decoded
files      JSON lines, Parquet and CSV
mapping    where each field of an event is found
parse      JSON texts to columns, bad records put aside
columns    fields as column expressions, and what is wrong with a row
convert    texts to times, numbers and classes
envelope   what stands around a value: headers, CloudEvents, Kafka's own columns
table      a file's columns as the texts of JSON records
suspects   records at which columns alone cannot be sure
plan       what is decided about a source before its first record
decode     a batch of raw records to predictions, feedback and rejects
"""
