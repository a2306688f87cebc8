"""Open keys in memory, under a lease: no lease, no key.

What is promised: a key that another process shredded is gone from this cache at this process's
first use of it one second or more after the shred; a process that slept longer than its lease, or
cannot reach the keystore, forgets all of its keys before it answers. On top of it the database hints
at a shred: then it is gone at the very next use. What is not: a caller that
keeps a `DataKey` itself, and Python's memory, which cannot be zeroed.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, cast

from msgspec import Struct

from privacy_ledger.adapters import envelope
from privacy_ledger.adapters.keystore._database import Database
from privacy_ledger.adapters.keystore._gate import Tally
from privacy_ledger.domain.errors import KeyUnavailable
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import DataKey, Shredded, Withheld
from privacy_ledger.ports.observe import KeyCacheFigures

__all__ = [
    "CHECK_S",
    "LEASE_S",
    "MAX_OPEN",
    "MAX_SEALING",
    "MAX_USES",
    "CurrentKey",
    "KeyCache",
    "KeyName",
    "Slot",
    "boot_seconds",
]

MAX_OPEN: Final = 50_000
MAX_SEALING: Final = 50_000
MAX_USES: Final = 2**24
"""Records that one generation seals; the count may miss what a killed process sealed in 10 s."""
LEASE_S: Final = 10.0
CHECK_S: Final = 1.0

Slot = tuple[SubjectRef, str, int | None]
"""What a want asks for: reference, group, and a generation or the current one."""
KeyName = tuple[bytes, SubjectRef, str, int]
"""Kid, reference, group, generation."""


class CurrentKey(Struct):
    """A key that seals now, until when it may be trusted, and how much it has sealed."""

    key: DataKey
    uses: int
    trusted_until: float
    retires_at: int | None


class KeyCache:
    """The keys of one process, bounded, with its lease row in the keystore."""

    def __init__(self, store: Database, process: bytes, clock: Callable[[], float], *, tally: Tally) -> None:
        """Take a random name of this process and a clock that all processes of the machine share.

        `tally`: what is written into the keystore whenever the lease is.
        """
        self._store = store
        self._process = process
        self._clock = clock
        self._tally = tally
        self._opened: OrderedDict[bytes, DataKey | Shredded | Withheld] = OrderedDict()
        self._sealing: OrderedDict[Slot, CurrentKey] = OrderedDict()
        self._used: dict[bytes, int] = {}
        self._revision = -1
        self._state = (-1, -1)
        self._lease_until = -1.0
        self._check_at = -1.0
        self._asked = self._missed = 0

    @property
    def figures(self) -> KeyCacheFigures:
        """How many keys are open now, and how often one was asked for and was not."""
        return KeyCacheFigures(
            opened=len(self._opened), sealing=len(self._sealing), asked=self._asked, missed=self._missed
        )

    def looked_up(self, *, asked: int, missed: int) -> None:
        """Count one call's look-ups."""
        self._asked += asked
        self._missed += missed

    # Trust -----------------------------------------------------------------------------------

    def is_fresh(self) -> bool:
        """Return whether the keys may be used without asking the keystore."""
        if self._clock() >= self._check_at:
            return False
        if self._store.take_hint():
            self._check_at = -1.0
            return False
        return True

    def forget_idle(self) -> None:
        """Forget what others shredded, and all keys once the lease has lapsed; renew nothing.

        For a process that may use no key for a while: its memory follows all the same.

        Raises:
            KeyUnavailable: the keystore cannot be reached; the cache is empty then.
        """
        if not (self._opened or self._sealing):
            return
        if self._clock() >= self._lease_until:
            self.drop()
        elif not self.is_fresh():
            try:
                self._drop_shredded()
            except BaseException:
                self.drop()
                raise

    def renew(self) -> None:
        """Drop what others shredded since the last look, and renew the lease when half is gone.

        Raises:
            KeyUnavailable: the keystore cannot be reached; the cache is empty then.
        """
        now = self._clock()
        if now >= self._lease_until:
            self.drop()
        try:
            self._drop_shredded()
            if self._lease_until - now < LEASE_S / 2 or len(self._used) > MAX_SEALING:
                self._renew_lease(now)
        except BaseException:
            self.drop()
            raise
        self._check_at = min(now + CHECK_S, self._lease_until)

    def _drop_shredded(self) -> None:
        with self._store.read():
            state = (self._store.connections, self._store.number("restored"))
            revision = self._store.number("revision")
            if state != self._state or revision < self._revision:
                # Another copy than the one that these keys come from.
                self.drop()
                self._state, self._revision = state, -1
            if revision == self._revision:
                return
            shredded = (
                self._store.select(
                    "SELECT kid, ref, grp, generation FROM keys WHERE revision > ?", (self._revision,)
                )
                if self._opened or self._sealing
                else []
            )
            ended = self._store.select("SELECT 1 FROM ended WHERE revision > ? LIMIT 1", (self._revision,))
        self.evict(cast("list[KeyName]", shredded))
        if ended:
            self._sealing.clear()
        self._revision = revision

    def _renew_lease(self, now: float) -> None:
        try:
            with self._store.write():
                self._write_uses()
                self._tally.write(self._store)
                begins = self._store.lease_now(now)
                # A lease from beyond the longest possible one is of an earlier boot.
                self._store.execute(
                    "DELETE FROM leases WHERE until < ? OR until > ?", (begins, begins + LEASE_S)
                )
                self._store.execute(
                    "INSERT INTO leases VALUES (?, ?, ?) ON CONFLICT(process) DO UPDATE "
                    "SET until = excluded.until, revision = excluded.revision",
                    (self._process, begins + LEASE_S, self._revision),
                )
        except KeyUnavailable:
            if now >= self._lease_until:
                raise
            return  # Another process writes; the running lease covers this use.
        self._used.clear()
        self._tally.settle()
        self._lease_until = now + LEASE_S

    def release(self) -> None:
        """Write the counts, give the lease back, and forget every key."""
        self.drop()
        if self._lease_until < 0:
            return
        with self._store.write():
            self._write_uses()
            self._tally.write(self._store)
            self._store.execute("DELETE FROM leases WHERE process = ?", (self._process,))
        self._used.clear()
        self._tally.settle()

    def _write_uses(self) -> None:
        self._store.execute_many(
            "UPDATE keys SET used = used + ? WHERE kid = ?", [(uses, kid) for kid, uses in self._used.items()]
        )

    # Keys ------------------------------------------------------------------------------------

    def opened(self, kid: bytes) -> DataKey | Shredded | Withheld | None:
        """Return a key that was opened or withheld before, or None."""
        key = self._opened.get(kid)
        if key is not None:
            self._opened.move_to_end(kid)
        return key

    def keep(self, kid: bytes, key: DataKey | Shredded | Withheld) -> None:
        """Keep an opened key, instead of the one used longest ago where there is no room."""
        self._opened[kid] = key
        if len(self._opened) > MAX_OPEN:
            self._opened.popitem(last=False)

    def sealing(self, slot: Slot, *, uses: int, at: int) -> DataKey | None:
        """Return the key that seals now and count its uses, or None when the store must be asked."""
        current = self._sealing.get(slot)
        if current is None:
            return None
        is_full = current.retires_at is not None and (
            at >= current.retires_at or current.uses + uses > MAX_USES
        )
        if is_full or self._clock() >= current.trusted_until:
            del self._sealing[slot]
            return None
        self._sealing.move_to_end(slot)
        current.uses += uses
        self.count(current.key.kid, uses)
        return current.key

    def keep_sealing(self, slot: Slot, key: DataKey, *, uses: int, retires_at: int | None) -> None:
        """Keep a key that seals now for at most the length of a lease."""
        self._sealing[slot] = CurrentKey(key, uses, self._clock() + LEASE_S, retires_at)
        if len(self._sealing) > MAX_SEALING:
            self._sealing.popitem(last=False)
        self.keep(key.kid, key)

    def count(self, kid: bytes, uses: int) -> None:
        """Remember uses that the keystore does not know of yet."""
        self._used[kid] = self._used.get(kid, 0) + uses

    def pending(self, kid: bytes) -> int:
        """Return the uses of a key that the keystore does not know of yet."""
        return self._used.get(kid, 0)

    def evict(self, names: Iterable[KeyName]) -> None:
        """Forget these keys at once."""
        kids: list[bytes] = []
        for kid, ref, group, generation in names:
            kids.append(kid)
            self._opened.pop(kid, None)
            self._sealing.pop((ref, group, generation), None)
            current = self._sealing.get((ref, group, None))
            if current is not None and current.key.kid == kid:
                del self._sealing[ref, group, None]
        envelope.forget(kids)

    def drop_sealing(self) -> None:
        """Forget every key that seals: a reference was ended."""
        self._sealing.clear()

    def drop(self) -> None:
        """Forget every key."""
        self._check_at = -1.0
        if self._opened or self._sealing:
            self._opened.clear()
            self._sealing.clear()
            envelope.forget()


def boot_seconds() -> float:
    """Return seconds since the machine started, asleep or not: one clock for all its processes."""
    return time.clock_gettime(_BOOT_CLOCK)


_BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
