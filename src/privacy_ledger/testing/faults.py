"""The fault seam: a process in which every call of log, store, keystore and lock has a number.

A `Seam` is given to the wiring and stands in front of each port. It numbers the calls as they are
made and can end the process at one of them: before the call, after the call took effect but before
its answer arrives, or, for an append to several partitions, when a part of them has it. The end is
`Stopped`, which no code of ours may catch and go on; after it every port is dead: whatever clean-up
code still calls has no effect and is stopped again. Only files and locks are given back, as the
system does for a killed process.

    seam = Seam(stop_at=Point.read("log.append ledger.events.v1 #2 after"))
    async with open_runtime(settings, wrap=seam) as runtime:
        ...
"""

import inspect
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, Final, TypeVar, cast

from msgspec import Struct

from privacy_ledger.ports.log import NewRecord

__all__ = ["EFFECTS", "HOUSEKEEPING", "READS", "Mode", "Point", "Seam", "Stopped", "Write"]

P = TypeVar("P")
R = TypeVar("R")

EFFECTS: Final = {
    "log": frozenset({"append", "append_atomically", "open_writer", "supersede", "provide", "forget"}),
    "vault": frozenset(
        {
            "mint",
            "bind",
            "reopen",
            "erase_identities",
            "join_lanes",
            "end_lanes",
            "sealing_keys",
            "fresh_keys",
            "retire",
            "shred",
            "shred_group",
            "shred_expired",
            "end",
            "secret",
        }
    ),
    "store": frozenset({"write", "flush", "compact"}),
    "lock": frozenset({"try_acquire"}),
    "keeper": frozenset(
        {
            "create_epoch",
            "rewrap",
            "back_up",
            "destroy_epochs",
            "prune_backups",
            "restore",
            "close_report",
            "succeed_epoch",
        }
    ),
}
"""Calls that may leave something behind; a process can end before and after each."""
READS: Final = {
    "log": frozenset(
        {
            "read",
            "read_at",
            "latest",
            "end",
            "first",
            "since",
            "until_readable",
            "latest_many",
            "scan_latest",
            "live_tags",
        }
    ),
    "vault": frozenset(
        {
            "find",
            "refs_of",
            "lanes_of",
            "lane_keys",
            "live_groups",
            "open_keys",
            "is_ended",
            "ended_refs",
            "standing_of",
            "unused_generation",
            "aged_keys",
            "keys_of",
        }
    ),
    "store": frozenset({"get_many", "scan"}),
    "lock": frozenset[str](),
    "keeper": frozenset({"standing", "backups", "released", "reports"}),
}
"""Calls that leave nothing behind: to end before one is to end after it."""
HOUSEKEEPING: Final = {
    "log": frozenset({"partitions", "declare", "release", "start", "close", "compact"}),
    "vault": frozenset({"close", "released_to", "released_to_pass", "forget_idle"}),
    "store": frozenset({"close"}),
    "lock": frozenset({"release"}),
    "keeper": frozenset[str](),
}
"""Calls that are passed on as they are, also after the end: they open and give back."""
_ENDING: Final = frozenset({"close", "release", "partitions"})

_inside: ContextVar[bool] = ContextVar("inside", default=False)
"""Whether a numbered call runs: what it calls itself is part of it, not a call of its own."""


class Stopped(BaseException):
    """The process ended at this point, as SIGKILL ends it: never caught but to be raised again."""


class Mode(StrEnum):
    """Where in a call the process ends."""

    BEFORE = "before"
    PART = "part"
    AFTER = "after"


class Point(Struct, frozen=True):
    """One point at which a process can end: the `number`-th call of that name, from 1."""

    call: str
    number: int
    mode: Mode

    def __str__(self) -> str:
        """Return what `read` reads."""
        return f"{self.call} #{self.number} {self.mode}"

    @classmethod
    def read(cls, text: str) -> "Point":
        """Return the point that a report names; raises `ValueError` where it is none."""
        call, _, rest = text.rpartition(" #")
        number, _, mode = rest.partition(" ")
        return cls(call, int(number), Mode(mode))


class Write(Struct, frozen=True):
    """A record that became durable."""

    topic: str
    record: NewRecord


class _SeededIds:
    """`Ids` that draw the same in every run of a process, so that its points are the same."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def token(self, size: int = 16) -> bytes:
        return self._random.randbytes(size)


class Seam:
    """`Wrap` of one process.

    `points` are those passed so far, `bare` the ports themselves by name, for whoever looks on;
    `stopped_at` is where the process ended. What is set as `phase` stands before the names of the
    calls from then on, which are numbered apart. Calls may come from several threads.
    """

    def __init__(
        self,
        *,
        stop_at: Point | None = None,
        on_stop: Callable[[], object] | None = None,
        on_point: Callable[[Point], object] | None = None,
        on_write: Callable[["Seam", Sequence[Write]], Awaitable[None]] | None = None,
        seed: str | None = None,
    ) -> None:
        """Take where to end and what to do at that moment: `on_stop` sees what a kill would leave.

        `on_point` is told each point before it is passed, and `on_write` after each append what
        became durable. `seed` draws ids that are the same in each run, for logs in which nobody
        else draws from the same seed.
        """
        self._stop_at = stop_at
        self._on_stop = on_stop
        self._on_point = on_point
        self._on_write = on_write
        self._seed = seed
        self._numbers: Counter[str] = Counter()
        self.phase = ""
        self.points: list[Point] = []
        self.bare: dict[str, Any] = {}
        self.stopped_at: Point | None = None

    def __call__(self, name: str, port: P) -> P:
        """Return what stands in front of a port."""
        if name == "ids":
            return port if self._seed is None else cast("P", _SeededIds(self._seed))
        self.bare[name] = port
        return cast("P", _Front(self, name, port))

    # Points ---------------------------------------------------------------------------------

    def number(self, call: str) -> int:
        """Return the number of this call among those of its name."""
        self._numbers[call] += 1
        return self._numbers[call]

    def pass_by(self, point: Point) -> None:
        """Pass a point, or end there.

        Raises:
            Stopped: the process ends here, or has ended before.
        """
        if self.is_due(point):
            self.end_at(point)

    def is_due(self, point: Point) -> bool:
        """Pass a point, and return whether the process is to end there by the caller's hand."""
        self.be_alive()
        if self._on_point is not None:
            self._on_point(point)
        self.points.append(point)
        return point == self._stop_at

    def end_at(self, point: Point) -> None:
        """End the process."""
        self.stopped_at = point
        if self._on_stop is not None:
            self._on_stop()
        raise Stopped(str(point))

    def be_alive(self) -> None:
        """Raise `Stopped` again where the process has ended."""
        if self.stopped_at is not None:
            raise Stopped(str(self.stopped_at))

    async def wrote(self, writes: Sequence[tuple[str, NewRecord]]) -> None:
        """Tell whoever looks on what became durable."""
        if self._on_write is not None:
            await self._on_write(self, [Write(topic, record) for topic, record in writes])


