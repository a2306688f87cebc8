"""Identities and references: who is who, and who was erased."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import cast

from msgspec import Struct

from privacy_ledger.adapters.keystore._database import Database
from privacy_ledger.adapters.keystore._journal import Op
from privacy_ledger.adapters.keystore._marks import Marks
from privacy_ledger.adapters.keystore._recorder import Recorder
from privacy_ledger.adapters.keystore._times import instant, microseconds
from privacy_ledger.domain.errors import InvariantViolation, RefusedByPolicy
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import Identity, IdentityRow, IdentityStatus
from privacy_ledger.ports.runtime import Ids

__all__ = ["IdentityTable"]


class _Ref(Struct):
    """A reference in a running mint: its age, its bound, and whether it was ended."""

    order: int
    not_before: int
    is_ended: bool = False


class _Minting(Struct):
    """What one mint knows and will write; later groups see what earlier ones decided."""

    known: dict[bytes, tuple[bytes, str]]
    refs: dict[bytes, _Ref]
    new_refs: list[tuple[bytes, bytes, int, int]]
    new_identities: list[tuple[bytes, bytes, str, int, None, int]]
    joins: list[tuple[bytes, ...]]


class IdentityTable:
    """Rows of keyed hashes; a `person` holds references that were found to be one person's."""

    def __init__(self, store: Database, recorder: Recorder, marks: Marks, ids: Ids) -> None:
        """Take the parts of one vault."""
        self._store = store
        self._recorder = recorder
        self._marks = marks
        self._ids = ids

    def find(self, identities: Sequence[Identity]) -> tuple[IdentityRow | None, ...]:
        """Return the row of each identity, in order."""
        with self._store.read():
            self._store.ask((n, self._marks.identity(i), None, None) for n, i in enumerate(identities))
            rows = self._store.select(
                "SELECT w.slot, i.ref, i.status, i.not_before, i.erasure "
                "FROM temp.wanted w CROSS JOIN identities i ON i.mark = w.a"
            )
        found: list[IdentityRow | None] = [None] * len(identities)
        for slot, ref, status, not_before, erasure in cast(
            "list[tuple[int, SubjectRef, str, int, bytes | None]]", rows
        ):
            found[slot] = IdentityRow(ref, IdentityStatus(status), instant(not_before), erasure)
        return tuple(found)

    def mint(
        self, groups: Sequence[tuple[Identity, ...]], *, now: datetime, not_before: datetime
    ) -> tuple[SubjectRef, ...]:
        """Return a reference per group; the write lock decides between two processes."""
        marked = [tuple(dict.fromkeys(map(self._marks.identity, group))) for group in groups]
        bound = microseconds(not_before)
        at = microseconds(now)
        with self._recorder.write():
            minting = self._load([mark for group in marked for mark in group])
            refs = tuple(self._mint_one(minting, group, bound=bound, at=at) for group in marked)
            self._store.execute_many(
                "INSERT INTO refs(ref, person, not_before, minted_at) VALUES (?, ?, ?, ?)",
                minting.new_refs,
            )
            self._insert(minting.new_identities)
            for joined in minting.joins:
                self._join(joined)
        return refs

    def _mint_one(self, minting: _Minting, marks: tuple[bytes, ...], *, bound: int, at: int) -> SubjectRef:
        held = [minting.known[mark] for mark in marks if mark in minting.known]
        if any(status == IdentityStatus.ERASED for _, status in held):
            raise InvariantViolation(
                "An identity of this group is erased: it gets no reference by a mint. "
                "Refuse the line, or reopen the person."
            )
        if held:
            refs = sorted({ref for ref, _ in held}, key=lambda ref: minting.refs[ref].order)
            chosen = refs[0]
            if len(refs) > 1:
                minting.joins.append(tuple(refs))
        else:
            chosen = self._ids.token()
            minting.refs[chosen] = _Ref(order=2**62 + len(minting.new_refs), not_before=bound)
            minting.new_refs.append((chosen, self._ids.token(), bound, at))
        row = minting.refs[chosen]
        for mark in marks:
            if mark not in minting.known and not row.is_ended:
                minting.known[mark] = (chosen, IdentityStatus.ACTIVE)
                minting.new_identities.append((mark, chosen, IdentityStatus.ACTIVE, row.not_before, None, at))
        return SubjectRef(chosen)

    def _load(self, marks: Sequence[bytes]) -> _Minting:
        known = self._known(marks)
        refs = list({ref for ref, _ in known.values()})
        self._store.ask((n, ref, None, None) for n, ref in enumerate(refs))
        rows = self._store.select(
            "SELECT r.ref, r.id, r.not_before FROM temp.wanted w CROSS JOIN refs r ON r.ref = w.a"
        )
        loaded = {
            ref: _Ref(order, not_before)
            for ref, order, not_before in cast("list[tuple[bytes, int, int]]", rows)
        }
        for ref, row in loaded.items():
            row.is_ended = self._is_ended(ref)
        return _Minting(known, loaded, [], [], [])

    def _known(self, marks: Iterable[bytes]) -> dict[bytes, tuple[bytes, str]]:
        self._store.ask((n, mark, None, None) for n, mark in enumerate(marks))
        rows = self._store.select(
            "SELECT i.mark, i.ref, i.status FROM temp.wanted w CROSS JOIN identities i ON i.mark = w.a"
        )
        return {mark: (ref, status) for mark, ref, status in cast("list[tuple[bytes, bytes, str]]", rows)}

    def _is_ended(self, ref: bytes) -> bool:
        return bool(self._store.select("SELECT 1 FROM ended WHERE mark = ?", (self._marks.ref(ref),)))

    def _insert(self, rows: Iterable[tuple[bytes, bytes, str, int, None, int]]) -> None:
        self._store.execute_many("INSERT INTO identities VALUES (?, ?, ?, ?, ?, ?)", rows)

    def bind(self, ref: SubjectRef, identities: Sequence[Identity], *, now: datetime) -> None:
        """Bind unknown identities to a reference, and join the references of known live ones."""
        marks = tuple(dict.fromkeys(map(self._marks.identity, identities)))
        at = microseconds(now)
        with self._recorder.write():
            rows = cast(
                "list[tuple[int]]", self._store.select("SELECT not_before FROM refs WHERE ref = ?", (ref,))
            )
            if not rows:
                raise InvariantViolation(
                    "A reference that was never minted here gets no identity. Mint it first."
                )
            if self._is_ended(ref):
                raise RefusedByPolicy(
                    Refusal.SUBJECT_ERASED, "The reference was ended by an erasure: nothing is bound to it."
                )
            known = self._known(marks)
            self._insert(
                (mark, ref, IdentityStatus.ACTIVE, rows[0][0], None, at)
                for mark in marks
                if mark not in known
            )
            others = {other for other, status in known.values() if status == IdentityStatus.ACTIVE} - {ref}
            if others:
                self._join((ref, *others))

    def _join(self, refs: Sequence[bytes]) -> None:
        """Make references one person's; they stay apart otherwise."""
        self._store.ask((n, ref, None, None) for n, ref in enumerate(refs))
        rows = cast(
            "list[tuple[bytes]]",
            self._store.select(
                "SELECT r.person FROM temp.wanted w CROSS JOIN refs r ON r.ref = w.a ORDER BY r.id"
            ),
        )
        person = rows[0][0]
        for other in {row[0] for row in rows} - {person}:
            self._store.execute("UPDATE refs SET person = ? WHERE person = ?", (person, other))

    def refs_of(self, identity: Identity) -> tuple[SubjectRef, ...]:
        """Return every reference of the same person, elder first."""
        with self._store.read():
            rows = self._store.select(
                "SELECT r.ref FROM identities i CROSS JOIN refs o ON o.ref = i.ref "
                "CROSS JOIN refs r ON r.person = o.person WHERE i.mark = ? ORDER BY r.id",
                (self._marks.identity(identity),),
            )
        return tuple(ref for (ref,) in cast("list[tuple[SubjectRef]]", rows))

    def reopen(self, identity: Identity, *, now: datetime) -> SubjectRef:
        """Return a new reference, of a new person: the erased one stays forgotten."""
        mark = self._marks.identity(identity)
        at = microseconds(now)
        ref = self._ids.token()
        with self._recorder.write():
            rows = cast(
                "list[tuple[bytes]]",
                self._store.select(
                    "SELECT erasure FROM identities WHERE mark = ? AND status = ?",
                    (mark, IdentityStatus.ERASED),
                ),
            )
            if not rows:
                raise RefusedByPolicy(
                    Refusal.NOT_ERASED, "The identity is not erased: there is nothing to reopen."
                )
            self._store.execute(
                "INSERT INTO refs(ref, person, not_before, minted_at) VALUES (?, ?, ?, ?)",
                (ref, self._ids.token(), at, at),
            )
            self._store.execute(
                "UPDATE identities SET ref = ?, status = ?, not_before = ?, erasure = NULL, bound_at = ? "
                "WHERE erasure = ?",
                (ref, IdentityStatus.ACTIVE, at, at, rows[0][0]),
            )
        return SubjectRef(ref)

    def erase(self, ref: SubjectRef, *, now: datetime) -> int:
        """Turn a reference's identities erased and return how many.

        Joined references that are erased one after the other share their erasure id: one return
        reopens them all.
        """
        with self._recorder.write():
            rows = self._store.select(
                "SELECT mark FROM identities WHERE ref = ? AND status = ?", (ref, IdentityStatus.ACTIVE)
            )
            marks = [mark for (mark,) in cast("list[tuple[bytes]]", rows)]
            if not marks:
                return 0
            erasure = self._erasure_of(ref) or self._ids.token()
            self._recorder.record(Op.ERASE, marks, at=microseconds(now), erasure=erasure)
            self._store.ask((n, mark, None, None) for n, mark in enumerate(marks))
            return self._store.execute(
                "UPDATE identities SET status = ?, erasure = ? WHERE mark IN (SELECT a FROM temp.wanted w)",
                (IdentityStatus.ERASED, erasure),
            )

    def _erasure_of(self, ref: SubjectRef) -> bytes | None:
        rows = self._store.select(
            "SELECT i.erasure FROM refs o CROSS JOIN refs r ON r.person = o.person "
            "CROSS JOIN identities i ON i.ref = r.ref WHERE o.ref = ? AND i.status = ? LIMIT 1",
            (ref, IdentityStatus.ERASED),
        )
        return cast("bytes", rows[0][0]) if rows else None
