"""The state store of an embedded home: the log's own compacted topics, read by key."""

from collections.abc import Iterator, Mapping, Sequence

from privacy_ledger.adapters.local.log import LocalLog

__all__ = ["LogStateStore"]


class LogStateStore:
    """`StateStore` over the changelog itself: there is nothing to restore.

    `routes`: the table's code → (topic, whether the topic's keys carry the code). A cycle's
    writes are in the log before `write` is called, so `write` has nothing left to do.
    """

    def __init__(
        self, log: LocalLog, partition: int, *, own: str, routes: Mapping[bytes, tuple[str, bool]]
    ) -> None:
        """Read partition `partition` of the routed topics; unrouted keys lie in `own`."""
        self._log = log
        self._partition = partition
        self._own = own
        self._routes = routes

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of these keys, in order; one query per run of keys of one table."""
        found: list[bytes | None] = []
        start = 0
        while start < len(keys):
            code, end = keys[start][:1], start
            while end < len(keys) and keys[end][:1] == code:
                end += 1
            topic, keeps = self._routes.get(code, (self._own, True))
            wanted = [key if keeps else key[1:] for key in keys[start:end]]
            found += self._log.latest_many(topic, self._partition, wanted)
            start = end
        return found

    def scan(self, prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield every live (key, value) under a prefix, in key order, from `prefix` + `start` on."""
        topic, keeps = self._routes.get(prefix[:1], (self._own, True))
        if keeps:
            yield from self._log.scan_latest(topic, self._partition, prefix, start=start)
            return
        code = prefix[:1]
        for key, value in self._log.scan_latest(topic, self._partition, prefix[1:], start=start):
            yield code + key, value

    def write(self, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Do nothing: the committed cycle is the state."""

    def flush(self) -> None:
        """Do nothing: the log is durable, and the store reads it."""

    def compact(self) -> None:
        """Do nothing: the log keeps the newest value of a state only, and compacts itself."""

    def close(self) -> None:
        """Do nothing: the log is closed by its owner."""
