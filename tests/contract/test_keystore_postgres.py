import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from rich.pretty import pretty_repr

from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.keystore import FileKeks, PostgresAddress
from privacy_ledger.adapters.keystore._postgres import translated
from privacy_ledger.adapters.keystore.postgres import PostgresKeyVault
from privacy_ledger.adapters.keystore.restoring import Restored, restore_keystore
from privacy_ledger.domain.errors import HomeUnusable, InvariantViolation, KeyUnavailable, RefusedByPolicy
from privacy_ledger.domain.key_release import RIGHTS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import DataKey, Identity, IdentityStatus, KeyVault, KeyWant, Shredded
from privacy_ledger.testing.contracts.key_backups import KeyBackupsContract
from privacy_ledger.testing.contracts.key_expiry import KeyExpiryContract
from privacy_ledger.testing.contracts.key_keeper import KeyKeeperContract, Place
from privacy_ledger.testing.contracts.key_lanes import KeyLanesContract
from privacy_ledger.testing.contracts.key_release import KeyReleaseContract, OpenVault
from privacy_ledger.testing.contracts.key_sharing import KeySharingContract
from privacy_ledger.testing.contracts.key_sparing import KeySparingContract
from privacy_ledger.testing.contracts.key_vault import KeyVaultContract
from privacy_ledger.testing.postgres import (
    PostgresProcess,
    postgres_programs,
    running_postgres,
    server_folder,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
REF = SubjectRef(b"r" * 16)
ADA = Identity("openedx:user_id", "1")
NAMESPACE = "openedx:user_id"
_DATABASES = count()


class Clock:
    """A machine's clock that the test moves."""

    def __init__(self) -> None:
        """Start somewhere."""
        self.seconds = 1000.0

    def __call__(self) -> float:
        """Return the seconds since the machine started."""
        return self.seconds


class Keystore:
    """A database of one test's own and its folder of keys."""

    def __init__(self, server: PostgresProcess, folder: Path, stack: ExitStack) -> None:
        """Make the database; nothing is in it before the first `open`."""
        self.server = server
        self.keys = folder / "keys"
        self.clock = Clock()
        self.database = f"test{next(_DATABASES)}"
        self._stack = stack
        server.sql(f"CREATE DATABASE {self.database}")

    @property
    def address(self) -> PostgresAddress:
        """Where the database is."""
        return PostgresAddress(self.server.url(self.database))

    def open(self) -> PostgresKeyVault:
        """Open the keystore once more; the test's end closes it."""
        vault = PostgresKeyVault(self.address, FileKeks(self.keys), ids=SystemIds(), clock=self.clock)
        self._stack.callback(vault.close)
        return vault.released_to(RIGHTS)

    def restore(self, backup: Path) -> Restored:
        """Put a backup in the place of the keystore."""
        return restore_keystore(
            self.address, backup, FileKeks(self.keys), ids=SystemIds(), beside_others=True
        )

    def lose(self) -> None:
        """Drop the keystore's schema."""
        self.server.sql("DROP SCHEMA privacy_ledger_keystore CASCADE", database=self.database)

    def pass_seconds(self, seconds: float) -> None:
        """Move this machine's clock."""
        self.clock.seconds += seconds

    def sql(self, statement: str) -> str:
        """Run a statement behind the keystore's back."""
        return self.server.sql(
            f"SET search_path = privacy_ledger_keystore; {statement}", database=self.database
        )

    def dump(self) -> str:
        """Return the rows of every table as text."""
        tables = ("keys", "material", "secrets", "identities", "refs", "ended")
        return "".join(self.sql(f"TABLE {table}") for table in tables)

    def cut(self) -> None:
        """End every connection to the database from the server's side."""
        self.server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%keystore'"
        )


