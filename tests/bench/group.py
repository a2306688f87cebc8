"""Several of our workers in one group, held until all partitions are taken over."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final, Self

from tests.bench.measure import Figure, together
from tests.bench.processes import Child, ChildFailed
from tests.bench.tasks import EngineWork, Go, Status

__all__ = ["Group", "is_settled"]

SETTLE_TIMEOUT_S: Final = 300.0
SETTLED_S: Final = 0.5
"""What looks settled may be about to rebalance: it has to look so for this long."""
POLL_S: Final = 0.05


def is_settled(statuses: Sequence[Status | None], *, partitions: int) -> bool:
    """Return whether each partition has one owner, each worker its part, and all came to what is held."""
    known = [status for status in statuses if status is not None]
    owned = [number for status in known for number in status.running]
    return (
        len(known) == len(statuses)
        and all(status.is_joined and status.is_caught_up for status in known)
        and sorted(owned) == list(range(partitions))
        and (partitions < len(known) or all(status.running for status in known))
    )


class Group:
    """Started with the block, killed at its end unless `end` was called."""

    def __init__(self, tasks: Sequence[EngineWork]) -> None:
        """Take one task for each worker."""
        self._tasks = tasks
        self._stack = ExitStack()
        self._workers: list[Child] = []

    def __enter__(self) -> Self:
        self._workers = [self._stack.enter_context(Child(task)) for task in self._tasks]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def settle(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Wait until every partition is folded up to what is held, by its one owner.

        Raises:
            ChildFailed: a worker ended, or they did not settle in time.
        """
        statuses: list[Status | None] = [None] * len(self._workers)
        deadline = clock() + SETTLE_TIMEOUT_S
        since = None
        while since is None or clock() - since < SETTLED_S:
            for number, worker in enumerate(self._workers):
                for status in worker.heard(Status):
                    statuses[number] = status
                    since = None
            if not is_settled(statuses, partitions=self._tasks[0].partitions):
                since = None
            elif since is None:
                since = clock()
            if clock() > deadline:
                raise ChildFailed(f"The workers did not settle in {SETTLE_TIMEOUT_S:.0f} s: {statuses}")
            time.sleep(POLL_S)

    def go(self, targets: tuple[int, ...]) -> Figure:
        """Let them fold up to these offsets; return what it cost all of them together."""
        self.tell_go(targets)
        return self.figure()

    def tell_go(self, targets: tuple[int, ...]) -> None:
        """Let them fold up to these offsets, which may not be written yet."""
        for worker in self._workers:
            worker.tell(Go(targets=targets))

    def figure(self) -> Figure:
        """Return what it cost all of them together to come to the targets."""
        return together([_figure(worker) for worker in self._workers])

    def end(self) -> None:
        """Let them leave the group in peace."""
        for worker in self._workers:
            worker.end(Figure)


def _figure(worker: Child) -> Figure:
    while isinstance(said := worker.hear(Figure | Status), Status):  # type: ignore[arg-type] # a union
        continue
    return said
