"""A keystore as a whole: the epochs that wrap its keys, and its backups."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, cast

from msgspec import Struct

from privacy_ledger.adapters.keystore._backups import Backups, digest_of
from privacy_ledger.adapters.keystore._copies import copy_to, verified
from privacy_ledger.adapters.keystore._database import Database
from privacy_ledger.adapters.keystore._keyring import Keyring
from privacy_ledger.adapters.keystore._marks import Marks
from privacy_ledger.adapters.keystore._material import PEPPER_PLACE, Wrapper, key_place, secret_place
from privacy_ledger.adapters.keystore._recorder import Recorder
from privacy_ledger.adapters.keystore._times import instant, microseconds
from privacy_ledger.adapters.keystore.kek import FileKeks, storage_error
from privacy_ledger.domain.errors import InvariantViolation, KeyUnavailable
from privacy_ledger.ports.keeping import (
    BackupNote,
    Epoch,
    KeystoreStanding,
    OwnBackup,
    Pruned,
    ReleaseCount,
    ReleaseOutcome,
    ReleaseReport,
    RewrapStep,
)
from privacy_ledger.ports.runtime import Ids

__all__ = ["REWRAP_SLICE", "Keeper"]

REWRAP_SLICE: Final = 20_000


class _Held(Struct):
    """Keys that are in use, as older epochs wrap them: their rows, and (epoch, wrapped form, place)."""

    ids: list[int]
    forms: list[tuple[int, bytes, bytes]]


class _Raced(Exception):
    """Another process changed keys between the read of a slice and its write."""


class Keeper:
    """`KeyKeeper` over one vault's own parts."""

    def __init__(
        self,
        store: Database,
        keks: FileKeks,
        *,
        wrapper: Wrapper,
        recorder: Recorder,
        marks: Marks,
        ids: Ids,
    ) -> None:
        """Take the parts of an open vault, which closes them."""
        self._store = store
        self._keks = keks
        self._keyring = Keyring(keks)
        self._wrapper = wrapper
        self._recorder = recorder
        self._name = marks.store()
        self._backups = Backups(self._keyring, store=self._name)
        self._ids = ids

    def __repr__(self) -> str:
        """Return where it is and nothing that is in it."""
        return f"Keeper({self._store.name!r})"

    def standing(self) -> KeystoreStanding:
        """Return how the keystore stands; epochs without a key are told where keys need them."""
        with self._store.read():
            rows = self._store.select(
                "SELECT epoch, count(*) - count(shredded_at), count(shredded_at) FROM keys GROUP BY epoch"
            )
            secrets = self._store.select("SELECT epoch, count(*) FROM secrets GROUP BY epoch")
            entries = self._store.number("journal")
            ((processes,),) = self._store.select("SELECT count(*) FROM leases")
        live: dict[int, int] = {}
        shredded: dict[int, int] = {}
        for epoch, in_use, gone in cast("list[tuple[int, int, int]]", rows):
            live[epoch], shredded[epoch] = in_use, gone
        for epoch, count in cast("list[tuple[int, int]]", secrets):
            live[epoch] = live.get(epoch, 0) + count
        created = self._keyring.created_at()
        numbers = sorted({*created, *(epoch for epoch, count in live.items() if count)})
        return KeystoreStanding(
            epochs=tuple(
                Epoch(
                    number=number, created_at=created.get(number), live=live.get(number, 0),
                    shredded=shredded.get(number, 0),
                )
                for number in numbers
            ),
            backup=self._keyring.backup(store=self._name),
            journal_entries=entries,
            processes=cast("int", processes),
        )  # fmt: skip

    # Epochs -----------------------------------------------------------------------------------

    def create_epoch(self, *, now: datetime) -> int:
        """Make the key of a new epoch, while nobody else wraps anything."""
        with self._recorder.write():
            return self._create_epoch(self._newest() + 1, now=now)

    def succeed_epoch(self, number: int, *, now: datetime) -> int | None:
        """Make the key of a new epoch, unless another process did since the caller looked."""
        with self._recorder.write():
            return self._create_epoch(number + 1, now=now) if self._newest() == number else None

    def _newest(self) -> int:
        return max(self._wrapper.current_epoch(), self._store.number("epoch"))

    def _create_epoch(self, epoch: int, *, now: datetime) -> int:
        # Noted first: who looks meanwhile must not take the file's own time for the epoch's.
        self._keyring.note_created(epoch, at=now)
        self._keks.create(epoch, ids=self._ids)
        self._store.set_number("epoch", epoch)
        return epoch

    def rewrap(self, *, after: int) -> RewrapStep:
        """Wrap a slice anew: computed beside everybody else, written by compare-and-swap."""
        epoch = self._wrapper.current_epoch()
        with self._store.read():
            held = self._slice(epoch, after)
        if not held.ids:
            return RewrapStep(moved=self._rewrap_secrets(epoch), after=None)
        try:
            forms = self._forms(epoch, held)
            with self._recorder.write():
                self._swap(epoch, held, forms)
        except _Raced:
            with self._recorder.write():
                held = self._slice(epoch, after)
                if held.ids:
                    self._swap(epoch, held, self._forms(epoch, held))
        return RewrapStep(moved=len(held.ids), after=held.ids[-1] if held.ids else after)

    def _slice(self, epoch: int, after: int) -> _Held:
        rows = cast(
            "list[tuple[int, int, bytes, bytes, str, int]]",
            self._store.select(
                "SELECT k.id, k.epoch, m.wrapped, k.ref, k.grp, k.generation FROM keys k "
                "CROSS JOIN material m ON m.id = k.id "
                "WHERE k.id > ? AND k.shredded_at IS NULL AND k.epoch < ? ORDER BY k.id LIMIT ?",
                (after, epoch, REWRAP_SLICE),
            ),
        )
        return _Held(
            [row[0] for row in rows],
            [(old, form, key_place(ref, group, number)) for _, old, form, ref, group, number in rows],
        )

    def _forms(self, epoch: int, held: _Held) -> list[bytes]:
        return self._wrapper.rewrap(epoch, held.forms)

    def _swap(self, epoch: int, held: _Held, forms: Sequence[bytes]) -> None:
        """Write new forms where every key is as it was read, inside `write`.

        Raises:
            _Raced: one is not; nothing changes.
        """
        moved = self._store.rewrap(
            [
                (key_id, old, form)
                for key_id, (_, old, _), form in zip(held.ids, held.forms, forms, strict=True)
            ]
        )
        named = self._store.execute(
            "UPDATE keys SET epoch = ? WHERE id BETWEEN ? AND ? AND shredded_at IS NULL AND epoch < ?",
            (epoch, held.ids[0], held.ids[-1], epoch),
        )
        if not moved == named == len(held.ids):
            raise _Raced

    def _rewrap_secrets(self, epoch: int) -> int:
        with self._recorder.write():
            rows = cast(
                "list[tuple[str, int, bytes]]",
                self._store.select("SELECT name, epoch, wrapped FROM secrets WHERE epoch < ?", (epoch,)),
            )
            for name, old, wrapped in rows:
                place = PEPPER_PLACE if name == self._store.pepper_row else secret_place(name)
                (form,) = self._wrapper.rewrap(epoch, [(old, wrapped, place)])
                self._store.execute(
                    "UPDATE secrets SET epoch = ?, wrapped = ? WHERE name = ?", (epoch, form, name)
                )
        return len(rows)

    def destroy_epochs(self, *, through: int, now: datetime) -> tuple[int, ...]:
        """Destroy older epochs' keys, while nobody else wraps or restores anything."""
        with self._recorder.write():
            if through >= self._wrapper.current_epoch():
                raise InvariantViolation(f"Epoch {through} is the newest: it wraps what is new. Roll first.")
            needing = self._store.select(
                "SELECT 1 FROM (SELECT epoch FROM secrets UNION ALL "
                "SELECT epoch FROM keys WHERE shredded_at IS NULL) t WHERE epoch <= ? LIMIT 1",
                (through,),
            )
            if needing:
                raise InvariantViolation(
                    f"Keys that are in use are wrapped under epoch {through} or an older one. "
                    "Run `privacy-ledger keys rotate` first."
                )
            backup = self._keyring.backup(store=self._name)
            if backup is None or backup.oldest_epoch <= through:
                raise KeyUnavailable(
                    f"No verified backup of the keystore could do without epoch {through}. "
                    "Run `privacy-ledger keys backup` first."
                )
            gone = tuple(epoch for epoch in self._keks.epochs() if epoch <= through)
            for epoch in gone:
                self._keyring.note_destroyed(epoch, at=now)
                self._keks.destroy(epoch)
        self._wrapper.forget_destroyed()
        return gone

    # Backups ----------------------------------------------------------------------------------

    def back_up(self, folder: Path, *, now: datetime) -> BackupNote:
        """Write a backup, open every key in it, and only then note it; one that does not open is removed."""
        name = f"keystore-{now:%Y%m%dT%H%M%SZ}-{self._ids.token(4).hex()}.backup"
        path = folder / name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, folder) from error
        copy_to(self._store, path)
        try:
            found = verified(path, self._keks, ids=self._ids)
            note = BackupNote(
                made_at=now, oldest_epoch=found.oldest_epoch, newest_epoch=found.newest_epoch,
                keys=found.keys, name=name, digest=digest_of(path),
            )  # fmt: skip
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        with self._store.write():
            self._keyring.note_backup(note, store=self._name)
        return note

    def backups(self, folder: Path) -> tuple[OwnBackup, ...]:
        """Return the backups of this keystore, and what became of each."""
        return self._backups.own(folder)

    def prune_backups(self, folder: Path) -> Pruned:
        """Remove the files of backups that are over."""
        return self._backups.prune(folder)

    # Releases ---------------------------------------------------------------------------------

    def released(self) -> tuple[ReleaseCount, ...]:
        """Return what is in the running report."""
        with self._store.read():
            return self._counts(0)

    def close_report(self, *, now: datetime) -> int:
        """Give the running report a number, while nobody writes into it."""
        with self._store.write():
            last = self._store.number("report")
            closed = self._store.execute(
                "UPDATE releases SET report = ?, closed_at = ? WHERE report = 0",
                (last + 1, microseconds(now)),
            )
            if closed:
                last += 1
                self._store.set_number("report", last)
        return last

    def reports(self) -> tuple[ReleaseReport, ...]:
        """Return the closed reports, as they were closed."""
        with self._store.read():
            closed = cast(
                "list[tuple[int, int]]",
                self._store.select(
                    "SELECT DISTINCT report, closed_at FROM releases WHERE report > 0 ORDER BY report"
                ),
            )
            return tuple(
                ReleaseReport(number=number, closed_at=instant(at), counts=self._counts(number))
                for number, at in closed
            )

    def _counts(self, report: int) -> tuple[ReleaseCount, ...]:
        rows = self._store.select(
            "SELECT role, purpose, category, outcome, count FROM releases WHERE report = ?", (report,)
        )
        return tuple(
            ReleaseCount(
                role=role, purpose=purpose, category=category, outcome=ReleaseOutcome(outcome), keys=keys
            )
            for role, purpose, category, outcome, keys in sorted(
                cast("list[tuple[str, str, str, str, int]]", rows)
            )
        )