@pytest.fixture
def keystore(postgres: PostgresProcess, tmp_path: Path) -> Iterator[Keystore]:
    """Yield a new keystore on the run's server."""
    with ExitStack() as stack:
        new = Keystore(postgres, tmp_path, stack)
        stack.callback(lambda: postgres.sql(f"DROP DATABASE {new.database} WITH (FORCE)"))
        yield new


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Keystore]:
    """Yield a new keystore on a server of the test's own, to stop and start."""
    with ExitStack() as stack:
        server = stack.enter_context(running_postgres())
        yield Keystore(server, tmp_path, stack)


def sealing(vault: KeyVault, *, ref: SubjectRef = REF) -> DataKey:
    """Return the current key of a reference."""
    (key,) = vault.sealing_keys([KeyWant(ref, "usage")], now=NOW)
    return key


def many(number: int) -> list[KeyWant]:
    """Return wants of as many persons."""
    return [KeyWant(SubjectRef(n.to_bytes(16, "big")), "usage") for n in range(number)]


class TestPostgresKeyVault(KeyVaultContract):
    """The contract, kept by the keystore in PostgreSQL."""

    @pytest.fixture
    def open_vault(self, keystore: Keystore) -> Callable[[], KeyVault]:
        """Return what opens the test's keystore."""
        return keystore.open


class TestPostgresRelease(KeyReleaseContract):
    """The contract of who gets which keys, kept by the PostgreSQL keystore."""

    @pytest.fixture
    def open_vault(self, keystore: Keystore) -> OpenVault:
        """Return what opens the test's own keystore."""
        return keystore.open


class TestPostgresSharing(KeySharingContract, KeyLanesContract):
    """The contracts of sharing processes and of lanes, kept by the PostgreSQL keystore."""

    @pytest.fixture
    def place(self, keystore: Keystore) -> Place:
        """Return the test's own place."""
        return keystore


class TestPostgresKeeper(KeyKeeperContract, KeyBackupsContract, KeySparingContract, KeyExpiryContract):
    """The contract of the whole, kept by the keystore in PostgreSQL."""

    @pytest.fixture
    def place(self, keystore: Keystore) -> Place:
        """Return the test's keystore."""
        return keystore


def test_statements_are_read_in_the_order_of_their_values() -> None:
    """Values keep their places, and the rows that were asked for come last."""
    assert translated("UPDATE k SET a = ? WHERE b = ?") == ("UPDATE k SET a = $1 WHERE b = $2", False)
    text, asks = translated("SELECT 1 FROM temp.wanted w CROSS JOIN k ON k.a = w.a WHERE k.b = ? AND k.c = ?")
    assert asks
    assert text == (
        "SELECT 1 FROM unnest($3::bigint[], $4::bytea[], $5::text[], $6::bigint[]) AS w(slot, a, b, n) "
        "JOIN k ON k.a = w.a WHERE k.b = $1 AND k.c = $2"
    )


def test_no_representation_shows_the_password(keystore: Keystore) -> None:
    """Neither of the address nor of what holds it, nor does an error."""
    vault = keystore.open()
    shown = [vault, keystore.address, *vars(vault).values(), str(keystore.address)]
    assert keystore.server.password not in "".join(map(repr, shown)) + pretty_repr(shown)
    wrong = PostgresAddress(keystore.address.url.replace(keystore.server.password, "not-the-password"))
    with pytest.raises(KeyUnavailable, match="refuses the user") as refused:
        PostgresKeyVault(wrong, FileKeks(keystore.keys), ids=SystemIds())
    assert "not-the-password" not in str(refused.value)


def test_a_copy_of_the_database_holds_no_key_in_clear(keystore: Keystore) -> None:
    """Data keys, secrets and platform ids are wrapped or hashed."""
    vault = keystore.open()
    vault.mint([(Identity(NAMESPACE, "a-platform-id"),)], now=NOW, not_before=NOW)
    key, secret = sealing(vault), vault.secret("row-key")
    dump = keystore.dump()
    assert key.kid.hex() in dump
    assert [part for part in (key.secret.hex(), secret.hex(), "a-platform-id") if part in dump] == []


