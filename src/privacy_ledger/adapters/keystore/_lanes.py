"""Lanes: references of sessions, and the person that each session was found to be.

In the row of such a reference, `person` is the reference of that person itself, never the token of a
set of references: a lane is found by whom it belongs to, and is none of the person's own references.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import cast

from privacy_ledger.adapters.keystore._cache import KeyCache
from privacy_ledger.adapters.keystore._database import Database
from privacy_ledger.adapters.keystore._journal import Op
from privacy_ledger.adapters.keystore._marks import Marks
from privacy_ledger.adapters.keystore._recorder import Recorder
from privacy_ledger.adapters.keystore._times import microseconds
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import IdentityStatus, LaneKey, ShredReport
from privacy_ledger.ports.runtime import Ids

__all__ = ["LaneTable"]


class LaneTable:
    """The lanes of one vault."""

    def __init__(
        self, store: Database, *, recorder: Recorder, marks: Marks, cache: KeyCache, ids: Ids
    ) -> None:
        """Take the parts of one vault."""
        self._store = store
        self._recorder = recorder
        self._marks = marks
        self._cache = cache
        self._ids = ids

    def join(self, lanes: Mapping[SubjectRef, SubjectRef], *, now: datetime) -> frozenset[SubjectRef]:
        """Join lanes to persons and return those that are theirs now; one of another person stays that one's.

        The end of a reference holds for a lane that is joined to it: such a one is ended here.
        """
        with self._recorder.write():
            persons = self._persons({*lanes, *lanes.values()})
            owners = self._persons({persons[lane] for lane in lanes if lane in persons})
            ended = self._ended({*lanes, *lanes.values()})
            mine = {
                lane: ref
                for lane, ref in lanes.items()
                if lane in persons
                and ref in persons
                and lane not in ended
                and owners.get(persons[lane], persons[ref]) == persons[ref]
            }
            self._store.execute_many(
                "UPDATE refs SET person = ? WHERE ref = ?", [(ref, lane) for lane, ref in mine.items()]
            )
            late = [lane for lane, ref in mine.items() if ref in ended]
            if late:
                self._end(late, at=microseconds(now))
        return frozenset(mine).difference(late)

    def of(self, ref: SubjectRef) -> tuple[SubjectRef, ...]:
        """Return the lanes that are joined to a reference, elder first."""
        with self._store.read():
            return self._of(ref)

    def keys(self, ref: SubjectRef) -> tuple[LaneKey, ...]:
        """Return every key that the lanes of a reference ever had, elder first."""
        with self._store.read():
            self._recorder.require_level()
            rows = self._store.select(
                "SELECT r.ref, k.kid, k.shredded_at FROM refs r JOIN keys k ON k.ref = r.ref "
                "WHERE r.person = ? ORDER BY k.id",
                (ref,),
            )
        return tuple(
            LaneKey(lane, kid, shredded_at is not None)
            for lane, kid, shredded_at in cast("list[tuple[SubjectRef, bytes, int | None]]", rows)
        )

    def end(self, ref: SubjectRef, *, now: datetime) -> ShredReport:
        """End every lane of a reference, and destroy its keys; all of it in one transaction."""
        if not self.of(ref):
            return ShredReport(kids=(), by_group={})
        with self._recorder.write():
            report = self._end(self._of(ref), at=microseconds(now))
            # Also when nothing is left to destroy: an earlier call may have died before it scrubbed.
            self._recorder.require_scrub()
        return report

    def _end(self, lanes: Sequence[SubjectRef], *, at: int) -> ShredReport:
        """Erase the sessions' names, end their references and destroy the keys, inside `write`."""
        self._ask(lanes)
        names = self._store.select(
            "SELECT i.mark FROM temp.wanted w CROSS JOIN identities i ON i.ref = w.a WHERE i.status = ?",
            (IdentityStatus.ACTIVE,),
        )
        marks = [mark for (mark,) in cast("list[tuple[bytes]]", names)]
        if marks:
            # Under an id of their own: whoever returns gets no session back.
            erasure = self._ids.token()
            self._recorder.record(Op.ERASE, marks, at=at, erasure=erasure)
            self._ask(marks)
            self._store.execute(
                "UPDATE identities SET status = ?, erasure = ? WHERE mark IN (SELECT a FROM temp.wanted w)",
                (IdentityStatus.ERASED, erasure),
            )
        held = self._ended(lanes)
        ends = [self._marks.ref(lane) for lane in lanes if lane not in held]
        if ends:
            self._recorder.record(Op.END, ends, at=at)
            for mark in ends:
                self._recorder.end(mark, at=at)
            self._cache.drop_sealing()
        return self._shred(lanes, at=at)

    def _shred(self, lanes: Sequence[SubjectRef], *, at: int) -> ShredReport:
        self._ask(lanes)
        rows = cast(
            "list[tuple[int, bytes, SubjectRef, str, int]]",
            self._store.select(
                "SELECT k.id, k.kid, k.ref, k.grp, k.generation FROM temp.wanted w "
                "CROSS JOIN keys k ON k.ref = w.a WHERE k.shredded_at IS NULL"
            ),
        )
        if rows:
            self._recorder.record_shred([kid for _, kid, *_ in rows], at=at)
            self._recorder.destroy([key_id for key_id, *_ in rows], at=at)
            self._cache.evict([(kid, ref, group, number) for _, kid, ref, group, number in rows])
        by_group: dict[str, int] = {}
        for *_, group, _ in rows:
            by_group[group] = by_group.get(group, 0) + 1
        return ShredReport(kids=tuple(kid.hex() for _, kid, *_ in rows), by_group=by_group)

    def _of(self, ref: SubjectRef) -> tuple[SubjectRef, ...]:
        rows = self._store.select("SELECT ref FROM refs WHERE person = ? ORDER BY id", (ref,))
        return tuple(lane for (lane,) in cast("list[tuple[SubjectRef]]", rows))

    def _persons(self, refs: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return whose each known reference is."""
        self._ask(refs)
        rows = self._store.select(
            "SELECT r.ref, r.person FROM temp.wanted w CROSS JOIN refs r ON r.ref = w.a"
        )
        return dict(cast("list[tuple[bytes, bytes]]", rows))

    def _ended(self, refs: Iterable[SubjectRef]) -> frozenset[SubjectRef]:
        """Return those that were ended."""
        marks = {self._marks.ref(ref): ref for ref in refs}
        self._ask(marks)
        rows = self._store.select("SELECT e.mark FROM temp.wanted w CROSS JOIN ended e ON e.mark = w.a")
        return frozenset(marks[mark] for (mark,) in cast("list[tuple[bytes]]", rows))

    def _ask(self, values: Iterable[bytes]) -> None:
        self._store.ask((number, value, None, None) for number, value in enumerate(values))
