"""Data keys: created, opened and destroyed, in batches."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final, cast

from msgspec import Struct

from privacy_ledger.adapters.keystore._cache import MAX_USES, KeyCache, KeyName, Slot
from privacy_ledger.adapters.keystore._database import Cell, Database
from privacy_ledger.adapters.keystore._gate import Gate
from privacy_ledger.adapters.keystore._marks import Marks
from privacy_ledger.adapters.keystore._material import Wrapper, commitment, key_place
from privacy_ledger.adapters.keystore._recorder import Recorder, groups_of
from privacy_ledger.adapters.keystore._times import microseconds
from privacy_ledger.domain.errors import InvariantViolation, RefusedByPolicy
from privacy_ledger.domain.expiry import GENERATION_AGE
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import Category, SubjectRef
from privacy_ledger.ports.keys import DataKey, KeyWant, Shredded, ShredReport, Withheld

__all__ = ["KeyTable"]

SHRED_SLICE: Final = 1000
_AGE: Final = GENERATION_AGE // timedelta(microseconds=1)


class _Row(Struct):
    """A key's row as found for a want; `top` is the highest generation of its group."""

    top: int | None
    kid: bytes | None
    generation: int
    is_single: int
    epoch: int
    wrapped: bytes
    created_at: int
    used: int
    shredded_at: int | None


