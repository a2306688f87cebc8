"""Keys whose records are all past their retention: found by their age, destroyed as retention."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, cast

from privacy_ledger.adapters.keystore._cache import KeyCache
from privacy_ledger.adapters.keystore._database import Database
from privacy_ledger.adapters.keystore._recorder import Recorder
from privacy_ledger.adapters.keystore._times import instant, microseconds
from privacy_ledger.domain.errors import InvariantViolation
from privacy_ledger.domain.key_release import class_of
from privacy_ledger.domain.values import Category, SubjectRef
from privacy_ledger.ports.keys import AgedKeys, KeyGeneration

__all__ = ["ExpiryTable"]

LOOKED_AT: Final = 20_000
"""So many rows a look reads at most."""
SHRED_SLICE: Final = 1000
_Row = tuple[int, bytes, SubjectRef, str, int, int, int | None, int | None]
_MEMBERS: Final = "k.id, k.kid, k.ref, k.grp, k.generation, k.created_at, k.shredded_at"


class ExpiryTable:
    """The keys of one keystore by their age, through one process's cache."""

    def __init__(self, store: Database, *, recorder: Recorder, cache: KeyCache) -> None:
        """Take the parts of one vault."""
        self._store = store
        self._recorder = recorder
        self._cache = cache

    def aged(self, before: Mapping[Category, datetime], *, after: int) -> AgedKeys:
        """Return the live keys of these categories that are older, among the next rows."""
        until = after + LOOKED_AT
        with self._store.read():
            ((last,),) = self._store.select("SELECT coalesce(max(id), 0) FROM keys")
            self._store.ask(
                (number, None, str(category), microseconds(at))
                for number, (category, at) in enumerate(before.items())
            )
            rows = self._store.select(
                f"SELECT {_MEMBERS}, NULL FROM keys k CROSS JOIN temp.wanted w "  # noqa: S608 - ours
                "ON (k.grp = w.b OR k.grp LIKE w.b || '+%') AND k.created_at < w.n "
                "WHERE k.id > ? AND k.id <= ? AND k.shredded_at IS NULL ORDER BY k.id",
                (after, until),
            )
        return AgedKeys(keys=_read(rows), after=until if cast("int", last) > until else None)

    def of(self, ref: SubjectRef) -> tuple[KeyGeneration, ...]:
        """Return every key of a reference that seals records, destroyed ones included."""
        with self._store.read():
            rows = self._store.select(
                f"SELECT {_MEMBERS}, e.id FROM keys k "  # noqa: S608 - names of ours
                "LEFT JOIN expired e ON e.id = k.id WHERE k.ref = ? ORDER BY k.grp, k.generation",
                (ref,),
            )
        return _read(rows)

    def shred(self, keys: Sequence[KeyGeneration], *, now: datetime) -> tuple[KeyGeneration, ...]:
        """Destroy those of these keys that are still what they were, a slice in a transaction."""
        if not all(isinstance(class_of(key.group), Category) for key in keys):
            raise InvariantViolation("Retention destroys keys of records alone, never those of states.")
        done: list[KeyGeneration] = []
        for start in range(0, len(keys), SHRED_SLICE):
            done += self._shred(keys[start : start + SHRED_SLICE], at=microseconds(now))
        return tuple(done)

    def _shred(self, keys: Sequence[KeyGeneration], *, at: int) -> list[KeyGeneration]:
        with self._recorder.write():
            self._store.ask((number, key.kid, None, key.row) for number, key in enumerate(keys))
            rows = self._store.select(
                f"SELECT {_MEMBERS}, NULL FROM temp.wanted w "  # noqa: S608 - names of ours
                "CROSS JOIN keys k ON k.id = w.n AND k.kid = w.a "
                "WHERE k.shredded_at IS NULL ORDER BY k.id"
            )
            live = _read(rows)
            if live:
                self._recorder.record_shred([key.kid for key in live], at=at, is_expiry=True)
                self._recorder.destroy([key.row for key in live], at=at, is_expiry=True)
            self._cache.evict([(key.kid, key.ref, key.group, key.generation) for key in keys])
            # Also when nothing is left to destroy: an earlier call may have died before it scrubbed.
            self._recorder.require_scrub()
        return list(live)


def _read(rows: Sequence[tuple[object, ...]]) -> tuple[KeyGeneration, ...]:
    """Return the rows of groups that seal records; those of states and the like are left out."""
    return tuple(
        KeyGeneration(
            row=row, ref=ref, kid=kid, group=group, generation=generation, created_at=instant(created_at),
            destroyed_at=None if shredded_at is None else instant(shredded_at),
            is_expired=expired is not None,
        )
        for row, kid, ref, group, generation, created_at, shredded_at, expired in cast("list[_Row]", rows)
        if isinstance(class_of(group), Category)
    )  # fmt: skip
