import ctypes
import json
import multiprocessing
import os
import resource
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from rich.pretty import pretty_repr

from privacy_ledger.adapters.keystore import FileKeks, SqliteKeyVault
from privacy_ledger.adapters.keystore.restoring import Restored, restore_keystore
from privacy_ledger.domain.errors import (
    HomeUnusable,
    InvariantViolation,
    KeyUnavailable,
    RefusedByPolicy,
    StoreFull,
)
from privacy_ledger.domain.key_release import RIGHTS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import (
    DataKey,
    Identity,
    IdentityStatus,
    KeyVault,
    KeyWant,
    Shredded,
)
from privacy_ledger.testing.contracts.key_backups import KeyBackupsContract
from privacy_ledger.testing.contracts.key_expiry import KeyExpiryContract
from privacy_ledger.testing.contracts.key_keeper import KeyKeeperContract, Place
from privacy_ledger.testing.contracts.key_lanes import KeyLanesContract
from privacy_ledger.testing.contracts.key_release import KeyReleaseContract, OpenVault
from privacy_ledger.testing.contracts.key_sharing import KeySharingContract
from privacy_ledger.testing.contracts.key_sparing import KeySparingContract
from privacy_ledger.testing.contracts.key_vault import KeyVaultContract

NOW = datetime(2026, 3, 1, tzinfo=UTC)
REF = SubjectRef(b"r" * 16)
ADA = Identity("openedx:user_id", "1")
NAMESPACE = "openedx:user_id"


class RandomIds:
    """Identifiers from the operating system."""

    def token(self, size: int = 16) -> bytes:
        """Return random bytes."""
        return os.urandom(size)


class Clock:
    """A clock of the machine that the test moves."""

    def __init__(self) -> None:
        """Start somewhere."""
        self.seconds = 1000.0

    def __call__(self) -> float:
        """Return the seconds since the machine started."""
        return self.seconds


class Home:
    """A keystore and its folder of keys, below one test's own folder."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        """Take the folder; nothing is made before the first `open`."""
        self.directory = directory
        self.path = directory / "keystore.sqlite"
        self.keys = directory / "keys"
        self.journal = self.keys / "journal.ndjson"
        self.clock = Clock()
        self._stack = stack

    def open(self) -> SqliteKeyVault:
        """Open the keystore once more; the test's end closes it."""
        vault = SqliteKeyVault(self.path, FileKeks(self.keys), ids=RandomIds(), clock=self.clock)
        self._stack.callback(vault.close)
        return vault.released_to(RIGHTS)

    def connect(self) -> sqlite3.Connection:
        """Open the file behind the keystore's back."""
        return self._stack.enter_context(closing(sqlite3.connect(self.path, isolation_level=None)))

    def back_up(self) -> bytes:
        """Return the keystore's file as a backup holds it."""
        with closing(sqlite3.connect(self.path)) as source, closing(sqlite3.connect(":memory:")) as target:
            source.backup(target)
            return target.serialize()

    def put_back(self, copy: bytes) -> None:
        """Put a copy in the place of the keystore's file, behind the program's back."""
        self.lose()
        self.path.write_bytes(copy)

    def lose(self) -> None:
        """Remove the keystore's files."""
        for name in ("", "-wal", "-shm"):
            Path(f"{self.path}{name}").unlink(missing_ok=True)

    def restore(self, backup: Path) -> Restored:
        """Put a backup in the place of the keystore."""
        return restore_keystore(self.path, backup, FileKeks(self.keys), ids=RandomIds(), beside_others=True)

    def pass_seconds(self, seconds: float) -> None:
        """Move the machine's clock."""
        self.clock.seconds += seconds

    def residue(self) -> bytes:
        """Return every byte of the keystore and of its folder of keys, except the keys themselves."""
        files = [*self.directory.glob("keystore.sqlite*"), self.journal]
        return b"".join(file.read_bytes() for file in files if file.exists())

    def wrapped(self) -> dict[bytes, bytes]:
        """Return the wrapped material by kid."""
        query = "SELECT k.kid, m.wrapped FROM keys k JOIN material m ON m.id = k.id"
        return dict(self.connect().execute(query).fetchall())


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Yield a new home."""
    with ExitStack() as stack:
        yield Home(tmp_path, stack)


def many(count: int) -> list[KeyWant]:
    """Return wants of as many persons."""
    return [KeyWant(SubjectRef(number.to_bytes(16, "big")), "usage") for number in range(count)]


def sealing(vault: KeyVault, group: str = "usage", *, now: datetime = NOW) -> DataKey:
    """Return the current key of `REF`."""
    (key,) = vault.sealing_keys([KeyWant(REF, group)], now=now)
    return key


class TestSqliteKeyVault(KeyVaultContract):
    """The contract, kept by the SQLite keystore."""

    @pytest.fixture
    def open_vault(self, home: Home) -> Callable[[], KeyVault]:
        """Return what opens the test's home."""
        return home.open


