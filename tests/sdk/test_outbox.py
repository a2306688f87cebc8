"""The outbox over real databases: an event is emitted exactly if the transaction is committed."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pg8000.dbapi
import pytest

from privacy_ledger.sdk import Event, EventInvalid, Refused, TransportInvalid, recorded
from privacy_ledger.sdk.outbox import Connection, Outbox, Relay, Relayed
from privacy_ledger.testing.postgres import PostgresProcess, PostgresUnavailable, running_postgres
from tests.sdk.service import Answer, Request, Service, accepted, granted, problem, registered, results

COLUMNS: Final = ("id", "aggregatetype", "aggregateid", "type", "payload")
Connect = Callable[[], Any]
Database = tuple[Outbox, Connect]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresProcess]:
    """Yield a PostgreSQL server of this module's."""
    try:
        with running_postgres() as found:
            yield found
    except PostgresUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Return an empty outbox and what connects to its database."""

    def sqlite() -> sqlite3.Connection:
        return sqlite3.connect(tmp_path / "app.db")

    def postgresql() -> Any:  # noqa: ANN401 - the driver's own type is none that it declares
        server: PostgresProcess = request.getfixturevalue("server")
        return pg8000.dbapi.connect(
            "ledger", host="127.0.0.1", port=server.port, password=server.password, database="postgres"
        )

    connect: Connect = sqlite if request.param == "sqlite" else postgresql
    outbox = Outbox(source="our-lms", dialect=request.param)
    with closing(connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {outbox.table}")
        cursor.execute("DROP TABLE IF EXISTS orders")
        cursor.execute(outbox.ddl)
        cursor.execute(outbox.ddl)
        cursor.execute("CREATE TABLE orders (number INTEGER)")
        connection.commit()
    return outbox, connect


def ids(connect: Connect, outbox: Outbox) -> list[str]:
    """Return the ids in the table, in order."""
    with closing(connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(f"SELECT id FROM {outbox.table} ORDER BY position")  # noqa: S608 - of this test
        return [row[0] for row in cursor.fetchall()]


def written(connect: Connect, outbox: Outbox, *events: Event) -> None:
    """Write events in one transaction."""
    with closing(connect()) as connection:
        for event in events:
            outbox.write(connection, event)
        connection.commit()


def test_an_event_is_in_the_transaction_of_what_it_tells(database: Database) -> None:
    """Both are there, or neither."""
    outbox, connect = database
    with closing(connect()) as connection, closing(connection.cursor()) as cursor:
        for number in range(2):
            cursor.execute(f"INSERT INTO orders VALUES ({number})")  # noqa: S608 - of this test
            outbox.write(connection, granted(number))
            connection.commit() if number else connection.rollback()
        cursor.execute("SELECT number FROM orders")
        orders = [row[0] for row in cursor.fetchall()]

    assert orders == [1]
    assert ids(connect, outbox) == ["granted-1"]


def test_the_table_has_the_columns_that_a_router_reads_and_no_person_in_its_key(database: Database) -> None:
    """`aggregateid` becomes a key outside: it is the event's id."""
    outbox, connect = database
    written(connect, outbox, granted())
    with closing(connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(f"SELECT {', '.join(COLUMNS)} FROM {outbox.table}")  # noqa: S608 - of this test
        ((*plain, payload),) = cursor.fetchall()

    assert plain == ["granted-0", "our-lms", "granted-0", "consent.granted.v1"]
    assert "openedx:user_id:1" in str(payload)


def test_a_relay_sends_in_order_and_deletes_what_it_sent(database: Database, service: Service) -> None:
    """In batches; each event once."""
    outbox, connect = database
    written(connect, outbox, *[granted(number) for number in range(1200)])
    with Relay(connect, outbox, service.transport()) as relay:
        done = relay.drain()

    assert done == Relayed(sent=1200)
    assert service.ids == [f"granted-{number}" for number in range(1200)]
    assert [len(request.events) for request in service.requests] == [500, 500, 200]
    assert ids(connect, outbox) == []


def test_what_was_not_taken_stays_and_is_sent_again_as_it_was(database: Database, service: Service) -> None:
    """Under the same ids and the same Idempotency-Key, and after the pause that was asked for."""
    outbox, connect = database
    service.script.append(problem(503, "busy", Retry_After="7"))
    written(connect, outbox, granted(0), granted(1))
    with Relay(connect, outbox, service.transport()) as relay:
        first = relay.drain()
        left = ids(connect, outbox)
        second = relay.drain()

    one, other = service.requests
    assert (first, second) == (Relayed(is_blocked=True, after_s=7.0), Relayed(sent=2))
    assert left == ["granted-0", "granted-1"]
    assert one.events == other.events
    assert one.fields["Idempotency-Key"] == other.fields["Idempotency-Key"]


def test_a_relay_runs_until_it_is_stopped(database: Database, service: Service) -> None:
    """It goes on after a service that was busy, and finds what is written later."""
    outbox, connect = database
    service.script.append(problem(503, "busy"))
    written(connect, outbox, granted(0))
    stop = threading.Event()

    def last(request: Request) -> Answer:
        stop.set()
        return accepted(request)

    def first(request: Request) -> Answer:
        written(connect, outbox, granted(1))
        service.script.append(last)
        return accepted(request)

    service.script.append(first)
    with Relay(connect, outbox, service.transport()) as relay:
        done = relay.run(stop, idle_s=0.01)

    assert done == Relayed(sent=2)
    assert service.ids == ["granted-0", "granted-0", "granted-1"]


def test_what_is_refused_is_told_and_deleted(database: Database, service: Service) -> None:
    """By its reason code; also where it alone makes a batch that is refused."""
    outbox, connect = database
    told: list[Refused] = []
    service.script.extend([
        problem(413, "body-too-large"), problem(413, "body-too-large"), results("consent_missing"),
    ])  # fmt: skip
    written(connect, outbox, granted(0), granted(1))
    with Relay(connect, outbox, service.transport(), on_refused=told.append) as relay:
        done = relay.drain()

    assert done == Relayed(refused=2)
    assert [(one.id, one.reason) for one in told] == [
        ("granted-0", "body-too-large"), ("granted-1", "consent_missing"),
    ]  # fmt: skip
    assert ids(connect, outbox) == []


def test_a_writer_does_not_wait_for_a_relay_that_sends(database: Database, service: Service) -> None:
    """A slow service holds up no request of the application's."""
    outbox, connect = database
    written(connect, outbox, granted(0))

    def writes(_: object) -> tuple[int, dict[str, str], bytes]:
        written(connect, outbox, granted(1))
        status, _fields, body = results("accepted")
        return status, {}, body

    service.script.append(writes)
    with Relay(connect, outbox, service.transport()) as relay:
        done = relay.drain()

    assert done == Relayed(sent=2)
    assert service.ids == ["granted-0", "granted-1"]


def test_a_relay_takes_the_events_of_its_own_source(database: Database, service: Service) -> None:
    """Several producers may share a table."""
    outbox, connect = database
    other = Outbox(source="our-shop", dialect=outbox.dialect)
    written(connect, outbox, granted(0))
    written(connect, other, granted(1))
    with Relay(connect, other, service.transport()) as relay:
        relay.drain()

    assert service.ids == ["granted-1"]
    assert ids(connect, outbox) == ["granted-0"]


def test_two_relays_on_postgresql_send_each_event_once(server: PostgresProcess, service: Service) -> None:
    """What one has in hand the other passes by."""
    outbox = Outbox(source="our-lms", dialect="postgresql", table="shared_outbox")

    def connect() -> Connection:
        found: Connection = pg8000.dbapi.connect(
            "ledger", host="127.0.0.1", port=server.port, password=server.password, database="postgres"
        )
        return found

    first = connect()
    cursor = first.cursor()
    cursor.execute(outbox.ddl)
    first.commit()
    written(connect, outbox, granted(0))
    held = outbox.oldest(cursor)
    written(connect, outbox, granted(1))
    with Relay(connect, outbox, service.transport()) as relay:
        done = relay.drain()
    first.close()

    assert [event.id for event in held] == ["granted-0"]
    assert done == Relayed(sent=1)
    assert service.ids == ["granted-1"]


@pytest.mark.parametrize("table", ["", "a b", "a;drop table orders", "A", "a.b.c"])
def test_a_table_is_a_plain_name(table: str) -> None:
    """It becomes part of a statement."""
    with pytest.raises(TransportInvalid):
        Outbox(source="our-lms", dialect="sqlite", table=table)


def test_an_event_that_is_none_is_not_written(database: Database) -> None:
    """The transaction goes on without it."""
    outbox, connect = database
    with closing(connect()) as connection, pytest.raises(EventInvalid):
        outbox.write(connection, Event.of("nobody", registered().fact))

    assert ids(connect, outbox) == []


def test_what_is_recorded_is_not_written(database: Database) -> None:
    """As with a ledger."""
    outbox, connect = database
    with recorded() as events:
        written(connect, outbox, granted())

    assert [event.id for event in events] == ["granted-0"]
    assert ids(connect, outbox) == []
