"""Rows of one partition in RocksDB.

The store is a cache of the changelog: it may be behind it, never ahead, and can be deleted at any time. Rows and the
changelog offset that they stem from are written in one `WriteBatch`, and both column families are flushed atomically,
so a crash rewinds both to the same point. That is why RocksDB's own write-ahead log is off: the changelog is the log
(`ops/decisions/0002-store-without-wal.md`). The library raises bare exceptions; here they become `StoreDamaged`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rocksdict import (
    BlockBasedOptions,
    Cache,
    ColumnFamily,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)

_OFFSET_KEY = b"changelog_offset"
_SOURCE_KEY = b"source_next"
_META = "meta"


class StoreDamaged(Exception):
    """The store can't be read; it is to be set aside and rebuilt from the changelog."""


class StoreUnwritable(Exception):
    """The store can't be written now, most likely for a full disk; the same write may succeed later."""


@dataclass(frozen=True, slots=True)
class StoreMemory:
    """What all stores of a process share, so that memory is bounded whatever the number of partitions."""

    cache: Cache
    buffers: WriteBufferManager

    @classmethod
    def of(cls, cache_mb: int) -> StoreMemory:
        """A block cache of ``cache_mb`` MiB, write buffers counted against it."""
        cache = Cache(cache_mb << 20)
        buffer_bytes = max(cache_mb // 2, 8) << 20
        return cls(cache, WriteBufferManager.new_write_buffer_manager_with_cache(buffer_bytes, False, cache))


class Store:
    """Rows by plain id; see the module docstring for what may be relied on."""

    def __init__(self, path: Path, memory: StoreMemory) -> None:
        """Open or create the store at ``path``.

        Raises:
            StoreDamaged: RocksDB refuses the files.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._rows = Rdict(
                str(path),
                _options(memory),
                column_families={_META: _options(memory)},
            )
            unlogged = WriteOptions()
            unlogged.disable_wal = True  # type: ignore[assignment, method-assign]  # the stub calls it a method
            self._rows.set_write_options(unlogged)
            self._meta: Rdict | None = self._rows.get_column_family(_META)
            self._meta_handle: ColumnFamily | None = self._rows.get_column_family_handle(_META)
            self._offset: int | None = self._read_number(_OFFSET_KEY)
            self._source_next: int | None = self._read_number(_SOURCE_KEY)
        except Exception as problem:
            raise StoreDamaged(f"store {path}: {problem}") from problem

    @property
    def changelog_offset(self) -> int | None:
        """The changelog offset after the last row written here; None for a new store."""
        return self._offset

    @property
    def source_next(self) -> int | None:
        """The source offset up to which the rows here account for the input; None before the first batch."""
        return self._source_next

    @property
    def rows(self) -> int:
        """About how many rows there are: RocksDB's own estimate."""
        return int(self._rows.property_int_value("rocksdb.estimate-num-keys") or 0)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The row of each key, None where there is none.

        Raises:
            StoreDamaged: a block can't be read.
        """
        if not keys:
            return []
        try:
            rows = cast("list[bytes | None]", self._rows.get(list(keys)))
        except Exception as problem:
            raise StoreDamaged(f"store {self.path}: {problem}") from problem
        return rows

    def write(self, rows: Iterable[tuple[bytes, bytes | None]], changelog_offset: int, source_next: int | None) -> None:
        """Put (or, for None, delete) rows together with the offsets they account for, atomically.

        Raises:
            StoreUnwritable: RocksDB refuses, a full disk for one; nothing of it is in the store.
        """
        batch = WriteBatch(raw_mode=True)
        for key, row in rows:
            if row is None:
                batch.delete(key)
            else:
                batch.put(key, row)
        batch.put(_OFFSET_KEY, changelog_offset.to_bytes(8, "little"), self._meta_handle)
        if source_next is not None:
            batch.put(_SOURCE_KEY, source_next.to_bytes(8, "little"), self._meta_handle)
        try:
            self._rows.write(batch)
        except Exception as problem:
            raise StoreUnwritable(f"store {self.path}: {problem}") from problem
        self._offset, self._source_next = changelog_offset, source_next

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All rows in key order.

        Raises:
            StoreDamaged: a scan met a damaged block; the library's own ``items()`` would end silently there.
        """
        scan = self._rows.iter()
        scan.seek_to_first()
        while scan.valid():
            yield scan.key(), scan.value()
            scan.next()
        try:
            scan.status()
        except Exception as problem:
            raise StoreDamaged(f"store {self.path}: {problem}") from problem

    def close(self) -> None:
        """Flush and release the lock.

        An explicit flush takes one column family at a time: rows first, so that a crash in between leaves rows newer
        than the offset they are noted under, which a replay puts right. Column family handles keep the database open.
        """
        with contextlib.suppress(Exception):  # a full disk: what is not flushed comes back from the changelog
            self._rows.flush()
            if self._meta is not None:
                self._meta.flush()
        self._meta = self._meta_handle = None
        self._rows.close()

    def _read_number(self, key: bytes) -> int | None:
        assert self._meta is not None
        raw = self._meta.get(key)
        return None if raw is None else int.from_bytes(raw, "little")


def wipe(path: Path) -> None:
    """Delete a store's files; its rows come back from the changelog."""
    shutil.rmtree(path, ignore_errors=True)


def quarantine(path: Path) -> Path:
    """Move a damaged store aside, for a look at it later; one is kept, an older one is deleted."""
    aside = path.with_name(path.name + ".damaged")
    wipe(aside)
    path.rename(aside)
    return aside


def _options(memory: StoreMemory) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_write_buffer_manager(memory.buffers)
    options.set_write_buffer_size(32 << 20)
    options.set_max_write_buffer_number(2)
    options.set_max_open_files(256)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    options.set_max_background_jobs(2)
    # Rows are mostly float32 bits that no compressor shortens, and most are overwritten long before they are old: few,
    # large levels halve the processor time of compaction (ops/decisions/0002-store-without-wal.md).
    options.set_compression_type(DBCompressionType.none())
    options.set_level_zero_file_num_compaction_trigger(8)
    options.set_max_bytes_for_level_base(512 << 20)
    options.set_target_file_size_base(64 << 20)
    # Rows and the changelog offset live in two column families and no log ties them together: flush them as one.
    options.set_atomic_flush(True)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(memory.cache)
    blocks.set_bloom_filter(10, False)
    blocks.set_cache_index_and_filter_blocks(True)
    options.set_block_based_table_factory(blocks)
    return options