class TestSqliteRelease(KeyReleaseContract):
    """The contract of who gets which keys, kept by the SQLite keystore."""

    @pytest.fixture
    def open_vault(self, home: Home) -> OpenVault:
        """Return what opens the test's own keystore."""
        return home.open


class TestSqliteSharing(KeySharingContract, KeyLanesContract):
    """The contracts of sharing processes and of lanes, kept by the SQLite keystore."""

    @pytest.fixture
    def place(self, home: Home) -> Place:
        """Return the test's own place."""
        return home


class TestSqliteKeeper(KeyKeeperContract, KeyBackupsContract, KeySparingContract, KeyExpiryContract):
    """The contract of the whole, kept by the SQLite keystore."""

    @pytest.fixture
    def place(self, home: Home) -> Place:
        """Return the test's home."""
        return home


# Files ----------------------------------------------------------------------------------------


def test_all_files_are_the_owners_alone(home: Home) -> None:
    """Keystore, write-ahead log, journal and key-encryption key have mode 0600, their folder 0700."""
    vault = home.open()
    sealing(vault)
    vault.end(REF, now=NOW)
    modes = {path.name: path.stat().st_mode & 0o777 for path in home.directory.rglob("*")}
    assert modes == {
        "keys": 0o700,
        "epoch-1.kek": 0o600,
        "journal.ndjson": 0o600,
        "keystore.sqlite": 0o600,
        "keystore.sqlite-wal": 0o600,
        "keystore.sqlite-shm": 0o600,
    }


@pytest.mark.parametrize(
    ("name", "mode", "command"),
    [("epoch-1.kek", 0o640, "chmod 600"), ("epoch-1.kek", 0o604, "chmod 600"), ("", 0o750, "chmod 700")],
)
def test_keys_that_others_may_read_are_refused(home: Home, name: str, mode: int, command: str) -> None:
    """The message holds the command that closes them."""
    home.open().close()
    path = home.keys / name
    path.chmod(mode)
    with pytest.raises(KeyUnavailable, match=command):
        home.open()


def test_a_missing_key_encryption_key_is_named_by_its_epoch(home: Home) -> None:
    """A keystore with rows and no key is unavailable, and no second first key is made."""
    home.open().close()
    (home.keys / "epoch-1.kek").unlink()
    with pytest.raises(KeyUnavailable, match="epoch 1"):
        home.open()
    assert list(home.keys.iterdir()) == []


def test_the_keys_of_another_home_are_refused(home: Home, tmp_path: Path) -> None:
    """A wrong folder is said to be one, before any record is read."""
    home.open().close()
    with ExitStack() as stack:
        Home(tmp_path / "other", stack).directory.mkdir()
        Home(tmp_path / "other", stack).open()
    shutil.copy(tmp_path / "other" / "keys" / "epoch-1.kek", home.keys)
    with pytest.raises(KeyUnavailable, match="do not open the keystore"):
        home.open()


def test_a_new_keystore_beside_an_old_journal_is_refused(home: Home) -> None:
    """A lost keystore is restored, never replaced by an empty one that forgot whom it erased."""
    vault = home.open()
    vault.end(REF, now=NOW)
    vault.close()
    home.path.unlink()
    with pytest.raises(KeyUnavailable, match="Restore the keystore"):
        home.open()


