"""Destruction in its order: journal, then keystore, then the write-ahead log."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Literal, cast

from privacy_ledger.adapters.keystore._database import Database
from privacy_ledger.adapters.keystore._journal import MAX_MARKS, Entry, Op, ShredJournal
from privacy_ledger.adapters.keystore._marks import Marks
from privacy_ledger.adapters.keystore._material import WRAPPED_BYTES
from privacy_ledger.domain.errors import InvariantViolation, KeyUnavailable
from privacy_ledger.ports.keys import IdentityStatus
from privacy_ledger.ports.runtime import Ids

__all__ = ["Recorder", "groups_of"]

_SLICE: Final = 20_000
_NOTHING: Final = bytes(WRAPPED_BYTES)
_BETWEEN: Final = "\n"
_NOBODY: Final[Mapping[bytes, frozenset[str]]] = {}


def groups_of(names: str) -> tuple[str, ...]:
    """Return the key groups that a row of `spared` names."""
    return tuple(names.split(_BETWEEN)) if names else ()


class Recorder:
    """Writes what is destroyed into the journal, and brings a keystore behind it up to date."""

    def __init__(self, store: Database, journal: ShredJournal, marks: Marks, ids: Ids) -> None:
        """Take the parts; call `follow` before any key is released."""
        self._store = store
        self._journal = journal
        self._marks = marks
        self._ids = ids
        self._name = marks.store()
        self._level = -1
        self._must_scrub = False

    def follow(self) -> None:
        """Re-apply what the journal holds and the keystore does not.

        It does so after a restore from a backup, and after a crash between the two writes.

        Raises:
            KeyUnavailable: the journal is shorter than the keystore remembers, damaged, or foreign.
        """
        size = self._journal.size()
        with self._store.read():
            end = self._store.number("journal_end")
        if end != size:
            with self.write():
                end = self._store.number("journal_end")
        self._level = end

    def require_level(self) -> None:
        """Check, inside `read` or `write`, that the keystore is not behind what was level before.

        Raises:
            KeyUnavailable: an older copy was put in its place: no key is released from it.
        """
        if self._store.number("journal_end") < self._level:
            raise KeyUnavailable(
                "The keystore is behind its shred journal: it was restored. Its keys are released when "
                "the journal has been applied again, at the next call."
            )

    @contextmanager
    def write(self) -> Iterator[None]:
        """Hold the write lock for the block, with the keystore level with the journal.

        Where keys were destroyed, the write-ahead log is emptied afterwards. One that could not be
        emptied is by the next destruction, by a repeated one, or when the last process closes.
        """
        self._must_scrub = False
        with self._store.write():
            self.catch_up()
            yield
            end = self._store.number("journal_end")
        self._level = end
        if self._must_scrub:
            self._store.scrub()

    def require_scrub(self) -> None:
        """Empty the write-ahead log when the running `write` ends, whatever it changed."""
        self._must_scrub = True

    def record(
        self,
        op: Op,
        marks: Sequence[bytes],
        *,
        at: int,
        erasure: bytes = b"",
        groups: tuple[str, ...] = (),
        is_expiry: bool = False,
    ) -> None:
        """Append to the journal, durable on return, inside `write` and before the change itself."""
        sequence = self._store.number("journal")
        entries = [
            Entry(
                sequence=sequence + number,
                store=self._name,
                op=op,
                at=at,
                marks=tuple(mark.hex() for mark in marks[start : start + MAX_MARKS]),
                erasure=erasure.hex(),
                groups=groups,
                is_expiry=is_expiry,
            )
            for number, start in enumerate(range(0, len(marks), MAX_MARKS), start=1)
        ]
        end = self._journal.append(entries, at=self._store.number("journal_end"))
        self._store.set_number("journal", sequence + len(entries))
        self._store.set_number("journal_end", end)

    def record_shred(self, kids: Iterable[bytes], *, at: int, is_expiry: bool = False) -> None:
        """Append the shred of keys to the journal."""
        self.record(Op.SHRED, [self._marks.kid(kid) for kid in kids], at=at, is_expiry=is_expiry)

    def destroy(self, key_ids: Sequence[int], *, at: int, is_expiry: bool = False) -> None:
        """Overwrite the material of live keys; call it inside `write`, after `record`.

        `is_expiry`: note that retention destroyed them.

        Raises:
            InvariantViolation: a key was not live; nothing changes.
        """
        revision = self._store.next_revision()
        self._store.announce()
        self._store.ask((number, None, None, key_id) for number, key_id in enumerate(key_ids))
        shredded = self._store.execute(
            "UPDATE keys SET shredded_at = ?, revision = ? "
            "WHERE id IN (SELECT n FROM temp.wanted w) AND shredded_at IS NULL",
            (at, revision),
        )
        overwritten = self._store.execute(
            "UPDATE material SET wrapped = ? WHERE id IN (SELECT n FROM temp.wanted w)", (_NOTHING,)
        )
        if not shredded == overwritten == len(key_ids):
            raise InvariantViolation(
                "Keys changed under the keystore's write lock: nothing was destroyed. "
                "Stop, and check the store."
            )
        if is_expiry:
            self._store.execute("INSERT INTO expired SELECT w.n FROM temp.wanted w")
        self._must_scrub = True

    def end(self, mark: bytes, *, at: int, groups: tuple[str, ...] = ()) -> None:
        """Write the row of an ended reference; of the groups that it spares a later end only takes away."""
        is_new = not self._store.select("SELECT 1 FROM ended WHERE mark = ?", (mark,))
        known = self.spared(mark)
        kept = groups if is_new else tuple(group for group in known if group in groups)
        if not is_new and kept == known:
            return
        revision = self._store.next_revision()
        self._store.announce()
        if is_new:
            self._store.execute("INSERT INTO ended VALUES (?, ?, ?)", (mark, at, revision))
        else:
            self._store.execute("UPDATE ended SET revision = ? WHERE mark = ?", (revision, mark))
        self._store.execute("DELETE FROM spared WHERE mark = ?", (mark,))
        if kept:
            self._store.execute("INSERT INTO spared VALUES (?, ?)", (mark, _BETWEEN.join(kept)))

    def spared(self, mark: bytes) -> tuple[str, ...]:
        """Return the key groups of an ended reference that go on, inside `read` or `write`."""
        rows = self._store.select("SELECT names FROM spared WHERE mark = ?", (mark,))
        return groups_of(cast("str", rows[0][0])) if rows else ()

    # Catching up ---------------------------------------------------------------------------

    def catch_up(self) -> int:
        """Apply what the journal holds and the store does not, inside its `write`; return how much."""
        store = self._store
        sequence = store.number("journal")
        after = store.number("journal_end")
        entries, end = self._journal.read(after=after, sequence=sequence, store=self._name)
        if not entries:
            return 0
        shreds: dict[bytes, int] = {}
        expired: set[bytes] = set()
        for entry in entries:
            marks = [bytes.fromhex(mark) for mark in entry.marks]
            match entry.op:
                case Op.SHRED:
                    shreds.update(dict.fromkeys(marks, entry.at))
                    expired.update(marks if entry.is_expiry else ())
                case Op.END:
                    for mark in marks:
                        self.end(mark, at=entry.at, groups=entry.groups)
                case Op.ERASE:
                    self._erase(marks, at=entry.at, erasure=bytes.fromhex(entry.erasure))
        if shreds:
            self._shred(shreds, expired)
        self.destroy_ended()
        store.set_number("journal", entries[-1].sequence)
        store.set_number("journal_end", end)
        return len(entries)

    def destroy_ended(self) -> None:
        """Destroy every live key of an ended reference, inside `write`, in a keystore from a backup.

        The journal names the keys that an erasure found. Where an older backup was in use meanwhile,
        that is not every key that a younger one holds. Groups that an end spared stay.
        """
        ended = dict(cast("list[tuple[bytes, int]]", self._store.select("SELECT mark, ended_at FROM ended")))
        if ended:
            rows = cast("list[tuple[bytes, str]]", self._store.select("SELECT mark, names FROM spared"))
            spared = {mark: frozenset(groups_of(names)) for mark, names in rows}
            self._destroy_named("ref", self._marks.ref, ended, spared=spared)

    def _shred(self, shreds: dict[bytes, int], expired: Collection[bytes]) -> None:
        """Destroy every live key whose mark is among these, `expired` ones as retention did."""
        self._destroy_named("kid", self._marks.kid, shreds, expired=expired)

    def _destroy_named(
        self,
        column: Literal["ref", "kid"],
        to_mark: Callable[[bytes], bytes],
        times: dict[bytes, int],
        *,
        spared: Mapping[bytes, frozenset[str]] = _NOBODY,
        expired: Collection[bytes] = (),
    ) -> None:
        """Destroy every live key whose column has one of these marks; reads all live keys once.

        `spared`: the groups of a mark that stay; `expired`: marks of what retention destroyed.
        """
        last = 0
        while rows := cast(
            "list[tuple[int, bytes, str]]",
            self._store.select(
                f"SELECT id, {column}, grp FROM keys "  # noqa: S608 - a name of ours
                "WHERE id > ? AND shredded_at IS NULL ORDER BY id LIMIT ?",
                (last, _SLICE),
            ),
        ):
            last = rows[-1][0]
            due: dict[tuple[int, bool], list[int]] = {}
            for key_id, name, group in rows:
                mark = to_mark(name)
                at = times.get(mark)
                if at is not None and group not in spared.get(mark, ()):
                    due.setdefault((at, mark in expired), []).append(key_id)
            for (at, is_expiry), key_ids in due.items():
                self.destroy(key_ids, at=at, is_expiry=is_expiry)

    def _erase(self, marks: Sequence[bytes], *, at: int, erasure: bytes) -> None:
        """Turn identities erased; one that this keystore does not know gets a row of its own."""
        for mark in marks:
            changed = self._store.execute(
                "UPDATE identities SET status = ?, erasure = ? WHERE mark = ?",
                (IdentityStatus.ERASED, erasure, mark),
            )
            if changed:
                continue
            ref = self._ids.token()
            self._store.execute(
                "INSERT INTO refs(ref, person, not_before, minted_at) VALUES (?, ?, ?, ?)",
                (ref, self._ids.token(), at, at),
            )
            self._store.execute(
                "INSERT INTO identities VALUES (?, ?, ?, ?, ?, ?)",
                (mark, ref, IdentityStatus.ERASED, at, erasure, at),
            )