class KeyTable:
    """The keys of one keystore, through one process's cache."""

    def __init__(
        self, store: Database, *, wrapper: Wrapper, recorder: Recorder, marks: Marks, cache: KeyCache
    ) -> None:
        """Take the parts of one vault."""
        self._store = store
        self._wrapper = wrapper
        self._recorder = recorder
        self._marks = marks
        self._cache = cache

    # Sealing -----------------------------------------------------------------------------------

    def sealing(self, wants: Sequence[KeyWant], *, now: datetime) -> tuple[DataKey, ...]:
        """Return a key per want; equal wants are answered once and counted each."""
        at = microseconds(now)
        slots = [(want.ref, want.group, want.generation) for want in wants]
        uses: dict[Slot, int] = {}
        for slot in slots:
            uses[slot] = uses.get(slot, 0) + 1
        found: dict[Slot, DataKey] = {}
        missing: list[Slot] = []
        for slot, count in uses.items():
            key = self._cache.sealing(slot, uses=count, at=at)
            if key is None:
                missing.append(slot)
            else:
                found[slot] = key
        self._cache.looked_up(asked=len(uses), missed=len(missing))
        if missing:
            self._provide(missing, uses, found, at)
        return tuple(found[slot] for slot in slots)

    def _provide(
        self, slots: Sequence[Slot], uses: dict[Slot, int], found: dict[Slot, DataKey], at: int
    ) -> None:
        with self._store.read():
            seen = self._store.others_changes()
            absent = self._take(slots, uses, found, at)
        if not absent:
            return
        with self._store.write():
            if self._store.others_changes() != seen:
                # Another process may have made them, or ended the person, since the read.
                absent = self._take(list(absent), uses, found, at)
            made = self._create(dict.fromkeys(absent.values(), 0), at=at)
        for slot, name in absent.items():
            self._keep(slot, made[name], used=0, uses=uses[slot], created_at=at)
            found[slot] = made[name]

    def _take(
        self, slots: Sequence[Slot], uses: dict[Slot, int], found: dict[Slot, DataKey], at: int
    ) -> dict[Slot, "_Name"]:
        """Put the live keys into `found`; return the generation to create for each other slot."""
        self._recorder.require_level()
        self._refuse_ended({(ref, group) for ref, group, _ in slots})
        absent: dict[Slot, _Name] = {}
        for number, row in self._rows(slots):
            slot = slots[number]
            ref, group, _ = slot
            to_create = _to_create(slot, row, uses=uses[slot] + self._cache.pending(row.kid or b""), at=at)
            if to_create is not None:
                absent[slot] = (ref, group, to_create)
                continue
            key = self._open_row(ref, group, row)
            self._keep(slot, key, used=row.used, uses=uses[slot], created_at=row.created_at)
            found[slot] = key
        return absent

    def _keep(self, slot: Slot, key: DataKey, *, used: int, uses: int, created_at: int) -> None:
        self._cache.count(key.kid, uses)
        self._cache.keep_sealing(
            slot,
            key,
            uses=used + self._cache.pending(key.kid),
            retires_at=created_at + _AGE if slot[2] is None else None,
        )

    def _rows(self, slots: Sequence[Slot]) -> Iterable[tuple[int, _Row]]:
        self._store.ask((number, *slot) for number, slot in enumerate(slots))
        rows = self._store.select(
            "SELECT t.slot, t.top, k.kid, k.generation, k.is_single, k.epoch, m.wrapped, k.created_at, "
            "k.used, k.shredded_at FROM (SELECT slot, a, b, n, (SELECT max(generation) FROM keys "
            "WHERE ref = a AND grp = b) AS top FROM temp.wanted w) t "
            "LEFT JOIN keys k ON k.ref = t.a AND k.grp = t.b AND k.generation = coalesce(t.n, t.top) "
            "LEFT JOIN material m ON m.id = k.id"
        )
        return map(_to_row, cast("list[_RawRow]", rows))

    def _open_row(self, ref: SubjectRef, group: str, row: _Row) -> DataKey:
        kid = row.kid or b""
        place = key_place(ref, group, row.generation)
        secret = self._wrapper.unwrap_committed(row.epoch, row.wrapped, place, kid=kid)
        return DataKey(ref, group, row.generation, kid, secret)

    def _refuse_ended(self, wants: Collection[tuple[SubjectRef, str]]) -> None:
        marks = {ref: self._marks.ref(ref) for ref, _ in wants}
        self._store.ask((number, marks[ref], group, None) for number, (ref, group) in enumerate(wants))
        rows = self._store.select(
            "SELECT w.b, coalesce(s.names, '') FROM temp.wanted w CROSS JOIN ended e ON e.mark = w.a "
            "LEFT JOIN spared s ON s.mark = e.mark"
        )
        if any(group not in groups_of(names) for group, names in cast("list[tuple[str, str]]", rows)):
            raise RefusedByPolicy(
                Refusal.SUBJECT_ERASED, "A reference was ended by an erasure: no key is made for it again."
            )

    def fresh(self, wants: Sequence[tuple[SubjectRef, str]], *, now: datetime) -> tuple[DataKey, ...]:
        """Return a new generation for each want, in order; equal wants get one each."""
        at = microseconds(now)
        groups = list(dict.fromkeys(wants))
        with self._store.write():
            self._refuse_ended(set(groups))
            tops = {
                groups[number]: -1 if row.top is None else row.top
                for number, row in self._rows([(ref, group, None) for ref, group in groups])
            }
            names: list[_Name] = []
            for want in wants:
                tops[want] += 1
                names.append((*want, tops[want]))
            made = self._create(dict.fromkeys(names, 1), at=at, is_single=True)
        keys = tuple(made[name] for name in names)
        for key in keys:
            self._cache.keep(key.kid, key)
        return keys

    def retire(self, ref: SubjectRef, *, purpose: str, category: Category | None) -> dict[str, int]:
        """Let the keys of groups for a purpose, or of a category, be as those of one record.

        They seal no other. Return the generation after the highest of each of these groups.
        """
        with self._recorder.write():
            tops = cast(
                "list[tuple[str, int]]",
                self._store.select(
                    "SELECT grp, max(generation) FROM keys WHERE ref = ? GROUP BY grp", (ref,)
                ),
            )
            groups = {name: top + 1 for name, top in tops if _is_meant(name, purpose, category)}
            rows = cast(
                "list[tuple[int, bytes, str, int]]",
                self._store.select(
                    "SELECT id, kid, grp, generation FROM keys "
                    "WHERE ref = ? AND is_single = 0 AND shredded_at IS NULL",
                    (ref,),
                ),
            )
            mine = [row for row in rows if row[2] in groups]
            if mine:
                revision = self._store.next_revision()
                self._store.announce()
                self._store.ask((number, None, None, row[0]) for number, row in enumerate(mine))
                self._store.execute(
                    "UPDATE keys SET is_single = 1, revision = ? WHERE id IN (SELECT n FROM temp.wanted w)",
                    (revision,),
                )
            self._cache.evict([(kid, ref, group, number) for _, kid, group, number in mine])
        return groups

    def live_groups(self, ref: SubjectRef) -> tuple[str, ...]:
        """Return the groups in which a reference has a key in use."""
        with self._store.read():
            rows = self._store.select(
                "SELECT DISTINCT grp FROM keys WHERE ref = ? AND shredded_at IS NULL ORDER BY grp", (ref,)
            )
        return tuple(group for (group,) in cast("list[tuple[str]]", rows))

    def unused_generation(self, group: str) -> int:
        """Return the first generation that no key of a group has."""
        with self._store.read():
            ((top,),) = self._store.select("SELECT max(generation) FROM keys WHERE grp = ?", (group,))
        return 0 if top is None else cast("int", top) + 1

    def _create(
        self, uses: dict["_Name", int], *, at: int, is_single: bool = False
    ) -> dict["_Name", DataKey]:
        """Write new keys, inside the write lock, and return them by name."""
        if not uses:
            return {}
        epoch = max(self._wrapper.current_epoch(), self._store.number("epoch"))
        drawn = self._wrapper.draw(epoch, [key_place(*name) for name in uses])
        first = cast("int", self._store.select("SELECT coalesce(max(id), 0) + 1 FROM keys")[0][0])
        made = {
            name: DataKey(*name, commitment(secret), secret)
            for name, (secret, _) in zip(uses, drawn, strict=True)
        }
        self._store.execute_many(
            "INSERT INTO keys(id, kid, ref, grp, generation, is_single, epoch, created_at, used) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (key_id, key.kid, *name, int(is_single), epoch, at, uses[name])
                for key_id, (name, key) in enumerate(made.items(), start=first)
            ],
        )
        self._store.execute_many(
            "INSERT INTO material VALUES (?, ?)",
            [(key_id, wrapped) for key_id, (_, wrapped) in enumerate(drawn, start=first)],
        )
        return made

    # Opening -------------------------------------------------------------------------------------

    def open(self, kids: Sequence[bytes], *, gate: Gate) -> dict[bytes, DataKey | Shredded | Withheld]:
        """Return the keys of these ids; unknown ids are absent.

        What the gate does not admit is withheld, and not unwrapped for it.
        """
        found: dict[bytes, DataKey | Shredded | Withheld] = {}
        missing: dict[bytes, None] = {}
        for kid in kids:
            key = self._cache.opened(kid)
            if key is None:
                missing[kid] = None
            elif isinstance(key, Shredded):
                found[kid] = key
            elif not gate.admits(key.group):
                found[kid] = gate.withheld(key.ref, key.group, key.generation)
            elif isinstance(key, Withheld):  # from somebody else who shares this memory
                missing[kid] = None
            else:
                found[kid] = key
        self._cache.looked_up(asked=len(kids), missed=len(missing))
        if not missing:
            return found
        with self._store.read():
            self._recorder.require_level()
            self._store.ask((number, kid, None, None) for number, kid in enumerate(missing))
            rows = self._store.select(
                "SELECT k.kid, k.ref, k.grp, k.generation, k.epoch, m.wrapped, k.shredded_at "
                "FROM temp.wanted w CROSS JOIN keys k ON k.kid = w.a LEFT JOIN material m ON m.id = k.id"
            )
        for kid, ref, group, generation, epoch, wrapped, shredded_at in cast(
            "list[tuple[bytes, SubjectRef, str, int, int, bytes, int | None]]", rows
        ):
            if shredded_at is not None:
                found[kid] = Shredded(ref, group, generation)
            elif not gate.admits(group):
                found[kid] = gate.withheld(ref, group, generation)
            else:
                place = key_place(ref, group, generation)
                secret = self._wrapper.unwrap_committed(epoch, wrapped, place, kid=kid)
                found[kid] = DataKey(ref, group, generation, kid, secret)
            self._cache.keep(kid, found[kid])
        return found

    # Destroying ------------------------------------------------------------------------------------

    def shred(
        self,
        ref: SubjectRef,
        *,
        now: datetime,
        group: str | None,
        generation: int | None,
        below: int | None,
        spare: Collection[str] = (),
    ) -> ShredReport:
        """Destroy keys; the same call again, with the same `now`, gives the same report."""
        if (group is None and (generation, below) != (None, None)) or None not in (generation, below):
            raise InvariantViolation(
                "A shred names a reference, or a group of it, or in a group either one generation or a bound."
            )
        at = microseconds(now)
        with self._recorder.write():
            found = self._in_scope(ref, at, group, generation, below)
            rows = [row for row in found if row[2] not in spare]
            live = [(key_id, kid) for key_id, kid, _, _, shredded_at in rows if shredded_at is None]
            if live:
                self._recorder.record_shred([kid for _, kid in live], at=at)
                self._recorder.destroy([key_id for key_id, _ in live], at=at)
            names: list[KeyName] = [(kid, ref, held, number) for _, kid, held, number, _ in rows]
            self._cache.evict(names)
            # Also when nothing is left to destroy: an earlier call may have died before it scrubbed.
            self._recorder.require_scrub()
        by_group: dict[str, int] = {}
        for _, _, held, _ in names:
            by_group[held] = by_group.get(held, 0) + 1
        return ShredReport(kids=tuple(kid.hex() for kid, *_ in names), by_group=by_group)

    def shred_group(self, group: str, *, now: datetime) -> int:
        """Destroy every key of a group, a slice in a transaction; return how many."""
        at = microseconds(now)
        last = total = 0
        while True:
            with self._recorder.write():
                rows = cast(
                    "list[tuple[int, bytes, SubjectRef, int]]",
                    self._store.select(
                        "SELECT id, kid, ref, generation FROM keys WHERE id > ? AND grp = ? "
                        "AND shredded_at IS NULL ORDER BY id LIMIT ?",
                        (last, group, SHRED_SLICE),
                    ),
                )
                if rows:
                    self._recorder.record_shred([kid for _, kid, _, _ in rows], at=at)
                    self._recorder.destroy([key_id for key_id, _, _, _ in rows], at=at)
                self._cache.evict([(kid, ref, group, number) for _, kid, ref, number in rows])
                self._recorder.require_scrub()
            if not rows:
                return total
            last = rows[-1][0]
            total += len(rows)

    def _in_scope(
        self, ref: SubjectRef, at: int, group: str | None, generation: int | None, below: int | None
    ) -> list[tuple[int, bytes, str, int, int | None]]:
        given: dict[str, Cell] = {"ref = ?": ref, "grp = ?": group, "generation = ?": generation}
        given["generation < ?"] = below
        scope = {clause: value for clause, value in given.items() if value is not None}
        rows = self._store.select(
            "SELECT id, kid, grp, generation, shredded_at FROM keys WHERE "  # noqa: S608 - clauses of ours
            + " AND ".join((*scope, "(shredded_at IS NULL OR shredded_at = ?)"))
            + " ORDER BY grp, generation",
            (*scope.values(), at),
        )
        return cast("list[tuple[int, bytes, str, int, int | None]]", rows)


