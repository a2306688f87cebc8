"""What a command has in its hands: one home or one cluster, wired."""

from collections.abc import Mapping

from msgspec import Struct

from privacy_ledger import _passes
from privacy_ledger._keystore import OpenedKeystore
from privacy_ledger.adapters.books import RegistryBooks
from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.local.home import Home
from privacy_ledger.adapters.local.log import LocalLog
from privacy_ledger.adapters.state_codec import PassStateCodec
from privacy_ledger.adapters.views import LogViews
from privacy_ledger.adapters.wrapping import as_it_is
from privacy_ledger.app.registrar import Registrar
from privacy_ledger.domain.key_release import OPERATE, Caller
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.engine.embedded import EmbeddedPasses
from privacy_ledger.engine.line_up import LineUp
from privacy_ledger.ports.codec import Codec
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import EventLog
from privacy_ledger.ports.observe import SILENT, Meters
from privacy_ledger.ports.passes import Latest, Runner
from privacy_ledger.ports.runtime import Clock, Ids, Wrap
from privacy_ledger.settings import Settings

__all__ = ["Runtime"]


class Runtime(Struct, frozen=True, kw_only=True):
    """Everything a command needs, wired for one home or one cluster."""

    settings: Settings
    home: Home | None
    clock: Clock
    ids: Ids
    log: EventLog
    vault: KeyVault
    codec: Codec
    states: PassStateCodec
    views: LogViews
    latest: Latest
    passes: Runner
    embedded: EmbeddedPasses | None
    local: LocalLog | None
    kafka: KafkaLog | None
    books: RegistryBooks
    registrar: Registrar
    declared: Mapping[str, PassDeclaration]
    line_up: LineUp
    parts: _passes.Parts
    keystore: OpenedKeystore
    meters: Meters = SILENT
    wrap: Wrap = as_it_is
    held: list[tuple[str, int]] = []
    """Descriptors of the state folders held here, by pass; the system frees them at a kill."""

    @property
    def partitions(self) -> int:
        """The number of partitions of the ledger."""
        return self.log.partitions(LEDGER_EVENTS)

    def state_codec(self, declaration: PassDeclaration, caller: Caller = OPERATE) -> PassStateCodec:
        """Return the state codec of a pass, for who looks on: `SUMS` opens its partial sums."""
        return _passes.codec_of(declaration, self.released_to(caller))

    def released_to(self, caller: Caller) -> KeyVault:
        """Return the keystore with the keys that are released to a caller, and no others."""
        return self.keystore.released_to(caller)