def test_another_layout_is_refused(keystore: Keystore) -> None:
    """The message names both versions."""
    keystore.open().close()
    keystore.sql("UPDATE numbers SET value = 9 WHERE name = 'layout'")
    with pytest.raises(HomeUnusable, match="layout 9"):
        keystore.open()


def test_a_server_that_does_not_sync_is_refused(tmp_path: Path, postgres: PostgresProcess) -> None:
    """What it acknowledges may be lost: keys must not be."""
    assert postgres.port
    with running_postgres(settings=["fsync=off"]) as server, ExitStack() as stack:
        keystore = Keystore(server, tmp_path, stack)
        with pytest.raises(HomeUnusable, match="fsync"):
            keystore.open()


def test_swapped_material_does_not_open(keystore: Keystore) -> None:
    """Wrapped bytes belong to their row."""
    vault = keystore.open()
    first, _ = vault.sealing_keys(many(2), now=NOW)
    vault.close()
    keystore.sql("UPDATE material SET wrapped = (SELECT wrapped FROM material WHERE id = 2) WHERE id = 1")
    with pytest.raises(InvariantViolation, match="does not open in its row"):
        keystore.open().open_keys([first.kid])


def test_a_shredded_key_is_overwritten_and_the_journal_names_nobody(keystore: Keystore) -> None:
    """No later reader of the tables finds its wrapped form."""
    vault = keystore.open()
    (ref,) = vault.mint([(ADA,)], now=NOW, not_before=NOW)
    key = sealing(vault, ref=ref)
    vault.shred(ref, now=NOW)
    vault.end(ref, now=NOW)
    assert keystore.sql("SELECT encode(wrapped, 'hex') FROM material") == "00" * 60
    journal = (keystore.keys / "journal.ndjson").read_text()
    assert [name for name in (ref.hex(), key.kid.hex()) if name in journal] == []


def test_an_older_database_forgets_again_what_was_destroyed(keystore: Keystore) -> None:
    """A copy from before an erasure releases no key of the erased, and mints nobody who was."""
    vault = keystore.open()
    (ref,) = vault.mint([(ADA,)], now=NOW, not_before=NOW)
    key, kept = vault.sealing_keys([KeyWant(ref, "usage"), KeyWant(REF, "usage")], now=NOW)
    vault.close()
    copy = f"{keystore.database}copy"
    keystore.server.sql(f"CREATE DATABASE {copy} TEMPLATE {keystore.database}")
    vault = keystore.open()
    vault.end(ref, now=NOW)
    vault.shred(ref, now=NOW)
    vault.erase_identities(ref, now=NOW)
    vault.close()
    keystore.server.sql(f"DROP DATABASE {keystore.database}")
    keystore.database = copy

    restored = keystore.open()

    assert restored.open_keys([key.kid, kept.kid]) == {key.kid: Shredded(ref, "usage", 0), kept.kid: kept}
    (row,) = restored.find([ADA])
    assert row is not None
    assert (row.status, restored.is_ended(ref)) == (IdentityStatus.ERASED, True)


def test_an_older_copy_under_an_open_vault_releases_nothing_before_the_journal_is_applied(
    keystore: Keystore,
) -> None:
    """Within the second in which it asks nobody; at its next look it destroys again what was destroyed."""
    vault = keystore.open()
    gone, kept = vault.sealing_keys(many(2), now=NOW)
    keystore.sql("CREATE TABLE old_numbers AS TABLE numbers; CREATE TABLE old_material AS TABLE material")
    vault.shred(gone.ref, now=NOW)
    other = keystore.open()
    assert other.open_keys([gone.kid]) == {gone.kid: Shredded(gone.ref, "usage", 0)}
    keystore.sql(
        "BEGIN; DELETE FROM numbers; INSERT INTO numbers TABLE old_numbers; "
        "DELETE FROM material; INSERT INTO material TABLE old_material; "
        "UPDATE keys SET shredded_at = NULL, revision = NULL; COMMIT"
    )
    with pytest.raises(KeyUnavailable, match="behind its shred journal"):
        other.open_keys([kept.kid])
    with pytest.raises(KeyUnavailable, match="behind its shred journal"):
        other.sealing_keys([KeyWant(REF, "usage")], now=NOW)
    keystore.clock.seconds += 2
    assert other.open_keys([gone.kid, kept.kid]) == {gone.kid: Shredded(gone.ref, "usage", 0), kept.kid: kept}