def _is_meant(group: str, purpose: str, category: Category | None) -> bool:
    """Return whether a key group seals for a purpose, or a category; nothing named means none."""
    of_category, _, of_purpose = group.partition("+")
    return bool(purpose and of_purpose == purpose) or of_category == category


_Name = tuple[SubjectRef, str, int]
_RawRow = tuple[int, int | None, bytes, int, int, int, bytes, int, int, int | None]


def _to_row(raw: _RawRow) -> tuple[int, _Row]:
    slot, top, kid, generation, is_single, epoch, wrapped, created_at, used, shredded_at = raw
    return slot, _Row(top, kid, generation, is_single, epoch, wrapped, created_at, used, shredded_at)


def _to_create(slot: Slot, row: _Row, *, uses: int, at: int) -> int | None:
    """Return the generation to create for a want, or None when its row serves it.

    Raises:
        InvariantViolation: the wanted generation was shredded, or lies below the highest.
    """
    top = -1 if row.top is None else row.top
    wanted = slot[2]
    if wanted is None:
        is_current = (
            row.kid is not None
            and row.shredded_at is None
            and not row.is_single
            and at < row.created_at + _AGE
            and row.used + uses <= MAX_USES
        )
        return None if is_current else top + 1
    if row.shredded_at is not None:
        raise InvariantViolation(
            f"Generation {wanted} of the group {slot[1]} was shredded: it never comes back. "
            "Seal under the next one."
        )
    if row.kid is None and wanted < top:
        raise InvariantViolation(
            f"Generation {wanted} of the group {slot[1]} was never made, and {top} exists: "
            "generations only grow. Seal under the next one."
        )
    return wanted if row.kid is None else None
