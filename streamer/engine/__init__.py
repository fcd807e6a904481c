"""The engine: micro-batches over Faust, one transaction a partition batch, RocksDB rows, recovery."""