def test_a_first_start_that_died_is_finished_by_the_next(home: Home) -> None:
    """A key-encryption key without a keystore is used, not replaced."""
    home.open().close()
    key = (home.keys / "epoch-1.kek").read_bytes()
    home.path.unlink()
    home.open()
    assert (home.keys / "epoch-1.kek").read_bytes() == key


@pytest.mark.parametrize("content", [b"not a database, and long enough to be read as one" * 100, b""])
def test_a_file_that_is_no_database_is_refused_or_filled(home: Home, content: bytes) -> None:
    """Foreign bytes stay as they are; an empty file becomes a keystore."""
    home.path.write_bytes(content)
    if content:
        with pytest.raises(HomeUnusable):
            home.open()
        assert home.path.read_bytes() == content
    else:
        assert sealing(home.open()).generation == 0


def test_another_programs_database_is_refused(home: Home) -> None:
    """A file of another application is left as it is."""
    home.connect().execute("CREATE TABLE notes(text)")
    before = home.path.read_bytes()
    with pytest.raises(HomeUnusable, match="is not a keystore"):
        home.open()
    assert home.path.read_bytes() == before


def test_another_layout_is_refused(home: Home) -> None:
    """The message names both versions."""
    home.open().close()
    home.connect().execute("PRAGMA user_version = 9")
    with pytest.raises(HomeUnusable, match="layout 9"):
        home.open()


def test_a_folder_that_is_not_there_is_unavailable(home: Home) -> None:
    """It may be a disk that is not mounted yet: worth another try."""
    home.path = home.directory / "missing" / "keystore.sqlite"
    with pytest.raises(KeyUnavailable):
        home.open()


def test_a_sqlite_that_cannot_erase_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that ignores `secure_delete` would let keys survive."""

    class Deaf(sqlite3.Connection):
        def execute(self, sql: str, values: object = (), /) -> sqlite3.Cursor:
            assert values == ()
            return super().execute("SELECT 0" if sql == "PRAGMA secure_delete" else sql)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Deaf))
    with pytest.raises(HomeUnusable, match="secure_delete"):
        home.open()


def test_a_full_disk_is_said_to_be_full(home: Home) -> None:
    """Nothing that was not made durable is handed out."""
    vault = home.open()
    vault._store.execute("PRAGMA max_page_count = 30")  # noqa: SLF001 - a disk cannot be filled here
    with pytest.raises(StoreFull):
        vault.sealing_keys(many(5000), now=NOW)
    vault._store.execute("PRAGMA max_page_count = 1000000")  # noqa: SLF001 - see above
    keys = vault.sealing_keys(many(5000), now=NOW)
    vault.close()
    assert home.open().open_keys([key.kid for key in keys]) == {key.kid: key for key in keys}


def test_representations_show_no_secrets(home: Home) -> None:
    """Nothing that may end in a log holds key bytes or a platform's id."""
    vault = home.open()
    key = sealing(vault)
    parts = [vault, FileKeks(home.keys), key, ADA, *vars(vault).values()]
    shown = "".join(map(repr, parts)) + pretty_repr(parts)
    secrets = (key.secret, vault.secret("row-key"), (home.keys / "epoch-1.kek").read_bytes())
    assert [secret for secret in secrets if repr(secret)[2:-1] in shown or secret.hex() in shown] == []


# Wrapping -------------------------------------------------------------------------------------


def test_swapped_material_does_not_open(home: Home) -> None:
    """Wrapped bytes belong to their row."""
    vault = home.open()
    first, second = vault.sealing_keys(many(2), now=NOW)
    vault.close()
    wrapped = home.wrapped()
    home.connect().execute(
        "UPDATE material SET wrapped = ? WHERE wrapped = ?", (wrapped[second.kid], wrapped[first.kid])
    )
    with pytest.raises(InvariantViolation):
        home.open().open_keys([first.kid])


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE keys SET ref = x'00112233445566778899aabbccddeeff'",
        "UPDATE keys SET grp = 'profile'",
        "UPDATE keys SET generation = 5",
    ],
)
def test_a_key_moved_to_another_name_does_not_open(home: Home, change: str) -> None:
    """Wrapped bytes are bound to person, group and generation, not to the kid alone."""
    vault = home.open()
    key = sealing(vault)
    vault.close()
    home.connect().execute(change)
    with pytest.raises(InvariantViolation, match="does not open in its row"):
        home.open().open_keys([key.kid])


