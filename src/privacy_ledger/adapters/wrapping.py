"""What a caller may put around ports as they are wired: nothing, by default."""

from typing import TypeVar

from privacy_ledger.ports.runtime import StateStore, StoreFolder, Wrap

__all__ = ["WrappedFolder", "as_it_is"]

P = TypeVar("P")


def as_it_is(name: str, port: P) -> P:  # noqa: ARG001 - a `Wrap` that puts nothing around it
    """Return the port itself."""
    return port


class WrappedFolder:
    """`StoreFolder` whose stores are wrapped one by one, as NAME.PARTITION."""

    def __init__(self, inner: StoreFolder, wrap: Wrap, name: str) -> None:
        """Take the folder itself."""
        self._inner = inner
        self._wrap = wrap
        self._name = name
        self.kept = inner.kept
        self.remove = inner.remove

    def open(self, partition: int) -> StateStore:
        """Open or create a partition's store."""
        return self._wrap(f"{self._name}.{partition}", self._inner.open(partition))
