"""The state store of a worker: RocksDB, one folder per pass and partition."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Final, cast

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)

from privacy_ledger.domain.errors import LedgerError, StoreCorrupt, StoreFull

__all__ = ["RocksFolder", "RocksStore"]

WRITE_BUFFER_BYTES: Final = 16 << 20
PROCESS_BUFFER_BYTES: Final = 64 << 20
PROCESS_CACHE_BYTES: Final = 32 << 20
"""A process may hold a hundred stores, owned and followed: these two are for all of them together."""
OPEN_FILES_MAX: Final = 128
FILTER_BITS: Final = 10
"""Bits per key of the filters: one look-up in a hundred for a key that is not there reads a block."""
MEMTABLE_FILTER_PART: Final = 0.02
_KEY: Final = itemgetter(0)
_FULL: Final = ("No space", "File too large", "Disk quota")


class RocksStore:
    """`StateStore` on RocksDB; a cache of the changelog, with no write-ahead log of its own.

    A crash loses what was not flushed yet, always the newest batches as a whole: the store is
    behind or empty, and restore reads the changelog on. Every block that is read is checked
    against its checksum: a damaged file raises `StoreCorrupt`.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the folder.

        Raises:
            StoreCorrupt: the files that are there make no database.
            StoreFull: the device has no space for an empty one.
        """
        path.mkdir(parents=True, exist_ok=True)
        try:
            self._database = _open(path)
        except Exception as error:  # noqa: BLE001 - the binding raises nothing narrower
            raise _translated(error) from None
        self._write_options = WriteOptions()
        # The changelog is the log: what a crash takes from memory, restore reads there.
        self._write_options.disable_wal = True  # type: ignore[method-assign, assignment] # a property

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of these keys, in order; one batched read."""
        try:
            return cast("list[bytes | None]", self._database.get(list(keys)))
        except Exception as error:  # noqa: BLE001 - see `__init__`
            raise _translated(error) from None

    def scan(self, prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield every (key, value) whose key starts with `prefix`, from `prefix` + `start` on."""
        # A cursor ends at a damaged block as it does at the last key; only its status tells.
        cursor = self._database.iter()
        try:
            cursor.seek(prefix + start)
            while cursor.valid():
                key = cast("bytes", cursor.key())
                if not key.startswith(prefix):
                    return
                yield key, cast("bytes", cursor.value())
                cursor.next()
            cursor.status()
        except Exception as error:  # noqa: BLE001 - see `__init__`
            raise _translated(error) from None
        finally:
            del cursor  # the database stays locked for as long as one lives

    def write(self, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Apply all changes in one atomic batch; None deletes.

        Raises:
            StoreFull: the device is full; the changelog holds the batch, and restore brings it.
            StoreCorrupt: the files cannot take it for another reason.
        """
        batch = WriteBatch(raw_mode=True)
        for key, value in sorted(changes, key=_KEY):
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        try:
            self._database.write(batch, write_opt=self._write_options)
        except Exception as error:  # noqa: BLE001 - see `__init__`
            raise _translated(error) from None

    def flush(self) -> None:
        """Write what lies in memory to a file, so that a crash loses only what comes later.

        Raises:
            StoreFull, StoreCorrupt: as `write`.
        """
        try:
            self._database.flush()
        except Exception as error:  # noqa: BLE001 - see `__init__`
            raise _translated(error) from None

    def compact(self) -> None:
        """Rewrite the files so that deleted values are gone from them.

        Raises:
            StoreFull, StoreCorrupt: as `write`.
        """
        try:
            self._database.flush()
            self._database.compact_range(None, None)
        except Exception as error:  # noqa: BLE001 - see `__init__`
            raise _translated(error) from None

    def close(self) -> None:
        """Close the database; idempotent. What cannot be written any more stays in the changelog."""
        with suppress(Exception):  # the binding raises nothing narrower, such as for a full device
            self._database.close()


class RocksFolder:
    """`StoreFolder` of one worker and pass: a folder per partition, named by its number."""

    def __init__(self, path: Path) -> None:
        """Take the folder; it is made when the first store is opened."""
        self._path = path

    def open(self, partition: int) -> RocksStore:
        """Open or create a partition's store."""
        return RocksStore(self._path / str(partition))

    def kept(self) -> tuple[int, ...]:
        """Return the partitions of which there is a store, ascending."""
        if not self._path.is_dir():
            return ()
        return tuple(sorted(int(path.name) for path in self._path.iterdir() if path.name.isdecimal()))

    def remove(self, partition: int) -> None:
        """Remove the bytes of a store that is not open."""
        shutil.rmtree(self._path / str(partition), ignore_errors=True)


def _open(path: Path) -> Rdict:
    """Open a database whose values are sealed or random: nothing to compress, much to look for in vain.

    Its buffers and blocks count against the bounds of the process.
    """
    buffers, blocks = _shared()
    table = BlockBasedOptions()
    table.set_block_cache(blocks)
    table.set_bloom_filter(FILTER_BITS, False)  # noqa: FBT003 - the binding takes it by position
    table.set_format_version(5)
    options = Options(raw_mode=True)
    options.create_if_missing(True)  # noqa: FBT003 - see above
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.none())
    options.set_memtable_whole_key_filtering(True)
    options.set_allow_concurrent_memtable_write(False)
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER_PART)
    options.set_write_buffer_manager(buffers)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_open_files(OPEN_FILES_MAX)
    return Rdict(str(path), options=options, access_type=AccessType.read_write())


@cache
def _shared() -> tuple[WriteBufferManager, Cache]:
    """Return what all stores of this process share; a full buffer is written out, nobody is held up."""
    return WriteBufferManager(PROCESS_BUFFER_BYTES, False), Cache(PROCESS_CACHE_BYTES)  # noqa: FBT003 - see above


def _translated(error: Exception) -> LedgerError:
    """Return what an error of the binding means; its text may hold a path, never a value."""
    text = str(error)
    if any(sign in text for sign in _FULL):
        return StoreFull(
            "The state folder is full. Free space; the worker goes on by itself, and nothing is lost."
        )
    kind = text.partition(":")[0] if text[:1].isupper() else type(error).__name__
    return StoreCorrupt(
        f"A local state store cannot be used ({kind}). It is a cache: the worker wipes it and "
        "restores it from its changelog."
    )