def test_a_key_under_another_kid_does_not_open(home: Home) -> None:
    """The kid commits to the key, although GCM does not."""
    vault = home.open()
    key = sealing(vault)
    vault.close()
    forged = b"f" * 32
    home.connect().execute("UPDATE keys SET kid = ? WHERE kid = ?", (forged, key.kid))
    with pytest.raises(InvariantViolation, match="does not match its own id"):
        home.open().open_keys([forged])


def test_a_copy_of_the_keystore_holds_no_key_in_clear(home: Home) -> None:
    """Data keys, secrets and platform ids are wrapped or hashed."""
    vault = home.open()
    vault.mint([(Identity(NAMESPACE, "a-platform-id"),)], now=NOW, not_before=NOW)
    key, secret = sealing(vault), vault.secret("row-key")
    vault.close()
    held = home.residue()
    assert [part for part in (key.secret, secret, b"a-platform-id") if part in held] == []


# Destroying -----------------------------------------------------------------------------------


def test_nothing_of_a_shredded_key_is_left(home: Home) -> None:
    """No 8 bytes of 100 wrapped keys stay in the file, its log or the journal; the others stay."""
    vault = home.open()
    keys = vault.sealing_keys(many(1000), now=NOW)
    wrapped = home.wrapped()
    for key in keys[::10]:
        vault.shred(key.ref, now=NOW)
    held = home.residue()
    pieces = {wrapped[key.kid][at : at + 8] for key in keys[::10] for at in (0, 12, 30, 52)}
    assert [piece for piece in pieces if piece in held] == []
    assert [key for key in keys[::10] if key.secret in held or key.kid.hex().encode() in held] == []
    alive = [key for key in keys if key not in keys[::10]]
    assert vault.open_keys([key.kid for key in alive]) == {key.kid: key for key in alive}


def test_one_call_leaves_nothing_of_many_keys(home: Home) -> None:
    """Many generations of one person, half of them destroyed at once, leave no copy of a copy."""
    vault = home.open()
    keys = vault.fresh_keys([(REF, "account")] * 3000 + [(REF, "profile")] * 3000, now=NOW)
    wrapped = home.wrapped()
    report = vault.shred(REF, now=NOW, group="account")
    held = home.residue()
    assert report.by_group == {"account": 3000}
    assert [key for key in keys[:3000] if wrapped[key.kid][20:32] in held] == []
    assert [key for key in keys[3000:] if held.count(wrapped[key.kid][20:32]) != 1] == []


