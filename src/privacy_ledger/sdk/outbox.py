"""An outbox: events are written to a table in the application's own transaction, and sent from there.

An event is then emitted exactly if the transaction is committed. The table has the columns that Debezium's
outbox event router reads by default (`id`, `aggregatetype`, `aggregateid`, `type`, `payload`), and
`position`, by which the `Relay` keeps the order. `aggregateid` is the event's id: a router makes a key of it,
and a key must not name a person.
"""

import os
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self

import msgspec
from msgspec import Struct

from privacy_ledger.sdk import recording
from privacy_ledger.sdk.errors import TransportInvalid
from privacy_ledger.sdk.events import Encoded, Event, encode
from privacy_ledger.sdk.terms import Refused
from privacy_ledger.sdk.transport import BatchRefused, ItemResult, Transport, TryAgain, pause_s

__all__ = ["Connection", "Cursor", "Outbox", "Relay", "Relayed"]

Dialect = Literal["postgresql", "sqlite"]
BATCH_EVENTS: Final = 500
BATCH_BYTES: Final = 1 << 20
IDLE_S: Final = 1.0
BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 30.0
_TABLE: Final = re.compile(r"[a-z_][a-z0-9_]{0,47}(\.[a-z_][a-z0-9_]{0,47})?")
_POSITION: Final = {
    "postgresql": "position BIGINT GENERATED ALWAYS AS IDENTITY UNIQUE",
    "sqlite": "position INTEGER PRIMARY KEY AUTOINCREMENT",
}
_ID: Final = {"postgresql": "VARCHAR(255) PRIMARY KEY", "sqlite": "TEXT NOT NULL UNIQUE"}
_PAYLOAD: Final = {"postgresql": "JSONB NOT NULL", "sqlite": "TEXT NOT NULL"}
_MARK: Final = {"postgresql": "%s", "sqlite": "?"}


class Cursor(Protocol):
    """What is needed of a cursor of the Python database API (PEP 249)."""

    def execute(self, operation: str, parameters: Any = ..., /) -> object:  # noqa: ANN401 - drivers differ
        """Run one statement."""
        ...

    def fetchall(self) -> Sequence[Any]:
        """Return the rows."""
        ...

    def close(self) -> object:
        """Let go of it."""
        ...


class Connection(Protocol):
    """What is needed of a connection of the Python database API (PEP 249)."""

    def cursor(self) -> Any:  # noqa: ANN401 - a `Cursor`; drivers declare types of their own
        """Return a cursor."""
        ...

    def commit(self) -> object:
        """End the transaction."""
        ...

    def rollback(self) -> object:
        """Undo the transaction."""
        ...

    def close(self) -> object:
        """Let go of it."""
        ...


class Outbox(Struct, frozen=True, kw_only=True):
    """The table of one producer, which is named as for `Ledger`.

    `dialect` also says how a driver marks parameters: `?` for SQLite, `%s` for PostgreSQL.
    """

    source: str
    dialect: Dialect
    table: str = "ledger_outbox"

    def __post_init__(self) -> None:
        """Check what becomes part of a statement.

        Raises:
            TransportInvalid: the table has no such name.
        """
        if _TABLE.fullmatch(self.table) is None or self.dialect not in _POSITION:
            raise TransportInvalid(
                "A table's name is lower-case letters, digits and `_`, of SQLite or PostgreSQL."
            )

    @property
    def ddl(self) -> str:
        """The statement that makes the table, once; for a migration of the application's."""
        return (
            f"CREATE TABLE IF NOT EXISTS {self.table} ({_POSITION[self.dialect]}, id {_ID[self.dialect]}, "
            "aggregatetype VARCHAR(255) NOT NULL, aggregateid VARCHAR(255) NOT NULL, "
            f"type VARCHAR(255) NOT NULL, payload {_PAYLOAD[self.dialect]})"
        )

    def write(self, connection: Connection, event: Event) -> None:
        """Insert an event in the transaction that is under way; whoever began it commits it.

        Raises:
            EventInvalid: the ledger would not take it in this form; nothing was inserted.
        """
        encoded, mark = encode(event), _MARK[self.dialect]
        if recording.take(event):
            return
        with closing(connection.cursor()) as cursor:
            cursor.execute(
                f"INSERT INTO {self.table} (id, aggregatetype, aggregateid, type, payload) "  # noqa: S608 - checked
                f"VALUES ({mark}, {mark}, {mark}, {mark}, {mark})",
                (encoded.id, self.source, encoded.id, encoded.type, encoded.line.decode()),
            )

    def oldest(self, cursor: Cursor) -> list[Encoded]:
        """Return the first events of the table that no other relay has in hand, in order, as one batch."""
        lock = " FOR UPDATE SKIP LOCKED" if self.dialect == "postgresql" else ""
        payload = "CAST(payload AS TEXT)" if self.dialect == "postgresql" else "payload"
        cursor.execute(
            f"SELECT id, type, {payload} FROM {self.table} WHERE aggregatetype = {_MARK[self.dialect]} "  # noqa: S608 - checked
            f"ORDER BY position LIMIT {BATCH_EVENTS}{lock}",
            (self.source,),
        )
        found: list[Encoded] = []
        size = 0
        for id_, type_, line in cursor.fetchall():
            found.append(Encoded(id=id_, type=type_, line=line.encode()))
            size += len(line)
            if size >= BATCH_BYTES:
                break
        return found

    def delete(self, cursor: Cursor, events: Sequence[Encoded]) -> None:
        """Delete these events, in the transaction that is under way."""
        for event in events:
            cursor.execute(f"DELETE FROM {self.table} WHERE id = {_MARK[self.dialect]}", (event.id,))  # noqa: S608 - checked