def test_uses_are_counted_and_a_full_generation_rolls(keystore: Keystore) -> None:
    """A want counts one, and 2**24 records are the most that one key seals, for all processes together."""
    vault = keystore.open()
    key = sealing(vault)
    vault.sealing_keys([KeyWant(REF, "usage")] * 4, now=NOW)
    vault.close()
    assert keystore.sql("SELECT used FROM keys") == "5"
    keystore.sql("UPDATE keys SET used = (1 << 24) - 1")
    vault = keystore.open()
    assert sealing(vault) == key
    assert sealing(vault).generation == 1
    vault.close()
    assert sealing(keystore.open()).generation == 1


# Servers that go away -------------------------------------------------------------------------


def test_a_server_that_is_down_is_unavailable_and_then_found_again(own: Keystore) -> None:
    """The same vault goes on after a restart, with what it was told before."""
    vault = own.open()
    key = sealing(vault)
    own.server.kill()
    own.clock.seconds += 2
    with pytest.raises(KeyUnavailable):
        vault.open_keys([key.kid])
    with pytest.raises(KeyUnavailable):
        vault.find([ADA])
    own.server.start()
    assert vault.open_keys([key.kid]) == {key.kid: key}
    assert sealing(vault) == key


def test_a_connection_that_is_cut_is_made_again(keystore: Keystore) -> None:
    """What was cut left nothing, and the same call does it later."""
    vault = keystore.open()
    store = vault._store  # noqa: SLF001 - the cut falls between two statements of one transaction

    def write() -> None:
        with store.write():
            store.set_number("journal", 7)
            keystore.cut()
            store.number("journal")

    with pytest.raises(KeyUnavailable):
        write()
    with store.read():
        assert store.number("journal") == 0
    assert sealing(vault).generation == 0