def test_a_group_is_destroyed_in_slices_and_stays_destroyed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No byte of the keys is left, a running process sees it, and an older keystore does it again."""
    monkeypatch.setattr("privacy_ledger.adapters.keystore._keys.SHRED_SLICE", 7)
    vault, other = home.open(), home.open()
    keys = vault.sealing_keys(many(50), now=NOW)
    backup, wrapped = home.back_up(), home.wrapped()
    assert other.open_keys([keys[0].kid]) == {keys[0].kid: keys[0]}
    assert vault.shred_group("usage", now=NOW) == 50
    held = home.residue()
    assert [key for key in keys if wrapped[key.kid][20:32] in held] == []
    home.clock.seconds += 2
    seen = [other.open_keys([key.kid])[key.kid] for key in keys]
    vault.close()
    other.close()
    home.put_back(backup)
    again = [home.open().open_keys([key.kid])[key.kid] for key in keys[:3]]
    assert {type(key) for key in (*seen, *again)} == {Shredded}


def test_beside_a_reader_the_shred_holds_and_says_what_is_left(home: Home) -> None:
    """The keys are unreadable at once; the same call empties the log when the reader is gone."""
    vault = home.open()
    key = sealing(vault)
    material = home.wrapped()[key.kid]
    reader = home.connect()
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM keys").fetchall()
    with pytest.raises(KeyUnavailable, match=r"write-ahead log .* repeat this command"):
        vault.shred(REF, now=NOW)
    assert vault.open_keys([key.kid]) == {key.kid: Shredded(REF, "usage", 0)}
    reader.execute("COMMIT")
    assert vault.shred(REF, now=NOW).kids == (key.kid.hex(),)
    assert material[20:40] not in home.residue()


def test_the_journal_names_nobody(home: Home) -> None:
    """It holds keyed hashes: no reference, no kid, no platform id."""
    vault = home.open()
    (ref,) = vault.mint([(ADA,)], now=NOW, not_before=NOW)
    (key,) = vault.sealing_keys([KeyWant(ref, "usage")], now=NOW)
    vault.end(ref, now=NOW)
    vault.shred(ref, now=NOW)
    vault.erase_identities(ref, now=NOW)
    lines = [json.loads(line) for line in home.journal.read_text().splitlines()]
    assert [(line["sequence"], line["op"], len(line["marks"])) for line in lines] == [
        (1, "end", 1),
        (2, "shred", 1),
        (3, "erase", 1),
    ]
    text = home.journal.read_text()
    assert [name for name in (ref.hex(), key.kid.hex(), key.kid.hex()[:32]) if name in text] == []


def test_a_restored_keystore_forgets_again_what_was_destroyed(home: Home) -> None:
    """Yesterday's backup releases no key of today's erased, and mints nobody who was erased."""
    vault = home.open()
    (ref,) = vault.mint([(ADA,)], now=NOW, not_before=NOW)
    key, kept = vault.sealing_keys([KeyWant(ref, "usage"), KeyWant(REF, "usage")], now=NOW)
    material = home.wrapped()[key.kid]
    backup = home.back_up()
    grace = Identity(NAMESPACE, "2")
    (younger,) = vault.mint([(grace,)], now=NOW, not_before=NOW)
    for erased in (ref, younger):
        vault.end(erased, now=NOW)
        vault.shred(erased, now=NOW)
        vault.erase_identities(erased, now=NOW)
    vault.close()
    home.put_back(backup)

    restored = home.open()

    assert restored.open_keys([key.kid, kept.kid]) == {key.kid: Shredded(ref, "usage", 0), kept.kid: kept}
    statuses = [row.status if row else None for row in restored.find([ADA, grace])]
    assert statuses == [IdentityStatus.ERASED, IdentityStatus.ERASED]
    assert (restored.is_ended(ref), restored.is_ended(younger)) == (True, True)
    assert material[20:40] not in home.residue()
    with pytest.raises(InvariantViolation):
        restored.mint([(grace,)], now=NOW, not_before=NOW)


def test_a_torn_last_line_of_the_journal_is_cut_off(home: Home) -> None:
    """What was never acknowledged does not stop the keystore, and the next entry is whole."""
    vault = home.open()
    vault.end(REF, now=NOW)
    vault.close()
    with home.journal.open("ab") as file:
        file.write(b'{"sequence":2,"st')
    vault = home.open()
    vault.end(SubjectRef(b"t" * 16), now=NOW)
    vault.close()
    sequences = [json.loads(line)["sequence"] for line in home.journal.read_text().splitlines()]
    assert (sequences, home.open().is_ended(REF)) == ([1, 2], True)


def test_a_destruction_that_died_half_way_is_finished_by_the_next_process(home: Home) -> None:
    """The journal is written first: what stands in it happens."""
    vault = home.open()
    key = sealing(vault)
    backup = home.back_up()
    vault.shred(REF, now=NOW)
    vault.close()
    home.put_back(backup)
    assert home.open().open_keys([key.kid]) == {key.kid: Shredded(REF, "usage", 0)}


def test_a_shred_that_failed_after_its_journal_entry_is_finished_by_a_running_process(home: Home) -> None:
    """The keystore refuses the change once; a vault that stays open follows the journal."""
    vault, other = home.open(), home.open()
    key = sealing(vault)
    behind = home.connect()
    behind.execute(
        "CREATE TRIGGER no BEFORE UPDATE OF shredded_at ON keys BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    with pytest.raises(InvariantViolation):
        vault.shred(REF, now=NOW)
    behind.execute("DROP TRIGGER no")
    assert other.open_keys([key.kid]) == {key.kid: Shredded(REF, "usage", 0)}


@pytest.mark.parametrize("damage", [b"", b"x" * 40 + b"\n"])
def test_a_lost_or_changed_journal_stops_the_keystore(home: Home, damage: bytes) -> None:
    """Without its journal a keystore cannot say what must stay destroyed."""
    vault = home.open()
    backup = home.back_up()
    for number in range(3):
        vault.end(SubjectRef(bytes([number]) * 16), now=NOW)
    vault.close()
    if damage:
        home.put_back(backup)
        home.journal.write_bytes(damage + home.journal.read_bytes())
    else:
        home.journal.unlink()
    with pytest.raises(KeyUnavailable, match="journal"):
        home.open()


def test_the_journal_of_another_keystore_is_refused(home: Home, tmp_path: Path) -> None:
    """Two homes must not share a folder of keys."""
    home.open()
    with ExitStack() as stack:
        (tmp_path / "other").mkdir()
        other = Home(tmp_path / "other", stack)
        other.open().end(REF, now=NOW)
        shutil.copy(other.journal, home.journal)
    with pytest.raises(KeyUnavailable, match="another keystore"):
        home.open()


def test_a_large_backup_is_opened_by_several_processes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its keys are, and one that does not open is found by whichever has it."""
    monkeypatch.setattr("privacy_ledger.adapters.keystore._copies.SIDE_BY_SIDE", 100)
    vault = home.open()
    keys = vault.sealing_keys(many(100), now=NOW)
    backups = home.directory / "backups"
    note = vault.keeper.back_up(backups, now=NOW)
    assert note.keys == 100
    assert home.restore(backups / note.name) == Restored(keys=100, applied=0)
    for row in (1, 100):
        copy = backups / f"changed-{row}"
        shutil.copy(backups / note.name, copy)
        with closing(sqlite3.connect(copy, isolation_level=None)) as behind:
            behind.execute("UPDATE keys SET grp = 'profile' WHERE id = ?", (row,))
        with pytest.raises(InvariantViolation, match="does not open in its row"):
            home.restore(copy)
    assert home.open().open_keys([key.kid for key in keys]) == {key.kid: key for key in keys}


