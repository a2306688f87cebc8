"""Somebody with very many records is lifted: others' records are committed in between, cycle by cycle."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import msgspec

from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import partition_of
from privacy_ledger.engine import cycle
from privacy_ledger.engine.cycle import POSITION_KEY
from privacy_ledger.interfaces.cli.operate import verify
from privacy_ledger.ports.log import NewRecord, Row
from privacy_ledger.ports.passes import PassPosition
from privacy_ledger.streams import progress, subject_view
from tests.unit.home import home, played

P = TypeVar("P")
RECORDS: Final = 6000
PURPOSE: Final = "improve.analyse"
OTHERS: Final = tuple(map(str, range(20, 60)))


class _Watched:
    """A log that tells how much each transaction of the core pass had read again, and lets data flow."""

    def __init__(self, log: object) -> None:
        self._log = cast("Any", log)
        self._read = 0
        self.cycles: list[tuple[int, PassPosition]] = []
        self.between: Callable[[], Awaitable[None]] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    async def read_at(self, topic: str, partition: int, offsets: Sequence[int]) -> tuple[Row, ...]:
        self._read += len(offsets) if topic == LEDGER_EVENTS else 0
        rows: tuple[Row, ...] = await self._log.read_at(topic, partition, offsets)
        return rows

    async def append_atomically(
        self, writes: Sequence[tuple[str, NewRecord]], *, writer: str
    ) -> Mapping[tuple[str, int], int]:
        ends: Mapping[tuple[str, int], int] = await self._log.append_atomically(writes, writer=writer)
        if writer.startswith("core."):
            for _, record in writes:
                if record.key == POSITION_KEY:
                    position = msgspec.msgpack.decode(record.value or b"", type=PassPosition)
                    self.cycles.append((self._read, position))
                    self._read = 0
            if self.between is not None:
                await self.between()
        elif writer.startswith("analytics."):
            self._read = 0
        return ends


async def test_a_lift_of_very_many_records_leaves_room_for_others(tmp_path: Path) -> None:
    """No cycle reads more again than its bound, and what others send is committed while it goes on."""
    watched: list[_Watched] = []

    def wrap(name: str, port: P) -> P:
        if name != "log":
            return port
        watched.append(_Watched(port))
        return cast("P", watched[-1])

    async with home(tmp_path, wrap=wrap) as it:
        await it.take(
            [played(name, event=f"e{name}") for name in ("7", *OTHERS)], consents=(PURPOSE,)
        )  # fmt: skip
        place = partition_of(it.ref("7"), it.runtime.partitions)
        other = next(n for n in OTHERS if partition_of(it.ref(n), it.runtime.partitions) == place)
        await it.runtime.passes.settle(await it.subjects.restrict("openedx:user_id:7", ground="accuracy"))
        await it.take([played("7", event=f"m{n}", video=f"v{n}") for n in range(RECORDS)])
        (log,) = watched
        sent: list[int] = []

        async def flow() -> None:
            if log.cycles[-1][1].busy_since is not None and len(sent) < RECORDS // cycle.SLICE:
                offsets = await it.subjects.grant(f"openedx:user_id:{other}", PURPOSE)
                sent.append(offsets[place])

        log.cycles.clear()
        log.between = flow
        lifted = await it.subjects.lift("openedx:user_id:7", notified_at=it.runtime.clock.now())
        await it.runtime.passes.settle(lifted)

        mine = [(read, position) for read, position in log.cycles if position.offset >= lifted[place]]
        busy = [position for _, position in mine if position.busy_since is not None]
        assert len(busy) >= 6
        assert max(read for read, _ in mine) <= cycle.REREADS_PER_CYCLE
        assert sum(read for read, _ in mine) == RECORDS + 2
        assert all(read <= cycle.SLICE for read, position in mine[1:] if position.slices > mine[0][1].slices)
        in_between = [offset for offset in sent if any(position.offset >= offset for position in busy)]
        assert len(in_between) >= 5, "nothing of others was committed while the work was in hand"
        view = await it.runtime.views.get(progress.TABLE, it.ref("7"))
        assert view is not None
        assert sum(len(course.videos) for course in progress.merge(view).values()) == RECORDS
        theirs = await it.runtime.views.get(subject_view.TABLE, it.ref(other))
        assert theirs is not None
        assert subject_view.merge(theirs).counts["consent.granted.v1"] == len(sent) + 1
        log.between = None
        assert (await verify(it.runtime)).is_equal
