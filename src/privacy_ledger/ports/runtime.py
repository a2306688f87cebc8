"""Small ports: time, randomness, state, and what may be put around any port."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

__all__ = ["Clock", "Ids", "StateStore", "StoreFolder", "Wrap"]

P = TypeVar("P")


class Clock(Protocol):
    """The time of a home or a cluster; a trial home runs on a given one at real pace."""

    def now(self) -> datetime:
        """Return the current UTC time."""
        ...


class Ids(Protocol):
    """Random identifiers."""

    def token(self, size: int = 16) -> bytes:
        """Return `size` random bytes."""
        ...


class StateStore(Protocol):
    """The cache of one pass and partition: raw bytes, one ordered key space.

    It may be behind its changelog, never ahead of it. Values are sealed before they come here.
    """

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of these keys, in order.

        Raises:
            StoreCorrupt: the store's own files are damaged; it never answers from such a file.
        """
        ...

    def scan(self, prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield every (key, value) whose key starts with `prefix`, in key order.

        It begins at `prefix` followed by `start`. Raises `StoreCorrupt` as `get_many` does.
        """
        ...

    def write(self, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Apply all changes in one atomic batch; None deletes."""
        ...

    def flush(self) -> None:
        """Make what was written survive a crash; without it the newest batches may be lost as a whole."""
        ...

    def compact(self) -> None:
        """Rewrite files so that deleted values are gone from them; may take a while."""
        ...

    def close(self) -> None:
        """Close files; idempotent."""
        ...


class StoreFolder(Protocol):
    """Where one worker keeps the stores of one pass: no other process opens them."""

    def open(self, partition: int) -> StateStore:
        """Open or create a partition's store; at most once at a time."""
        ...

    def kept(self) -> Sequence[int]:
        """Return the partitions of which there is a store, open or not, ascending."""
        ...

    def remove(self, partition: int) -> None:
        """Remove the bytes of a store that is not open; may take a while."""
        ...


class Wrap(Protocol):
    """What a caller puts around the ports of a process as they are wired.

    Names: `ids`, `log`, `vault`, `keeper`, `lock`, and `store.PASS.PARTITION` for each state store.
    """

    def __call__(self, name: str, port: P) -> P:
        """Return the port itself, or what stands in front of it with the same methods."""
        ...