class WatchedIds(RandomIds):
    """Identifiers that note, in each process to which they are handed, whether it can be dumped."""

    def __init__(self, notes: Path) -> None:
        """Take the folder of the notes."""
        self.notes = notes

    def __setstate__(self, state: dict[str, Path]) -> None:
        """Arrive in another process."""
        self.notes = state["notes"]
        dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
        limits = resource.getrlimit(resource.RLIMIT_CORE)
        (self.notes / str(os.getpid())).write_text(f"{limits} {dumpable}")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_no_process_that_opens_a_backup_can_be_dumped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each was started anew, so that none has it from the process that asked."""
    monkeypatch.setattr("privacy_ledger.adapters.keystore._copies.SIDE_BY_SIDE", 100)
    notes = tmp_path / "notes"
    notes.mkdir()
    with closing(
        SqliteKeyVault(tmp_path / "keystore.sqlite", FileKeks(tmp_path / "keys"), ids=WatchedIds(notes))
    ) as opened:
        vault = opened.released_to(RIGHTS)
        vault.sealing_keys(many(100), now=NOW)
        vault.keeper.back_up(tmp_path / "backups", now=NOW)
    found = {int(note.name): note.read_text() for note in notes.iterdir()}
    assert set(found.values()) == {"(0, 0) 0"}
    assert os.getpid() not in found


def test_a_backup_whose_opener_is_killed_is_not_noted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system does when memory runs out: the error is ours, and the next call goes on."""
    vault = home.open()
    keys = vault.sealing_keys(many(100), now=NOW)
    monkeypatch.setattr("privacy_ledger.adapters.keystore._copies.SIDE_BY_SIDE", 100)
    with monkeypatch.context() as killing:
        killing.setattr("privacy_ledger.adapters.keystore._copies.forbid_dumps", end_at_once)
        with pytest.raises(KeyUnavailable, match="run the command again"):
            vault.keeper.back_up(home.directory / "backups", now=NOW)
    assert vault.keeper.standing().backup is None
    assert vault.keeper.back_up(home.directory / "backups", now=NOW).keys == len(keys)


