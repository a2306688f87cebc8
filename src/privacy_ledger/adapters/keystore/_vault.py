"""The keystore over whatever database holds its rows."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from copy import copy
from datetime import datetime
from typing import Final, Self, cast

from privacy_ledger.adapters.keystore._cache import KeyCache, boot_seconds
from privacy_ledger.adapters.keystore._database import Database
from privacy_ledger.adapters.keystore._expiry import ExpiryTable
from privacy_ledger.adapters.keystore._gate import Gate, Tally
from privacy_ledger.adapters.keystore._identities import IdentityTable
from privacy_ledger.adapters.keystore._journal import Op, ShredJournal
from privacy_ledger.adapters.keystore._keeper import Keeper
from privacy_ledger.adapters.keystore._keys import KeyTable
from privacy_ledger.adapters.keystore._lanes import LaneTable
from privacy_ledger.adapters.keystore._marks import Marks
from privacy_ledger.adapters.keystore._material import PEPPER_PLACE, Wrapper, secret_place
from privacy_ledger.adapters.keystore._recorder import Recorder
from privacy_ledger.adapters.keystore._times import microseconds
from privacy_ledger.adapters.keystore.kek import FIRST_EPOCH, FileKeks
from privacy_ledger.domain.errors import InvariantViolation, KeyUnavailable, LedgerError
from privacy_ledger.domain.key_release import NOTHING, Caller, Grant, Releases
from privacy_ledger.domain.values import Category, SubjectRef
from privacy_ledger.ports.keeping import ReleaseCount
from privacy_ledger.ports.keys import (
    AgedKeys,
    DataKey,
    Identity,
    IdentityRow,
    KeyGeneration,
    KeyStanding,
    KeyWant,
    LaneKey,
    Shredded,
    ShredReport,
    Withheld,
)
from privacy_ledger.ports.observe import KeyCacheFigures
from privacy_ledger.ports.runtime import Ids

__all__ = ["JOURNAL_NAME", "StoredKeyVault"]

JOURNAL_NAME: Final = "journal.ndjson"


class StoredKeyVault:
    """A `KeyVault` in a database; several processes may open it, each thread its own or one at a time.

    A process that only reads sees another's shred after at most one second of use (`_cache` says
    what that means); its own shreds hold at once. The shred journal lies beside the
    key-encryption keys, and what it holds is re-applied before this class answers anything.

    It releases no key until it is told who asks: `released_to`.
    """

    def __init__(
        self, store: Database, keks: FileKeks, *, ids: Ids, clock: Callable[[], float] = boot_seconds
    ) -> None:
        """Take an open database, and create the first key-encryption key where both are new.

        The database is closed where that fails.

        Raises:
            KeyUnavailable: database, key-encryption key or journal cannot be used; the message says which.
        """
        self._is_closed = False
        self._secrets: dict[str, bytes] = {}
        self._store = store
        self._releases = Releases()
        self._tally = Tally()
        self._gate = Gate(None, NOTHING, self._tally)
        try:
            self._wrapper = Wrapper(keks, ids)
            journal = ShredJournal(keks.directory / JOURNAL_NAME)
            self._marks = Marks(self._pepper(keks, journal, ids))
            self._recorder = Recorder(self._store, journal, self._marks, ids)
            self._recorder.follow()
            self._cache = KeyCache(self._store, ids.token(), clock, tally=self._tally)
            self._identities = IdentityTable(self._store, self._recorder, self._marks, ids)
            self._keys = KeyTable(
                self._store,
                wrapper=self._wrapper,
                recorder=self._recorder,
                marks=self._marks,
                cache=self._cache,
            )
            self._expiry = ExpiryTable(self._store, recorder=self._recorder, cache=self._cache)
            self._lanes = LaneTable(
                self._store, recorder=self._recorder, marks=self._marks, cache=self._cache, ids=ids
            )
            self.keeper = Keeper(
                store, keks, wrapper=self._wrapper, recorder=self._recorder, marks=self._marks, ids=ids
            )
            """The same keystore, for operators."""
        except BaseException:
            self._store.close()
            raise

    def __repr__(self) -> str:
        """Return where it is and nothing that is in it."""
        return f"{type(self).__name__}({self._store.name!r})"

    # Who asks ------------------------------------------------------------------------------------

    def released_to(self, caller: Caller) -> Self:
        """Return this open keystore as one caller sees it: with the keys that its purpose needs.

        Connection, memory and lease are shared; to close one is to close all.
        """
        bound = copy(self)
        bound._gate = Gate(caller, self._releases.grant(caller), self._tally)  # noqa: SLF001 - its own class
        return bound

    def released_to_pass(self, name: str, grant: Grant) -> Self:
        """Return this open keystore as a worker's pass sees it: with the keys that its steps need.

        For the wiring, which derives the grant from the declaration of the pass.
        """
        return self.released_to(self._releases.admit(name, grant))

    @property
    def release_figures(self) -> tuple[ReleaseCount, ...]:
        """How many keys this process was asked for, by role, purpose, category and outcome."""
        return self._tally.counts()

    # Identities ----------------------------------------------------------------------------------

    def find(self, identities: Sequence[Identity]) -> tuple[IdentityRow | None, ...]:
        """Return the row of each identity, in order, None where unknown."""
        return self._identities.find(identities)

    def mint(
        self, groups: Sequence[tuple[Identity, ...]], *, now: datetime, not_before: datetime
    ) -> tuple[SubjectRef, ...]:
        """Return a new reference for each group; one transaction for the whole batch.

        An identity that is known wins; where a group holds identities of several references, the
        elder is returned and all of them are joined from then on.
        """
        return self._identities.mint(groups, now=now, not_before=not_before)

    def bind(self, ref: SubjectRef, identities: Sequence[Identity], *, now: datetime) -> None:
        """Bind unknown identities to a reference; references of known ones are joined with it.

        Erased identities are left alone. Raises `RefusedByPolicy(SUBJECT_ERASED)` for an ended
        reference and `InvariantViolation` for one that was never minted here.
        """
        self._identities.bind(ref, identities, now=now)

    def refs_of(self, identity: Identity) -> tuple[SubjectRef, ...]:
        """Return every reference joined with this identity's, ended ones included, elder first."""
        return self._identities.refs_of(identity)

    def reopen(self, identity: Identity, *, now: datetime) -> SubjectRef:
        """Return a new reference for an erased person's return, not joined with the erased one.

        The journal does not hold it: after a restore from before the return, the person is erased
        again and comes back by the same authenticated step.
        """
        return self._identities.reopen(identity, now=now)

    def erase_identities(self, ref: SubjectRef, *, now: datetime) -> int:
        """Turn every identity of a reference `erased`; return how many were not yet."""
        return self._identities.erase(ref, now=now)

    def join_lanes(self, lanes: Mapping[SubjectRef, SubjectRef], *, now: datetime) -> frozenset[SubjectRef]:
        """Join lanes to the persons that their sessions were found to be; one transaction for all."""
        return self._lanes.join(lanes, now=now)

    def lanes_of(self, ref: SubjectRef) -> tuple[SubjectRef, ...]:
        """Return the lanes that are joined to a reference, elder first."""
        return self._lanes.of(ref)

    def lane_keys(self, ref: SubjectRef) -> tuple[LaneKey, ...]:
        """Return every key that the lanes of a reference ever had, elder first."""
        return self._lanes.keys(ref)

    def end_lanes(self, ref: SubjectRef, *, now: datetime) -> ShredReport:
        """End the lanes of a reference, erase their sessions and destroy their keys; one transaction.

        Raises:
            KeyUnavailable: as with `shred`.
        """
        return self._lanes.end(ref, now=now)

    @property
    def cache_figures(self) -> KeyCacheFigures:
        """How many keys this process holds open, and how often it was asked for one."""
        return self._cache.figures

    def forget_idle(self) -> None:
        """Forget keys that others shredded, and every key once the lease has lapsed; cheap.

        A process calls it now and then, for no key leaves the memory of one that asks for none.

        Raises:
            KeyUnavailable: the keystore cannot be reached; no key is left in memory then.
        """
        try:
            self._wrapper.forget_destroyed()
        finally:
            self._cache.forget_idle()

    # Data keys -----------------------------------------------------------------------------------

    def sealing_keys(self, wants: Sequence[KeyWant], *, now: datetime) -> tuple[DataKey, ...]:
        """Return a key per want, in order; nothing is created when one of them is refused.

        Generations start at 0. A generation that was never made and lies below the highest of its
        group is refused like a shredded one (`InvariantViolation`).
        """
        self._be_fresh()
        self._gate.require(want.group for want in wants)
        keys = self._keys.sealing(wants, now=now)
        self._gate.note(keys)
        return keys

    def fresh_keys(self, wants: Sequence[tuple[SubjectRef, str]], *, now: datetime) -> tuple[DataKey, ...]:
        """Return a new generation for each want; `sealing_keys` never hands it out as the current one."""
        self._be_fresh()
        self._gate.require(group for _, group in wants)
        keys = self._keys.fresh(wants, now=now)
        self._gate.note(keys)
        return keys

    def unused_generation(self, group: str) -> int:
        """Return the first generation that no key of this group has, shredded ones included."""
        return self._keys.unused_generation(group)

    def open_keys(self, kids: Sequence[bytes]) -> dict[bytes, DataKey | Shredded | Withheld]:
        """Return the keys of these ids; an id that was never held here is absent.

        What is not released to the caller is not even unwrapped.
        """
        self._be_fresh()
        found = self._keys.open(kids, gate=self._gate)
        self._gate.note(found.values())
        return found

    def shred(
        self,
        ref: SubjectRef,
        *,
        now: datetime,
        group: str | None = None,
        generation: int | None = None,
        below: int | None = None,
        spare: Collection[str] = (),
    ) -> ShredReport:
        """Destroy keys; repeated with the same `now` it returns the same report.

        Raises:
            KeyUnavailable: a reader held SQLite's write-ahead log: the keys are unreadable, and the
                same call empties the log later.
        """
        return self._keys.shred(ref, now=now, group=group, generation=generation, below=below, spare=spare)

    def retire(
        self, ref: SubjectRef, *, purpose: str = "", category: Category | None = None
    ) -> dict[str, int]:
        """Let keys of a purpose or a category seal nothing more; return each group's next generation."""
        return self._keys.retire(ref, purpose=purpose, category=category)

    def shred_group(self, group: str, *, now: datetime) -> int:
        """Destroy every key of a group, at most 1,000 in one transaction; return how many.

        Raises:
            KeyUnavailable: as with `shred`.
        """
        return self._keys.shred_group(group, now=now)

    def aged_keys(self, before: Mapping[Category, datetime], *, after: int) -> AgedKeys:
        """Return live keys of these categories that were created earlier, from the next 20,000 rows."""
        return self._expiry.aged(before, after=after)

    def keys_of(self, ref: SubjectRef) -> tuple[KeyGeneration, ...]:
        """Return every key of a reference that ever sealed records, by group and generation."""
        return self._expiry.of(ref)

    def shred_expired(self, keys: Sequence[KeyGeneration], *, now: datetime) -> tuple[KeyGeneration, ...]:
        """Destroy keys as retention, at most 1,000 in one transaction; return those that were live.

        Raises:
            KeyUnavailable: as with `shred`.
        """
        return self._expiry.shred(keys, now=now)

    def standing_of(self, ref: SubjectRef) -> KeyStanding:
        """Return how many keys of a reference there are and were, and the keystore's newest epoch."""
        with self._store.read():
            ((held, destroyed),) = cast(
                "list[tuple[int, int]]",
                self._store.select("SELECT count(*), count(shredded_at) FROM keys WHERE ref = ?", (ref,)),
            )
            epoch = max(self._wrapper.current_epoch(), self._store.number("epoch"))
        return KeyStanding(live=held - destroyed, destroyed=destroyed, epoch=epoch)

    def end(self, ref: SubjectRef, *, now: datetime, spare: Collection[str] = ()) -> None:
        """End a reference for ever; keys that it has stay readable until they are shredded."""
        mark = self._marks.ref(ref)
        at, groups = microseconds(now), tuple(sorted(set(spare)))
        with self._recorder.write():
            if not self._is_ended(mark) or not set(self._recorder.spared(mark)) <= set(groups):
                self._recorder.record(Op.END, [mark], at=at, groups=groups)
                self._recorder.end(mark, at=at, groups=groups)
        self._cache.drop_sealing()

    def live_groups(self, ref: SubjectRef) -> tuple[str, ...]:
        """Return the groups in which a reference has a key in use, in order."""
        return self._keys.live_groups(ref)

    def is_ended(self, ref: SubjectRef) -> bool:
        """Return whether the reference was ended."""
        with self._store.read():
            return self._is_ended(self._marks.ref(ref))

    def ended_refs(self) -> tuple[SubjectRef, ...]:
        """Return the ended references whose keys or identities have rows here, in no order."""
        self._be_fresh()
        with self._store.read():
            ended = {mark for (mark,) in self._store.select("SELECT mark FROM ended")}
            refs = self._store.select("SELECT ref FROM keys UNION SELECT ref FROM refs") if ended else []
        return tuple(ref for (ref,) in cast("list[tuple[SubjectRef]]", refs) if self._marks.ref(ref) in ended)

    def _is_ended(self, mark: bytes) -> bool:
        return bool(self._store.select("SELECT 1 FROM ended WHERE mark = ?", (mark,)))

    def _be_fresh(self) -> None:
        """Make sure of journal, lease and revision before a key is released."""
        if not self._cache.is_fresh():
            self._wrapper.forget_destroyed()
            self._recorder.follow()
            self._cache.renew()

    # Ledger-wide secrets -------------------------------------------------------------------------

    def secret(self, name: str) -> bytes:
        """Return a ledger-wide 32-byte secret by name, created once."""
        known = self._secrets.get(name)
        if known is None:
            place = secret_place(name)
            with self._store.read():
                known = self._held_secret(name, place)
            if known is None:
                with self._store.write():
                    known = self._held_secret(name, place) or self._new_secret(name, place)
            self._secrets[name] = known
        return known

    def _held_secret(self, name: str, place: bytes) -> bytes | None:
        rows = cast(
            "list[tuple[int, bytes]]",
            self._store.select("SELECT epoch, wrapped FROM secrets WHERE name = ?", (name,)),
        )
        if not rows:
            return None
        ((epoch, wrapped),) = rows
        return self._wrapper.unwrap(epoch, wrapped, place)

    def _new_secret(self, name: str, place: bytes) -> bytes:
        epoch = max(self._wrapper.current_epoch(), self._store.number("epoch"))
        ((secret, wrapped),) = self._wrapper.draw(epoch, [place])
        self._store.execute("INSERT INTO secrets VALUES (?, ?, ?)", (name, epoch, wrapped))
        return secret

    def _pepper(self, keks: FileKeks, journal: ShredJournal, ids: Ids) -> bytes:
        """Return the pepper; its first use proves that the key-encryption keys are the right ones."""
        try:
            with self._store.read():
                held = self._held_secret(self._store.pepper_row, PEPPER_PLACE)
            if held is not None:
                return held
            with self._store.write():
                return self._held_secret(self._store.pepper_row, PEPPER_PLACE) or self._first_pepper(
                    keks, journal, ids
                )
        except InvariantViolation:
            raise KeyUnavailable(
                f"The key-encryption keys in {keks.directory} do not open the keystore {self._store.name}. "
                "Point PRIVACY_LEDGER_KEYS to the folder of this home."
            ) from None

    def _first_pepper(self, keks: FileKeks, journal: ShredJournal, ids: Ids) -> bytes:
        if journal.size():
            raise KeyUnavailable(
                f"The keystore {self._store.name} is new, and the shred journal in {keks.directory} is not. "
                "Restore the keystore from its backup, or give the new home its own folder of keys."
            )
        if not keks.epochs():
            keks.create(FIRST_EPOCH, ids=ids)
        return self._new_secret(self._store.pepper_row, PEPPER_PLACE)

    def close(self) -> None:
        """Give the lease back and close the database; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._secrets.clear()
        with suppress(LedgerError):  # a lease that stays lapses by itself; counts are estimates
            self._cache.release()
        self._store.close()