def test_what_was_acknowledged_is_on_the_synchronous_standby(tmp_path: Path, own: Keystore) -> None:
    """The primary dies at once after keys were handed out: the promoted standby has all of them."""
    vault = own.open()
    with server_folder() as folder, ExitStack() as stack:
        standby = PostgresProcess(postgres_programs(), folder)
        standby.copy_of(own.server, name="standby")
        standby.start()
        stack.callback(standby.kill)
        own.server.sql("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        own.server.sql("SELECT pg_reload_conf()")
        keys = list(vault.sealing_keys(many(500), now=NOW))
        (shredded,) = vault.sealing_keys([KeyWant(REF, "usage")], now=NOW)
        vault.shred(REF, now=NOW)
        with pytest.raises(KeyUnavailable, match="standby"):
            PostgresKeyVault(PostgresAddress(standby.url(own.database)), FileKeks(own.keys), ids=SystemIds())
        own.server.kill()
        standby.promote()
        shutil.copytree(own.keys, tmp_path / "moved-keys")
        after = PostgresKeyVault(
            PostgresAddress(standby.url(own.database)), FileKeks(tmp_path / "moved-keys"), ids=SystemIds()
        ).released_to(RIGHTS)
        stack.callback(after.close)
        found = after.open_keys([key.kid for key in (*keys, shredded)])
    assert [found.pop(key.kid) for key in keys] == keys
    assert found == {shredded.kid: Shredded(REF, "usage", 0)}


# Several processes ----------------------------------------------------------------------------


def test_another_opener_sees_a_shred_within_a_second_of_use(keystore: Keystore) -> None:
    """And seals under the next generation; before, it may still answer."""
    first, second = keystore.open(), keystore.open()
    key = sealing(first)
    assert second.open_keys([key.kid]) == {key.kid: key}
    first.shred(REF, now=NOW)
    keystore.clock.seconds += 1.0
    assert second.open_keys([key.kid]) == {key.kid: Shredded(REF, "usage", 0)}
    assert sealing(second).generation == 1


def test_another_opener_refuses_an_ended_reference_within_a_second(keystore: Keystore) -> None:
    """A cached sealing key does not outlive the end of its person."""
    first, second = keystore.open(), keystore.open()
    sealing(second)
    first.end(REF, now=NOW)
    keystore.clock.seconds += 1.0
    with pytest.raises(RefusedByPolicy):
        sealing(second)


def test_a_lease_ends_on_the_servers_clock(keystore: Keystore) -> None:
    """Machines have clocks of their own since they started; a lease must mean the same to all."""
    vault = keystore.open()
    sealing(vault)
    left = float(keystore.sql("SELECT until - extract(epoch FROM clock_timestamp()) FROM leases"))
    assert 5 < left <= 10
    vault.close()
    assert keystore.sql("SELECT count(*) FROM leases") == "0"


def mint_many(address: str, keys: Path, barrier: "multiprocessing.synchronize.Barrier", answer: Path) -> None:
    """Mint the same 500 identities as another process, at the same moment, in batches."""
    vault = PostgresKeyVault(PostgresAddress(address), FileKeks(keys), ids=SystemIds()).released_to(RIGHTS)
    barrier.wait(60)
    refs: list[SubjectRef] = []
    for first in range(0, 500, 10):
        groups = [(Identity(NAMESPACE, str(number)),) for number in range(first, first + 10)]
        refs += vault.mint(groups, now=NOW, not_before=NOW)
        vault.sealing_keys([KeyWant(ref, "usage") for ref in refs[-10:]], now=NOW)
    vault.close()
    answer.write_text(b"".join(refs).hex())


def test_two_processes_that_mint_the_same_people_agree(keystore: Keystore) -> None:
    """500 identities get one reference each, and each of them one key; the first start races too."""
    answers = [keystore.keys.parent / name for name in ("first", "second")]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=mint_many, args=(keystore.address.url, keystore.keys, barrier, answer))
        for answer in answers
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    first, second = (answer.read_text() for answer in answers)
    assert first == second
    assert len({first[at : at + 32] for at in range(0, len(first), 32)}) == 500
    assert keystore.sql("SELECT count(*), count(DISTINCT (ref, grp)) FROM keys") == "500|500"
    assert os.environ.get("PRIVACY_LEDGER_KEYSTORE") is None


def hold(address: str, keys: Path, kid: bytes, answer: Path) -> None:
    """Hold a key as another process, on a clock that stands still, until it is destroyed."""
    vault = PostgresKeyVault(
        PostgresAddress(address), FileKeks(keys), ids=SystemIds(), clock=lambda: 1000.0
    ).released_to(RIGHTS)
    held = vault.open_keys([kid])[kid]
    answer.with_suffix(".ready").touch()
    ends_at = time.monotonic() + 30
    while isinstance(held, DataKey) and time.monotonic() < ends_at:
        held = vault.open_keys([kid])[kid]
    vault.close()
    answer.write_text(type(held).__name__)


def test_another_process_forgets_a_destroyed_key_at_once(keystore: Keystore) -> None:
    """Its lease is good and its next look is due never: only the notification tells it."""
    vault = keystore.open()
    key, answer = sealing(vault), keystore.keys.parent / "answer"
    process = multiprocessing.get_context("spawn").Process(
        target=hold, args=(keystore.server.url(keystore.database), keystore.keys, key.kid, answer)
    )
    process.start()
    ends_at = time.monotonic() + 60
    while not answer.with_suffix(".ready").exists():
        assert time.monotonic() < ends_at
        time.sleep(0.01)
    vault.shred(REF, now=NOW)
    process.join(timeout=60)
    assert answer.read_text() == "Shredded"