def end_at_once() -> None:
    """End this process as a kill does."""
    os._exit(1)


# Several processes ----------------------------------------------------------------------------


def test_another_opener_sees_a_shred_within_a_second_of_use(home: Home) -> None:
    """Its cache is dropped at the first use after that; before, it may still answer."""
    first, second = home.open(), home.open()
    key = sealing(first)
    assert second.open_keys([key.kid]) == {key.kid: key}
    first.shred(REF, now=NOW)
    assert first.open_keys([key.kid]) == {key.kid: Shredded(REF, "usage", 0)}
    home.clock.seconds += 1.0
    assert second.open_keys([key.kid]) == {key.kid: Shredded(REF, "usage", 0)}


def test_another_opener_seals_under_the_next_generation_after_a_shred(home: Home) -> None:
    """The current key of a group is looked up again."""
    first, second = home.open(), home.open()
    assert sealing(first) == sealing(second)
    first.shred(REF, now=NOW)
    home.clock.seconds += 1.0
    assert sealing(second).generation == 1


def test_another_opener_refuses_an_ended_reference_within_a_second(home: Home) -> None:
    """A cached sealing key does not outlive the end of its person."""
    first, second = home.open(), home.open()
    sealing(second)
    first.end(REF, now=NOW)
    home.clock.seconds += 1.0
    with pytest.raises(RefusedByPolicy):
        sealing(second)


def test_without_a_lease_there_is_no_key(home: Home) -> None:
    """A process that cannot renew its lease forgets its keys, and finds them again afterwards."""
    vault = home.open()
    key = sealing(vault)
    blocker = home.connect()
    blocker.execute("BEGIN IMMEDIATE")
    vault._store.execute("PRAGMA busy_timeout = 50")  # noqa: SLF001 - ten seconds of waiting show no more
    home.clock.seconds += 6.0
    assert vault.open_keys([key.kid]) == {key.kid: key}
    home.clock.seconds += 5.0
    with pytest.raises(KeyUnavailable):
        vault.open_keys([key.kid])
    blocker.execute("COMMIT")
    assert vault.open_keys([key.kid]) == {key.kid: key}


def test_a_process_that_slept_through_its_lease_asks_again(home: Home) -> None:
    """Nothing that was cached before the sleep is believed after it."""
    vault = home.open()
    key = sealing(vault)
    with closing(home.connect()) as behind:
        behind.execute("UPDATE keys SET shredded_at = 1")  # a shred that this process was never told of
    home.clock.seconds += 60.0
    assert vault.open_keys([key.kid]) == {key.kid: Shredded(REF, "usage", 0)}


def test_a_lease_row_is_there_while_a_process_holds_keys(home: Home) -> None:
    """It ends ten seconds after its last renewal, and goes with the process."""
    vault = home.open()
    sealing(vault)
    (until,) = home.connect().execute("SELECT until FROM leases").fetchone()
    assert until == home.clock.seconds + 10
    vault.close()
    assert home.connect().execute("SELECT count(*) FROM leases").fetchone() == (0,)


def test_uses_are_counted_and_a_full_generation_rolls(home: Home) -> None:
    """A want counts one, and 2**24 records are the most that one key seals."""
    vault = home.open()
    key = sealing(vault)
    vault.sealing_keys([KeyWant(REF, "usage")] * 4, now=NOW)
    vault.close()
    assert home.connect().execute("SELECT used FROM keys").fetchone() == (5,)
    home.connect().execute("UPDATE keys SET used = ?", (2**24 - 1,))
    vault = home.open()
    assert sealing(vault) == key
    assert sealing(vault).generation == 1


