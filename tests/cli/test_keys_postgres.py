"""The commands on a home whose keystore is in PostgreSQL."""

from collections.abc import Iterator

import pytest

from privacy_ledger.testing.postgres import PostgresProcess
from tests.cli.cli import Cli, enrolled, subject

DATABASE = "home_of_the_commands"


@pytest.fixture
def in_postgres(cli: Cli, postgres: PostgresProcess) -> Iterator[Cli]:
    """Yield the command on a new home, with its keystore in a database of its own."""
    postgres.sql(f"CREATE DATABASE {DATABASE}")
    cli.more["PRIVACY_LEDGER_KEYSTORE"] = postgres.url(DATABASE)
    yield cli
    postgres.sql(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def test_everything_goes_through_the_database(in_postgres: Cli, postgres: PostgresProcess) -> None:
    """Ingest, erase, roll, lose the keystore and restore it; the home itself holds no keystore."""
    run = in_postgres.run
    taken = in_postgres.ingest([enrolled(1), enrolled(2)])
    erased = run("erase", subject(1), "--yes")
    rolled = run("keys", "roll", "--final-now", "--yes")
    backup = run("keys", "backup")
    postgres.sql("DROP SCHEMA privacy_ledger_keystore CASCADE", database=DATABASE)
    lost = run("subject", "show", subject(2))
    restored = run("keys", "restore", backup.document["path"], "--yes")
    gone, other = run("subject", "show", subject(1)), run("subject", "show", subject(2))
    assert [one.code for one in (taken, erased, rolled, backup, lost, restored)] == [0, 0, 0, 0, 1, 0]
    assert rolled.document["destroyed"] == [1]
    assert (gone.document["status"], other.document["status"]) == ("erased", "active")
    assert list(in_postgres.home.glob("keystore*")) == []


def test_a_server_that_is_not_there_is_said_without_its_password(cli: Cli) -> None:
    """The sentence names host and database, and the exit code is that of a failure."""
    cli.more["PRIVACY_LEDGER_KEYSTORE"] = "postgresql://ledger:not-shown@127.0.0.1:1/keystore"
    refused = cli.run("init")
    assert refused.code == 1
    assert "postgresql://127.0.0.1:1/keystore cannot be used" in refused.err
    assert "not-shown" not in refused.err + refused.out


def test_an_address_that_is_none_is_a_matter_of_usage(cli: Cli) -> None:
    """The variable is named and its value is not."""
    cli.more["PRIVACY_LEDGER_KEYSTORE"] = "mysql://ledger:not-shown@127.0.0.1/keystore"
    refused = cli.run("init")
    assert refused.code == 2
    assert "PRIVACY_LEDGER_KEYSTORE" in refused.err
    assert "not-shown" not in refused.err + refused.out
