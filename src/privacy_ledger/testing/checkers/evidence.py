"""What the checkers look at."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from privacy_ledger.adapters.books import RegistryBooks
from privacy_ledger.adapters.views import TailedLatest
from privacy_ledger.domain.key_release import OPERATE, Caller
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.ports.codec import HEARTBEAT_KEY, Codec, PartialCodec, StateCodec
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import EventLog
from privacy_ledger.ports.passes import Views
from privacy_ledger.ports.runtime import Clock, Ids
from privacy_ledger.streams.states import Table
from privacy_ledger.testing.faults import Write
from privacy_ledger.testing.oracle import Expected
from privacy_ledger.testing.witness import Witness

__all__ = ["Evidence", "Ledger", "PassCodec", "short"]

T = TypeVar("T")


class PassCodec(StateCodec, PartialCodec, Protocol):
    """A pass's states, and the partials that it seals."""


class Ledger(Protocol):
    """A wired home or cluster, as the bootstrap opens it."""

    @property
    def log(self) -> EventLog:
        """The event log."""
        ...

    @property
    def vault(self) -> KeyVault:
        """The keystore."""
        ...

    @property
    def codec(self) -> Codec:
        """The codec of the ledger."""
        ...

    @property
    def views(self) -> Views:
        """What the core pass has committed."""
        ...

    @property
    def books(self) -> RegistryBooks:
        """The rule books."""
        ...

    @property
    def clock(self) -> Clock:
        """The clock."""
        ...

    @property
    def ids(self) -> Ids:
        """Random identifiers."""
        ...

    @property
    def declared(self) -> Mapping[str, PassDeclaration]:
        """Every pass by name."""
        ...

    @property
    def partitions(self) -> int:
        """The number of partitions of the ledger."""
        ...

    def state_codec(self, declaration: PassDeclaration, caller: Caller = OPERATE, /) -> PassCodec:
        """Return the state codec of a pass, for who looks on."""
        ...


class Evidence:
    """A settled ledger, and how it came to be."""

    def __init__(self, ledger: Ledger, *, writes: Sequence[Write], witness: Witness) -> None:
        """Take an opened ledger, what became durable over all processes, and a witness of all of it."""
        self.ledger = ledger
        self.writes = tuple(writes)
        self.witness = witness
        self._latest = TailedLatest(ledger.log)
        self._expected: dict[int, Expected] | None = None

    async def expected(self) -> dict[int, Expected]:
        """Return what the oracle expects of each partition, under the rules in force."""
        if self._expected is None:
            books = self.ledger.books
            digest = (await self.ledger.views.meta(0)).registry_digest
            if digest is None:
                return {}
            await books.load(digest)
            self._expected = self.witness.expect(books.known[digest], books.known)
        return self._expected

    async def pairs(
        self, declaration: PassDeclaration, table: Table[T], *, partition: int
    ) -> list[tuple[bytes, T]]:
        """Return the committed (key, value) pairs of a pass's table in one partition, in key order."""
        states = self.ledger.state_codec(declaration)
        prefix = states.changelog_key(table, b"")
        raw = await self._latest.scan(states.topic(table), partition, prefix)
        items = [(key[len(prefix) :], value) for key, value in raw if key != HEARTBEAT_KEY]
        opened = states.open_many(table, items)
        return [(key, value) for (key, _), value in zip(items, opened, strict=True) if value is not None]


def short(ref: bytes) -> str:
    """Return the beginning of a random reference: enough to tell two apart in a report."""
    return ref.hex()[:6]