def wait_for(path: Path) -> None:
    """Return when a file is there; two processes meet at it."""
    deadline = time.monotonic() + 60
    while not path.exists():
        if time.monotonic() > deadline:
            pytest.fail(f"{path.name} did not come")
        time.sleep(0.001)


def mint_many(path: Path, keys: Path, start: str, answer: str) -> None:
    """Mint the same 500 identities as another process, at the same moment, in batches."""
    vault = SqliteKeyVault(path, FileKeks(keys), ids=RandomIds()).released_to(RIGHTS)
    Path(answer + ".ready").touch()
    wait_for(Path(start))
    refs: list[str] = []
    for first in range(0, 500, 10):
        groups = [(Identity(NAMESPACE, str(number)),) for number in range(first, first + 10)]
        refs += [ref.hex() for ref in vault.mint(groups, now=NOW, not_before=NOW)]
        vault.sealing_keys([KeyWant(SubjectRef(bytes.fromhex(ref)), "usage") for ref in refs[-10:]], now=NOW)
    vault.close()
    Path(answer).write_text(json.dumps(refs))


def test_two_processes_that_mint_the_same_people_agree(home: Home) -> None:
    """500 identities get one reference each, and each of them one key; the first start races too."""
    start, answers = home.directory / "start", [home.directory / name for name in ("first", "second")]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=mint_many, args=(home.path, home.keys, str(start), str(answer)))
        for answer in answers
    ]
    for process in processes:
        process.start()
    for answer in answers:
        wait_for(Path(f"{answer}.ready"))
    start.touch()
    for process in processes:
        process.join(timeout=60)
    first, second = (json.loads(answer.read_text()) for answer in answers)
    assert first == second
    assert len(set(first)) == 500
    assert home.connect().execute("SELECT count(*) FROM keys").fetchone() == (500,)


def test_a_person_who_is_ended_while_a_key_is_looked_for_gets_none(home: Home) -> None:
    """The end comes after the look, and before the lock is had under which the key would be made."""
    vault, other = home.open(), home.connect()
    sealing(vault)
    (ref,) = vault.mint([(ADA,)], now=NOW, not_before=NOW)
    vault.end(ref, now=NOW)
    row = other.execute("SELECT * FROM ended").fetchone()
    other.execute("DELETE FROM ended")
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO ended VALUES (?, ?, ?)", row)
    with ThreadPoolExecutor(1) as pool:
        sought = pool.submit(vault.sealing_keys, [KeyWant(ref, "usage")], now=NOW)
        time.sleep(0.3)
        other.execute("COMMIT")
        with pytest.raises(RefusedByPolicy):
            sought.result()


def hold(path: Path, keys: Path, kid: bytes, answer: str) -> None:
    """Hold a key as another process, on a clock that stands still, until it is destroyed."""
    vault = SqliteKeyVault(path, FileKeks(keys), ids=RandomIds(), clock=Clock()).released_to(RIGHTS)
    held = vault.open_keys([kid])[kid]
    Path(answer + ".ready").touch()
    ends_at = time.monotonic() + 30
    while isinstance(held, DataKey) and time.monotonic() < ends_at:
        held = vault.open_keys([kid])[kid]
    vault.close()
    Path(answer).write_text(type(held).__name__)


def test_another_process_forgets_a_destroyed_key_at_once(home: Home) -> None:
    """Its lease is good and its next look is due never: only the hint tells it."""
    vault = home.open()
    key, answer = sealing(vault), home.directory / "answer"
    process = multiprocessing.get_context("spawn").Process(
        target=hold, args=(home.path, home.keys, key.kid, str(answer))
    )
    process.start()
    wait_for(Path(f"{answer}.ready"))
    vault.shred(REF, now=NOW)
    process.join(timeout=60)
    assert answer.read_text() == "Shredded"
