"""Publishing, compiled: a batch's records written as Kafka's bytes without a Python object for each.

    digits.py     a float32 as JSON text
    wire.py       varints and records of a record batch
    publish.py    the three functions that the user step calls: changelog, factors, signals

`streamer.steps.records` and `streamer.engine.transaction` are the readable twins; tests hold both against each other.
"""
