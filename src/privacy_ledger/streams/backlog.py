"""The backlog of a pass: what held subjects have still to do, in slices, first in first out.

A fact that removes or lifts begins work on its subject: a sweep over the index lets the cuts
pass, a refold folds what stays again from empty state, and then what waited meanwhile is applied
in the order of the log, with the ticks in between. A cycle serves what its budget allows; the
rest stays in hand, and newer records of the subject wait behind it. So the answer is the same
whatever the budget: nobody decides on a subject before its earlier facts have had their effect.
"""

from collections.abc import Container
from itertools import islice
from typing import Final, Protocol

from msgspec import structs

from privacy_ledger.domain.events import RecordDiscarded
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import REF_BYTES, Category, SubjectRef, month_of
from privacy_ledger.streams.held import (
    HELD,
    TICKS,
    WAITING,
    Busy,
    Cut,
    Discard,
    Parked,
    Sweep,
    Then,
    busy_of,
    offset_of,
    place,
)
from privacy_ledger.streams.protocol import Serving
from privacy_ledger.streams.record import Broken, Erased, Record, Undecodable
from privacy_ledger.streams.removal import Collected, Removal, due_months
from privacy_ledger.streams.sparing import released, retired, served
from privacy_ledger.streams.states import (
    FROZEN,
    INDEX,
    META,
    PERMISSIONS,
    TIMERS,
    Meta,
    Moment,
    Workspace,
)

__all__ = ["READ_SLICE", "Backlog", "Decider"]

READ_SLICE: Final = 500
"""At most so many records are read again at once."""
COLLECTED_MAX: Final = 1000
"""Of so many subjects is known where their records lie; then all are swept anew."""
_NO_META: Final = Meta()
_UNKNOWN: Final = Permissions()


class Decider(Protocol):
    """The fold, as its backlog sees it."""

    def book(self, moment: Moment) -> Rules:
        """Return the rules of a moment."""
        ...

    def moment(self, work: Workspace) -> Moment:
        """Return the time and the rules in force."""
        ...

    def decide(self, work: Workspace, record: Record, *, moment: Moment) -> None:
        """Apply a subject's record as at a moment; it may begin work on its subject."""
        ...

    def project(self, work: Workspace, record: Record, month: int, *, only: str = "") -> None:
        """Fold an accepted record into every projection that may see it, or into one (`only`)."""
        ...


