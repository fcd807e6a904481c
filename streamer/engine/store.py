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

from schemas.cuts import Cut, decode_cut, encode_cut

_OFFSET_KEY = b"changelog_offset"
_SOURCE_KEY = b"source_next"
_CUT_KEY = b"cut"
_META = "meta"
_CORRUPT = "Corruption"
_ROW_BYTES = 200
"""What a row kept at hand takes beside its bytes: its key, two object headers, its place."""


class StoreDamaged(Exception):
    """The store can't be read; it is to be set aside and rebuilt from the changelog."""


class StoreUnwritable(Exception):
    """The store can't be written now, most likely for a full disk; the same write may succeed later."""


@dataclass(frozen=True, slots=True)
class StoreMemory:
    """What all stores of a process share, so that memory is bounded whatever the number of partitions."""

    cache: Cache
    buffers: WriteBufferManager
    rows: RowMemory

    @classmethod
    def of(cls, cache_mb: int) -> StoreMemory:
        """Half of ``cache_mb`` MiB for rows written last, half for RocksDB, its write buffers counted in."""
        half = max(cache_mb // 2, 4)
        cache = Cache(half << 20)
        buffer_bytes = max(half // 2, 8) << 20
        buffers = WriteBufferManager.new_write_buffer_manager_with_cache(buffer_bytes, False, cache)
        return cls(cache, buffers, RowMemory(half << 20))


@dataclass(slots=True)
class RowMemory:
    """Bytes for the rows that stores keep at hand, shared evenly by the open ones."""

    limit: int
    stores: int = 0

    @property
    def share(self) -> int:
        """Bytes for one store."""
        return self.limit // max(self.stores, 1)


class RecentRows:
    """The rows of a store written last, up to its share of the memory.

    A batch writes every row that it read, so the order of writing is the order of use. RocksDB's own caches hold
    blocks: a row out of them takes a lookup in each level, a checksum and copies, some twenty times as long as here.
    """

    def __init__(self, memory: RowMemory) -> None:
        self._memory, self._rows, self._bytes = memory, dict[bytes, bytes](), 0
        memory.stores += 1

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The row of each key, None for one that is not at hand."""
        get = self._rows.get
        return [get(key) for key in keys]

    def put(self, rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Keep these, and forget the oldest beyond the share."""
        held, size = self._rows, self._bytes
        for key, row in rows:
            old = held.pop(key, None)
            if old is not None:
                size -= len(old) + _ROW_BYTES
            if row is not None:
                held[key] = row
                size += len(row) + _ROW_BYTES
        share = self._memory.share
        while size > share and held:
            size -= len(held.pop(next(iter(held)))) + _ROW_BYTES
        self._bytes = size

    def close(self) -> None:
        """Forget all, and leave the share to the others."""
        self._rows.clear()
        self._bytes = 0
        self._memory.stores -= 1


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
            held = self._meta.get(_CUT_KEY)
            self._cut = None if held is None else decode_cut(held)
        except Exception as problem:
            raise StoreDamaged(f"store {path}: {problem}") from problem
        self._recent = RecentRows(memory.rows)

    @property
    def changelog_offset(self) -> int | None:
        """The changelog offset after the last row written here; None for a new store."""
        return self._offset

    @property
    def source_next(self) -> int | None:
        """The source offset up to which the rows here account for the input; None before the first batch."""
        return self._source_next

    @property
    def cut(self) -> Cut | None:
        """Which generation the rows are of, and since when; None where no partition record says."""
        return self._cut

    @property
    def rows(self) -> int:
        """About how many rows there are: RocksDB's own estimate."""
        return int(self._rows.property_int_value("rocksdb.estimate-num-keys") or 0)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The row of each key, None where there is none.

        Raises:
            StoreDamaged: a block can't be read.
        """
        rows = self._recent.get_many(keys)
        missing = [number for number, row in enumerate(rows) if row is None]
        if missing:
            try:
                found = cast("list[bytes | None]", self._rows.get([keys[number] for number in missing]))
            except Exception as problem:
                raise StoreDamaged(f"store {self.path}: {problem}") from problem
            for number, row in zip(missing, found, strict=True):
                rows[number] = row
        return rows

    def write(
        self,
        rows: Sequence[tuple[bytes, bytes | None]],
        changelog_offset: int,
        source_next: int | None,
        cut: Cut | None = None,
    ) -> None:
        """Put (or, for None, delete) rows together with the offsets they account for, and a new cut, atomically.

        Raises:
            StoreUnwritable: RocksDB refuses, a full disk for one; nothing of it is in the store.
            StoreDamaged: it refuses for a damaged file, and will go on to.
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
        if cut is not None:
            batch.put(_CUT_KEY, encode_cut(cut), self._meta_handle)
        try:
            self._rows.write(batch)
        except Exception as problem:
            kind = StoreDamaged if _CORRUPT in str(problem) else StoreUnwritable
            raise kind(f"store {self.path}: {problem}") from problem
        self._recent.put(rows)
        self._offset, self._source_next = changelog_offset, source_next
        self._cut = cut or self._cut

    def after(self, key: bytes | None, most: int) -> list[tuple[bytes, bytes]]:
        """At most ``most`` rows in key order, those behind ``key``, or from the first.

        Raises:
            StoreDamaged: a block can't be read.
        """
        scan, found = self._rows.iter(), list[tuple[bytes, bytes]]()
        try:
            if key is None:
                scan.seek_to_first()
            else:
                scan.seek(key + b"\0")
            while scan.valid() and len(found) < most:
                found.append((scan.key(), scan.value()))
                scan.next()
            scan.status()
        except Exception as problem:
            raise StoreDamaged(f"store {self.path}: {problem}") from problem
        return found

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
        self._recent.close()
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
