"""Records in, columns out.

source     what Kafka, files and the demo have in common
kafka      a consumer group's partitions
poison     the way past a batch that cannot be decoded
client     connection options and secrets
files      JSON lines, Parquet and CSV
mapping    where each field of an event is found
parse      JSON texts to columns, bad records put aside
columns    fields as column expressions, and what is wrong with a row
convert    texts to times, numbers and classes
decode     a batch of raw records to predictions, feedback and rejects
"""