class Backlog:
    """Work on subjects, and those who wait; over the tables of one pass."""

    def __init__(self, decider: Decider, removal: Removal) -> None:
        """Take who decides, and who removes."""
        self._decider = decider
        self._removal = removal
        self._collected: dict[tuple[SubjectRef, int], Collected] = {}

    # Beginning ------------------------------------------------------------------------------

    def begin(
        self, work: Workspace, ref: SubjectRef, *, offset: int, cuts: tuple[Cut, ...], then: Then
    ) -> None:
        """Begin work on a subject for the fact at `offset`: it takes the place of work in hand."""
        if then == "refold":
            self._removal.clear_projections(work, ref)
        held = work.get(HELD, ref)
        busy = held if isinstance(held, Busy) else Busy(offset, offset)
        if isinstance(held, Parked):  # erased: what waited is refused
            self._wait_again(work, ref, held)
            busy = Busy(offset, held.at, has_waiting=True)
        work.put(HELD, ref, structs.replace(busy, sweep=Sweep(cuts, then), folded=None, only=""))

    def join(self, work: Workspace, ref: SubjectRef, name: str, *, position: int) -> None:
        """Begin to fold a subject's live records into one processor, which is being brought up.

        A parked subject is taken up again on the way. One that is busy comes to its end first.
        """
        if work.get(HELD, ref) is None:
            work.put(HELD, ref, Busy(position, position, Sweep((), "refold"), only=name))
        else:
            self.retake(work, ref, only=name)

    def retake(self, work: Workspace, ref: SubjectRef, *, only: str = "") -> None:
        """Take a parked subject up again: its record and all that waited go on, in order.

        `only`: before that, its live records are folded into this processor.
        """
        held = work.get(HELD, ref)
        if not isinstance(held, Parked):
            return
        if held.tag:
            self._removal.clear_projections(work, ref)
            only = ""
        self._wait_again(work, ref, held)
        busy = Busy(
            held.offset, held.at, Sweep((), "refold") if held.tag or only else None,
            discards=held.discards, has_waiting=True, tries=held.tries + 1, only=only,
        )  # fmt: skip
        work.put(HELD, ref, busy)

    def _wait_again(self, work: Workspace, ref: SubjectRef, parked: Parked) -> None:
        """Put a parked record that was never accepted before all that waits behind it."""
        if not parked.tag:
            work.put(WAITING, place(ref, parked.offset), parked.moment)

    # Waiting --------------------------------------------------------------------------------

    def hold(self, work: Workspace, record: Record, held: Busy | Parked) -> bool:
        """Let a record of a held subject wait; return whether it sets the subject going.

        Only the discard of the parked record does.
        """
        ref, body = record.ref, record.body
        work.put(WAITING, place(ref, record.offset), self._decider.moment(work))
        if isinstance(body, RecordDiscarded):
            discard = Discard(record.offset, bytes.fromhex(body.record), body.request)
            held = structs.replace(held, discards=(*held.discards, discard))
            work.put(HELD, ref, held)
        if isinstance(held, Busy):
            if not held.has_waiting:
                work.put(HELD, ref, structs.replace(held, has_waiting=True))
            return False
        if isinstance(body, RecordDiscarded) and self._frees(work, ref, held, body):
            self.retake(work, ref)
            return True
        return False

    def _frees(self, work: Workspace, ref: SubjectRef, parked: Parked, fact: RecordDiscarded) -> bool:
        """Return whether a discard names the parked record and its request is new."""
        used = (work.get(PERMISSIONS, ref) or _UNKNOWN).requests
        return bytes.fromhex(fact.record) == parked.record_id and fact.request not in used

    def note_tick(self, work: Workspace, offset: int, *, rung: Container[SubjectRef]) -> set[SubjectRef]:
        """Let a tick wait for each subject that is held or restricted; return them.

        One that says nothing new is not noted: same month, same rules, and no hold of theirs `rung`.
        """
        frozen = {SubjectRef(ref) for ref, _ in work.scan(HELD, b"")}
        frozen.update(SubjectRef(ref) for ref, _ in work.scan(FROZEN, b""))
        moment = self._decider.moment(work)
        adopted_at = (work.get(META, b"") or _NO_META).adopted_at
        for ref in sorted(frozen):
            ticks = work.scan(TICKS, ref)
            says_more = ref in rung and work.get(HELD, ref) is not None
            if ticks and not says_more and _says_nothing_new(ticks[-1], moment, adopted_at):
                continue
            work.put(TICKS, place(ref, offset), moment)
            busy = busy_of(work, ref)
            if busy is not None and not busy.has_waiting:
                work.put(HELD, ref, structs.replace(busy, has_waiting=True))
        return frozen

    def take_ticks(self, work: Workspace, ref: SubjectRef, *, before: int) -> list[Cut]:
        """Take the ticks that waited for a lift, each as a cut under the rules of its own offset."""
        cuts = []
        for key, moment in work.scan(TICKS, ref):
            offset = offset_of(key)
            if offset >= before:
                break
            work.remove(TICKS, key)
            if moment.last_tick is not None:
                due = due_months(self._decider.book(moment), at=moment.last_tick)
                cuts.append(Cut(Refusal.RETENTION, offset, due=due))
        return cuts

    # Parking --------------------------------------------------------------------------------

    def set_aside(
        self, work: Workspace, record: Record, body: Undecodable | Broken, *, tag: bytes, is_live: bool
    ) -> bool:
        """Park the subject of a record that cannot be folded, unless a discard further on names it.

        `tag` names a record that can be decided on, `is_live` says that it was. Return whether the
        record is passed over.
        """
        ref = record.ref
        held = work.get(HELD, ref)
        discards = () if held is None else held.discards
        claim = self._claim(work, record, discards, tag)
        if held is not None and claim is not None:
            claimed = structs.replace(claim, tag=tag)
            others = tuple(claimed if one is claim else one for one in discards)
            work.put(HELD, ref, structs.replace(held, discards=others))
            return True
        reason = body.reason if isinstance(body, Undecodable) else "step"
        parked_tag = tag if is_live else b""
        self._park(work, ref, reason, offset=record.offset, record_id=record.record_id, tag=parked_tag)
        return False

    def _claim(
        self, work: Workspace, record: Record, discards: tuple[Discard, ...], tag: bytes
    ) -> Discard | None:
        """Return the discard that waits for a record and will have its effect, or None.

        Evidence that was accepted, or can be, stays, whoever discards it: what it allowed may live. So
        does what the law keeps.
        """
        rules = self._decider.book(self._decider.moment(work))
        if tag and record.category is not None and _stays(record.category, rules):
            return None
        used = (work.get(PERMISSIONS, record.ref) or _UNKNOWN).requests
        mine = [one for one in discards if one.record_id == record.record_id]
        return next((one for one in mine if one.tag or one.request not in used), None)

    def _park(
        self, work: Workspace, ref: SubjectRef, reason: str, *, offset: int, record_id: bytes, tag: bytes
    ) -> None:
        """Park a subject at a record; with a `tag` the record is live, and only its refold failed."""
        busy = busy_of(work, ref) or Busy(offset, offset)
        parked = Parked(
            offset, record_id, reason, self._decider.moment(work),
            at=busy.at if tag else offset - 1, tag=tag, discards=busy.discards, tries=busy.tries,
        )  # fmt: skip
        work.put(HELD, ref, parked)

    def _park_if_in_vain(self, work: Workspace, ref: SubjectRef, discard: Discard) -> None:
        """Park a subject whose record was passed over for a discard that had no effect.

        Its request had been used in between, so the record lives, and nobody can fold it.
        """
        busy = busy_of(work, ref)
        row = work.get(INDEX, ref + discard.tag)
        if (work.get(PERMISSIONS, ref) or _UNKNOWN).is_ended:
            return  # nothing of an erased person is folded: what the law keeps holds nobody up
        is_live = row is not None and row.record_id == discard.record_id
        if busy is not None and busy.sweep is None and row is not None and is_live:
            self._park(
                work, ref, "step", offset=row.offset, record_id=row.record_id, tag=discard.tag
            )  # fmt: skip

    # Serving --------------------------------------------------------------------------------

    def oldest(self, work: Workspace) -> list[SubjectRef]:
        """Return the subjects with work in hand, oldest first."""
        busy = [(held.since, ref) for ref, held in work.scan(HELD, b"") if isinstance(held, Busy)]
        return [SubjectRef(ref) for _, ref in sorted(busy)]

    def forget(self, work: Workspace) -> None:
        """Forget where the records of subjects lie whose work is done.

        Where `work` is never committed, they are looked for again.
        """
        for ref, at in list(self._collected):
            busy = busy_of(work, ref)
            if busy is None or busy.at != at:
                del self._collected[ref, at]

    def serve(self, work: Workspace, ref: SubjectRef, left: int) -> Serving[int]:
        """Go on with the work on a subject until it is done or parked, or nothing is left.

        Return what is left of the budget.
        """
        left = yield from self._sweep_and_refold(work, ref, left)
        while left > 0 and (busy := busy_of(work, ref)) is not None:
            waiting = self._waiting(work, ref, busy, min(left, READ_SLICE))
            if not waiting:
                work.remove_or_forget(HELD, ref)
                break
            records = iter((yield tuple(offset for offset, is_tick, _ in waiting if not is_tick)))
            record = next(records, None)
            for offset, is_tick, moment in waiting:
                discard = _claimed_by(work, ref, offset)
                if not left or not _is_free(work, ref, offset):
                    break
                left -= 1
                if is_tick:
                    self._pass_tick(work, ref, offset, moment)
                else:
                    work.remove(WAITING, place(ref, offset))
                    if record is not None and record.offset == offset:
                        self._decider.decide(work, record, moment=moment)
                        record = None
                    if discard is not None:
                        self._park_if_in_vain(work, ref, discard)
                left = yield from self._sweep_and_refold(work, ref, left)
                if record is None:
                    record = next(records, None)
        return left

    def _waiting(
        self, work: Workspace, ref: SubjectRef, busy: Busy, count: int
    ) -> list[tuple[int, bool, Moment]]:
        """Return the next of what waits for a subject, in order: (offset, is it a tick, its moment)."""
        if not busy.has_waiting:
            return []
        start = (busy.at + 1).to_bytes(8, "big")
        records = islice(work.walk(WAITING, ref, start=start), count)
        ticks = islice(work.walk(TICKS, ref, start=start), count)
        found = [(offset_of(key), False, moment) for key, moment in records]
        found += [(offset_of(key), True, moment) for key, moment in ticks]
        return sorted(found, key=lambda one: one[0])[:count]

    def _pass_tick(self, work: Workspace, ref: SubjectRef, offset: int, moment: Moment) -> None:
        """Let one tick pass for one subject; while it is restricted, the tick goes on waiting.

        A hold that is over ends all the same.
        """
        due: list[bytes] = []
        if not (work.get(PERMISSIONS, ref) or _UNKNOWN).is_restricted:
            work.remove(TICKS, place(ref, offset))
            if moment.last_tick is not None:
                book = self._decider.book(moment)
                due = self._removal.due(work, book, at=moment.last_tick).get(ref, due)
        self.retire(work, ref, due, offset=offset, moment=moment)

    def retire(
        self, work: Workspace, ref: SubjectRef, timers: list[bytes], *, offset: int, moment: Moment
    ) -> None:
        """Begin to remove what fell due for a subject at the tick at `offset`, and what holds put off."""
        rules = self._decider.book(moment)
        cuts, taken = retired(work, ref, timers, offset=offset, moment=moment, rules=rules)
        for timer in taken:
            work.remove(TIMERS, timer)
        if cuts:
            self.begin(work, ref, offset=offset, cuts=cuts, then=_then(cuts))

    def release(
        self, work: Workspace, ref: SubjectRef, before: Permissions, *, offset: int, moment: Moment
    ) -> bool:
        """Begin what holds put off and others do not keep; return whether there is anything."""
        rules = self._decider.book(moment)
        cuts = released(work, ref, before, offset=offset, moment=moment, rules=rules)
        if cuts:
            self.begin(work, ref, offset=offset, cuts=cuts, then=_then(cuts))
        return bool(cuts)

    def _sweep_and_refold(self, work: Workspace, ref: SubjectRef, left: int) -> Serving[int]:
        """Bring the sweep and the refold in hand to their end, within the budget; return what is left."""
        while left > 0 and (busy := busy_of(work, ref)) is not None:
            if busy.sweep is not None:
                left = self._sweep(work, ref, busy, busy.sweep, left)
                continue
            if busy.folded is None:
                break
            found = self._found(ref, busy)
            if not found.is_complete:  # an earlier process found where the records lie
                work.put(HELD, ref, structs.replace(busy, sweep=Sweep((), "refold")))
                continue
            offsets = found.beyond(busy.folded, min(left, READ_SLICE))
            if not offsets:
                work.put(HELD, ref, structs.replace(busy, folded=None, only=""))
                break
            for record in (yield offsets):
                self._fold_again(work, record)
            left -= len(offsets)
            if (busy := busy_of(work, ref)) is not None:
                work.put(HELD, ref, structs.replace(busy, folded=offsets[-1]))
        return left

    def _sweep(self, work: Workspace, ref: SubjectRef, busy: Busy, sweep: Sweep, left: int) -> int:
        """Serve a slice of a sweep; at its end the refold begins, where there is one."""
        if not sweep.after and sweep.then == "rest":
            for cut in sweep.cuts:
                self._removal.drop_parts(work, ref, cut.due)
        found = self._found(ref, busy)
        sweep, left = self._removal.sweep(work, ref, sweep, found, left=left)
        if found.is_complete:
            is_refold = sweep.then == "refold"
            folded = -1 if busy.folded is None else busy.folded
            busy = structs.replace(busy, sweep=None, folded=folded if is_refold else None)
        else:
            busy = structs.replace(busy, sweep=sweep)
        work.put(HELD, ref, busy)
        return left

    def _found(self, ref: SubjectRef, busy: Busy) -> Collected:
        """Return what the sweep that a fact began has found in this process."""
        found = self._collected.get((ref, busy.at))
        if found is None:
            if len(self._collected) > COLLECTED_MAX:
                self._collected.clear()
            found = self._collected[ref, busy.at] = Collected()
        return found

    def _fold_again(self, work: Workspace, record: Record) -> None:
        """Fold one live record again; one that cannot be folded parks its subject.

        A record whose row is gone meanwhile is skipped, and so is one that is discarded further on.
        """
        tag = record.tag
        if isinstance(record.body, Undecodable) and not tag:  # not even its headers can be read
            rows = work.walk(INDEX, record.ref)
            tag = next((key[REF_BYTES:] for key, row in rows if row.offset == record.offset), b"")
        row = work.get(INDEX, record.ref + tag)
        if row is None or row.offset != record.offset or isinstance(record.body, Erased):
            return
        busy = busy_of(work, record.ref)
        if busy is None:  # parked on the way
            return
        purposes = served(work, record.ref, row)
        if purposes is None:  # kept, and used for nothing: it holds nobody up
            return
        if isinstance(record.body, Undecodable | Broken):
            self.set_aside(work, record, record.body, tag=tag, is_live=True)
            return
        self._decider.project(work, structs.replace(record, purposes=purposes), row.month, only=busy.only)