class _Front:
    """What stands in front of one port."""

    def __init__(self, seam: Seam, name: str, port: object) -> None:
        self._seam = seam
        self._name = name
        self._kind = name.partition(".")[0]
        self._port = port

    def __getattr__(self, method: str) -> object:
        found = getattr(self._port, method)
        if method in HOUSEKEEPING[self._kind]:
            return found if method in _ENDING else self._while_alive(found)
        is_read = method in READS[self._kind]
        if not is_read and method not in EFFECTS[self._kind]:
            raise NotImplementedError(f"Say in {__name__} whether {self._kind}.{method} has an effect.")
        if method == "append":
            return self._append
        if method == "append_atomically":
            return self._append_atomically
        front = self._waiting if inspect.iscoroutinefunction(found) else self._at_once
        return front(found, is_read=is_read)

    def _while_alive(self, call: Callable[..., R]) -> Callable[..., R]:
        def called(*args: object, **kwargs: object) -> R:
            self._seam.be_alive()
            return call(*args, **kwargs)

        return called

    def _label(self, method: str, first: object) -> str:
        """Return the name of a call: phase, port, method, and the topic or writer if there is one."""
        words = (self._seam.phase, f"{self._name}.{method}", first if isinstance(first, str) else "")
        return " ".join(word for word in words if word)

    def _at_once(self, call: Callable[..., R], *, is_read: bool) -> Callable[..., R]:
        def called(*args: object, **kwargs: object) -> R:
            if _inside.get():
                return call(*args, **kwargs)
            label = self._label(call.__name__, args[0] if args else None)
            number = self._seam.number(label)
            self._seam.pass_by(Point(label, number, Mode.BEFORE))
            token = _inside.set(True)
            try:
                answer = call(*args, **kwargs)
                if isinstance(answer, Iterator):  # what it reads on the way is part of the call
                    answer = cast("R", iter(list(answer)))
            finally:
                _inside.reset(token)
            if not is_read:
                self._seam.pass_by(Point(label, number, Mode.AFTER))
            return answer

        return called

    def _waiting(self, call: Callable[..., Awaitable[R]], *, is_read: bool) -> Callable[..., Awaitable[R]]:
        async def called(*args: object, **kwargs: object) -> R:
            if _inside.get():
                return await call(*args, **kwargs)
            label = self._label(call.__name__, args[0] if args else None)
            number = self._seam.number(label)
            self._seam.pass_by(Point(label, number, Mode.BEFORE))
            answer = await self._within(call(*args, **kwargs))
            self._seam.be_alive()
            if not is_read:
                self._seam.pass_by(Point(label, number, Mode.AFTER))
            return answer

        return called

    async def _append(self, topic: str, records: Sequence[NewRecord]) -> tuple[int, ...]:
        """Append; a process may also end when all partitions but the last have their records.

        So it can on Kafka, where each partition has a batch of its own; whoever appends must be
        able to live with that on either log.
        """
        port = cast("Any", self._port)
        label = self._label("append", topic)
        number = self._seam.number(label)
        self._seam.pass_by(Point(label, number, Mode.BEFORE))
        partitions = sorted({record.partition for record in records})
        point = Point(label, number, Mode.PART)
        if len(partitions) > 1 and self._seam.is_due(point):
            part = [record for record in records if record.partition != partitions[-1]]
            await self._within(port.append(topic, part))
            await self._seam.wrote([(topic, record) for record in part])
            self._seam.end_at(point)
        offsets: tuple[int, ...] = await self._within(port.append(topic, records))
        await self._seam.wrote([(topic, record) for record in records])
        self._seam.pass_by(Point(label, number, Mode.AFTER))
        return offsets

    async def _append_atomically(
        self, writes: Sequence[tuple[str, NewRecord]], *, writer: str
    ) -> Mapping[tuple[str, int], int]:
        port = cast("Any", self._port)
        label = self._label("append_atomically", writer)
        number = self._seam.number(label)
        self._seam.pass_by(Point(label, number, Mode.BEFORE))
        ends: Mapping[tuple[str, int], int] = await self._within(
            port.append_atomically(writes, writer=writer)
        )
        await self._seam.wrote(writes)
        self._seam.pass_by(Point(label, number, Mode.AFTER))
        return ends

    async def _within(self, call: Awaitable[R]) -> R:
        token = _inside.set(True)
        try:
            return await call
        finally:
            _inside.reset(token)