class Relayed(Struct, frozen=True, kw_only=True):
    """What one turn of a relay did; `after_s`: nothing was sent, and the service asked for that pause."""

    sent: int = 0
    refused: int = 0
    is_blocked: bool = False
    after_s: float | None = None


class Relay:
    """Sends what is in an outbox, oldest first, and deletes what has an answer; at least once.

    Any number may run on PostgreSQL, where each locks what it has in hand; two on SQLite send twice what the
    ledger keeps once. A refused event is deleted, too: its reason is told, and would be the same again.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        outbox: Outbox,
        transport: Transport,
        *,
        on_refused: Callable[[Refused], None] | None = None,
    ) -> None:
        """Take what opens a connection of the relay's own, which it keeps."""
        self._connection = connect()
        self._outbox = outbox
        self._transport = transport
        self._on_refused = on_refused
        self._attempt: tuple[tuple[str, ...], str] = ((), "")

    def __enter__(self) -> Self:
        """Relay until the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close both connections."""
        self.close()

    def close(self) -> None:
        """Close the connection to the database and the one to the service."""
        self._transport.close()
        self._connection.close()

    def turn(self) -> Relayed:
        """Send one batch and delete it; blocks. A caller repeats it, and pauses where there was nothing.

        An error of the database is the driver's own; nothing was deleted then.
        """
        connection = self._connection
        with closing(connection.cursor()) as cursor:
            try:
                batch = self._outbox.oldest(cursor)
                if self._outbox.dialect == "sqlite":
                    connection.commit()  # a writer need not wait while the batch is sent
                try:
                    answers = self._answers(batch) if batch else []
                except TryAgain as error:
                    connection.rollback()
                    return Relayed(is_blocked=True, after_s=error.after_s)
                self._outbox.delete(cursor, batch)
                connection.commit()
            except BaseException:
                connection.rollback()
                raise
        refused = [
            Refused(id=event.id, type=event.type, reason=answer.reason or "refused")
            for event, answer in zip(batch, answers, strict=True)
            if not answer.is_taken
        ]
        for one in refused:
            if self._on_refused is not None:
                self._on_refused(one)
        return Relayed(sent=len(batch) - len(refused), refused=len(refused))

    def run(self, stop: threading.Event, *, idle_s: float = IDLE_S) -> Relayed:
        """Send until it is stopped, and return what was sent; blocks. It looks for events every `idle_s`.

        Where the service takes nothing it waits as a ledger does. An error of the database ends it.
        """
        sent = refused = failures = 0
        while not stop.is_set():
            done = self.turn()
            sent, refused = sent + done.sent, refused + done.refused
            failures = failures + 1 if done.is_blocked else 0
            if done.is_blocked:
                stop.wait(pause_s(failures, done.after_s, first_s=BACKOFF_FIRST_S, max_s=BACKOFF_MAX_S))
            elif not done.sent + done.refused:
                stop.wait(idle_s)
        return Relayed(sent=sent, refused=refused)

    def drain(self, *, turns_max: int = 1000) -> Relayed:
        """Send until the outbox is empty, the service does not take more, or after so many turns."""
        sent = refused = 0
        for _ in range(turns_max):
            done = self.turn()
            sent, refused = sent + done.sent, refused + done.refused
            if done.is_blocked or not done.sent + done.refused:
                return msgspec.structs.replace(done, sent=sent, refused=refused)
        return Relayed(sent=sent, refused=refused)

    def _answers(self, batch: Sequence[Encoded]) -> list[ItemResult]:
        """Return what became of each event; a batch that is refused as a whole is halved."""
        ids = tuple(event.id for event in batch)
        if self._attempt[0] != ids:
            self._attempt = (ids, os.urandom(16).hex())
        try:
            return list(self._transport.send(batch, attempt_key=self._attempt[1]))
        except BatchRefused as error:
            if len(batch) == 1:
                return [ItemResult(is_taken=False, reason=error.code)]
            middle = len(batch) // 2
            return [*self._answers(batch[:middle]), *self._answers(batch[middle:])]