def _stays(category: Category, rules: Rules) -> bool:
    return category is Category.EVIDENCE or rules.duty(category) is not None


def _then(cuts: tuple[Cut, ...]) -> Then:
    """Return what follows cuts: retention drops parts, and of the erased nothing is folded."""
    is_folded = any(not cut.due for cut in cuts) and not any(cut.everything for cut in cuts)
    return "refold_if_cut" if is_folded else "rest"


def _claimed_by(work: Workspace, ref: SubjectRef, offset: int) -> Discard | None:
    """Return the discard at an offset, where a record is passed over because of it."""
    held = work.get(HELD, ref)
    discards = () if held is None else held.discards
    return next((one for one in discards if one.offset == offset and one.tag), None)


def _is_free(work: Workspace, ref: SubjectRef, offset: int) -> bool:
    """Return whether a subject may take up what waited at an offset, and note that it does."""
    busy = busy_of(work, ref)
    if busy is None:
        return False
    discards = tuple(one for one in busy.discards if one.offset > offset)
    work.put(HELD, ref, structs.replace(busy, at=offset, discards=discards))
    return True


def _says_nothing_new(tick: tuple[bytes, Moment], moment: Moment, adopted_at: int) -> bool:
    key, earlier = tick
    if earlier.last_tick is None or moment.last_tick is None:
        return False
    is_same_month = month_of(earlier.last_tick) == month_of(moment.last_tick)
    return is_same_month and adopted_at < offset_of(key)
