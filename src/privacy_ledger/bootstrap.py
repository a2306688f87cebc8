"""Wiring: the only module that puts adapters, engine and use cases together."""

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from msgspec import Struct

from privacy_ledger import _erasing, _passes
from privacy_ledger._keystore import OpenedKeystore, care_of, open_vault, places_of, restorer_for
from privacy_ledger.adapters import registry
from privacy_ledger.adapters.books import RegistryBooks
from privacy_ledger.adapters.clock import SystemClock
from privacy_ledger.adapters.codec import LedgerCodec
from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.adapters.kafka.source import GroupMember, GroupSource
from privacy_ledger.adapters.kafka.tail import KafkaTail
from privacy_ledger.adapters.local.home import Home, open_home
from privacy_ledger.adapters.local.lock import WorkerLock
from privacy_ledger.adapters.local.log import LocalLog
from privacy_ledger.adapters.noise import OpenDpNoise
from privacy_ledger.adapters.observe.health import HealthAddress, serving
from privacy_ledger.adapters.observe.switch import watch_of
from privacy_ledger.adapters.rocks_store import RocksFolder
from privacy_ledger.adapters.signer import SEED_NAME, Ed25519Signer
from privacy_ledger.adapters.state_codec import PassStateCodec
from privacy_ledger.adapters.views import IndexedLatest, LogViews, TailedLatest
from privacy_ledger.adapters.worker_slot import forget_slots, take_slot
from privacy_ledger.adapters.wrapping import WrappedFolder, as_it_is
from privacy_ledger.app.audit import AuditLog
from privacy_ledger.app.dead_letters import DeadLetters
from privacy_ledger.app.erasure import WAIT_S, Erasure
from privacy_ledger.app.erasure_care import ErasureCare
from privacy_ledger.app.export import Export
from privacy_ledger.app.ingest import Ingest
from privacy_ledger.app.rectification import Rectification
from privacy_ledger.app.registrar import Registrar
from privacy_ledger.app.release import CurrentCatalogue, Release
from privacy_ledger.app.replay import Replay
from privacy_ledger.app.scope_erasure import ScopeErasure
from privacy_ledger.app.stores import DerivedStore, StoreRegistry
from privacy_ledger.app.subjects import Subjects
from privacy_ledger.app.versions import VersionList
from privacy_ledger.domain.errors import Fenced, HomeUnusable, LogUnavailable
from privacy_ledger.domain.key_release import COLLECT, OPERATE, READ_VIEWS, SUMS, Caller
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import LEDGER_EVENTS, LEDGER_UNATTRIBUTED, PARTITIONS_DEFAULT, TOPICS, Topic
from privacy_ledger.domain.versions import pass_of
from privacy_ledger.engine.assignment import divide
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.engine.declaration import PassDeclaration, passes, topics_of
from privacy_ledger.engine.embedded import EmbeddedPasses
from privacy_ledger.engine.kafka import KafkaEngine
from privacy_ledger.engine.line_up import LineUp
from privacy_ledger.engine.rebuild import Rebuild
from privacy_ledger.engine.remote import RemotePasses
from privacy_ledger.ports.codec import Codec
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import EventLog
from privacy_ledger.ports.observe import SILENT, Meters
from privacy_ledger.ports.passes import Latest, Runner
from privacy_ledger.ports.runtime import Clock, Ids, StateStore, Wrap
from privacy_ledger.settings import SESSION_S_DEFAULT, Settings
from privacy_ledger.streams.protocol import Processor, Published

__all__ = [
    "Runtime",
    "audit_of",
    "care_of",
    "changelogs_of",
    "dead_letters_of",
    "declared_passes",
    "declared_topics",
    "engine_for",
    "erasure_care_of",
    "erasure_of",
    "export_of",
    "forget_stores",
    "free_slots",
    "host_folder",
    "ingest_of",
    "open_runtime",
    "open_worker",
    "rebuild_of",
    "release_of",
    "replay_of",
    "restorer_for",
    "rules_in_force",
    "stores_of",
    "subjects_of",
    "sweep_keys",
    "worker_host",
]

_ENTRY_POINTS: Final = "privacy_ledger.processors"
_HOSTS: Final = "privacy_ledger.hosts"


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


@cache
def declared_passes() -> Mapping[str, PassDeclaration]:
    """Return the passes that the installed processors make up, found by entry points."""
    found = entry_points(group=_ENTRY_POINTS)
    declared: list[Processor[object] | Published] = [point.load() for point in found]
    return passes(declared)


async def declared_topics(settings: Settings, cluster: ClusterSettings) -> tuple[Topic, ...]:
    """Return the topics that a cluster should have: the declaration, and what its versions add or drop."""
    log = KafkaLog(
        cluster, partitions=settings.partitions or PARTITIONS_DEFAULT, prefix=settings.topic_prefix
    )
    try:
        await log.start()
        line_up = _passes.line_up_of(declared_passes(), VersionList(log), log)
        return topics_of((await line_up.current()).values())
    except LogUnavailable:
        return TOPICS  # nothing is there yet
    finally:
        await log.close()


def worker_host() -> Callable[..., Coroutine[object, object, None]]:
    """Return the host that runs passes on Kafka (a Faust worker), found by its entry point.

    It is loaded only where it runs: it is slow to import.
    """
    (host,) = entry_points(group=_HOSTS, name="faust")
    loaded: Callable[..., Coroutine[object, object, None]] = host.load()
    return loaded


@asynccontextmanager
async def open_runtime(
    settings: Settings,
    *,
    trial: datetime | None = None,
    prepare: bool = True,
    meters: Meters = SILENT,
    wrap: Wrap | None = None,
    declared: Mapping[str, PassDeclaration] | None = None,
) -> AsyncIterator[Runtime]:
    """Yield the wired home or cluster; closes everything after.

    `prepare`: adopt the registry seed and write a first tick where none is in force. `meters` see
    what the passes do that run here. `wrap`: what to put around each port that does I/O; every use
    of the port in this runtime goes through it. `declared`: the passes, otherwise those of the
    installed processors.
    """
    declared = declared_passes() if declared is None else declared
    if settings.cluster is None:
        runtime = _embedded(settings, declared, trial=trial, wrap=wrap or as_it_is, meters=meters)
    else:
        runtime = await _on_kafka(settings, settings.cluster, declared, wrap=wrap or as_it_is, meters=meters)
    try:
        if prepare:
            await _prepare(runtime)
        yield runtime
    finally:
        if runtime.embedded is not None:
            runtime.embedded.release()
        await runtime.log.close()
        runtime.keystore.close()
        for _, file in runtime.held:
            os.close(file)


@asynccontextmanager
async def open_worker(
    settings: Settings, passes: Sequence[str], *, meters: Meters, on_serving: Callable[[HealthAddress], None]
) -> AsyncIterator[Runtime]:
    """Yield a runtime for a worker of these passes; it answers health checks where settings say so.

    Without that setting no port is opened, and nothing of it is loaded.
    """
    if settings.health is None:
        async with open_runtime(settings, meters=meters) as runtime:
            yield runtime
        return
    declared = declared_passes()
    known = {name: tuple(declared[name].projections) for name in passes if name in declared}
    watch = watch_of(known, beside=meters)
    async with (
        open_runtime(settings, meters=watch) as runtime,
        serving(settings.health, watch.pages) as address,
    ):
        bare = runtime.keystore.bare
        watch.ask_keys(lambda: bare.cache_figures, lambda: bare.release_figures)
        on_serving(address)
        yield runtime


async def rules_in_force(runtime: Runtime) -> Rules:
    """Return the rules that the core pass has adopted, or those of the seed before it has run."""
    meta = await runtime.views.meta(0)
    digest = meta.registry_digest or registry.digest(registry.encode(registry.seed()))
    await runtime.books.load(digest)
    return runtime.books.known[digest]


async def _prepare(runtime: Runtime) -> None:
    """Put the seed in force once, and let the first tick set the time."""
    meta = await runtime.views.meta(0)
    if meta.registry_digest is None:
        document = registry.encode(registry.seed())
        await runtime.registrar.adopt(document, registry.digest(document))
    embedded = runtime.embedded
    if embedded is not None:
        embedded.on_acquire = runtime.registrar.tick


# Embedded ----------------------------------------------------------------------------------


def _embedded(
    settings: Settings,
    declared: Mapping[str, PassDeclaration],
    *,
    trial: datetime | None,
    wrap: Wrap,
    meters: Meters,
) -> Runtime:
    ids: Ids = wrap("ids", SystemIds())
    home = open_home(settings.home, ids=ids, trial=trial)
    places = places_of(settings, home)
    partitions = home.file.partitions
    log = wrap("log", LocalLog(home.path / "ledger.db", partitions=partitions, clock=home.clock))
    keystore = open_vault(places, ids=ids, wrap=wrap)
    parts = _passes.parts_of(
        log, keystore, declared=declared, latest=IndexedLatest(log), ids=ids, clock=home.clock,
        wrap=wrap, meters=meters,
    )  # fmt: skip
    embedded = EmbeddedPasses(
        _passes.HomeLanes(parts, log), log=log, source=LEDGER_EVENTS, views=parts.views,
        clock=home.clock, lock=wrap("lock", WorkerLock(home.path / "worker.lock")), meters=meters,
    )  # fmt: skip
    return _runtime(settings, parts, keystore, passes=embedded, home=home, embedded=embedded, local=log)


def _runtime(
    settings: Settings,
    parts: _passes.Parts,
    keystore: OpenedKeystore,
    *,
    passes: Runner,
    home: Home | None = None,
    embedded: EmbeddedPasses | None = None,
    local: LocalLog | None = None,
    kafka: KafkaLog | None = None,
) -> Runtime:
    return Runtime(
        settings=settings, home=home, clock=parts.clock, ids=parts.ids, log=parts.log,
        vault=parts.vault, codec=parts.codec, views=parts.views, latest=parts.latest, passes=passes,
        states=_passes.states_of(parts.declared, parts.vaults.released_to(READ_VIEWS)),
        embedded=embedded, local=local, kafka=kafka, books=parts.books, registrar=parts.registrar,
        declared=parts.declared,
        line_up=parts.line_up, parts=parts, keystore=keystore, wrap=parts.wrap, meters=parts.meters,
    )  # fmt: skip


# Kafka -------------------------------------------------------------------------------------


async def _on_kafka(
    settings: Settings,
    cluster: ClusterSettings,
    declared: Mapping[str, PassDeclaration],
    *,
    wrap: Wrap,
    meters: Meters,
) -> Runtime:
    ids, clock = wrap("ids", SystemIds()), SystemClock()
    partitions = settings.partitions or PARTITIONS_DEFAULT
    keystore = open_vault(places_of(settings, None), ids=ids, wrap=wrap)
    log = wrap("log", KafkaLog(cluster, partitions=partitions, prefix=settings.topic_prefix))
    try:
        await log.start()
        parts = _passes.parts_of(
            log, keystore, declared=declared, latest=TailedLatest(log), ids=ids, clock=clock,
            wrap=wrap, meters=meters,
        )  # fmt: skip
    except BaseException:
        await log.close()
        keystore.close()
        raise
    passes = RemotePasses(log, parts.views, parts.line_up, source=LEDGER_EVENTS)
    return _runtime(settings, parts, keystore, passes=passes, kafka=log)


class _KafkaWiring:
    """`Wiring` of one pass in one worker process."""

    def __init__(self, runtime: Runtime, declaration: PassDeclaration, cluster: ClusterSettings) -> None:
        self._runtime = runtime
        self._declaration = declaration
        self._cluster = cluster
        self._slot = take_slot(runtime.settings.state_folder / declaration.name, ids=runtime.ids)
        runtime.held.append((declaration.name, self._slot.lock))
        self.folder = WrappedFolder(RocksFolder(self._slot.path), runtime.wrap, f"store.{declaration.name}")
        self.means = _passes.means_of(runtime.parts, declaration)
        self._open_cycle = _passes.cycle_opener(runtime.parts, declaration, self.means)

    def open_cycle(self, partition: int, store: StateStore) -> PartitionCycle:
        """Open a cycle over a restored store."""
        return self._open_cycle(partition, store)

    def source(self) -> GroupSource:
        """Return an unjoined member of the pass's group, under the identity of its state folder."""
        settings, name = self._runtime.settings, self._declaration.name
        member = GroupMember(
            group=f"{settings.topic_prefix}privacy-ledger.{name}",
            session_ms=settings.session_s * 1000,
            identity=self._slot.identity,
            writer=f"{settings.topic_prefix}{name}.{self._slot.identity}",
            # A longer session is there for restarts: who stops then keeps its place.
            leaves_at_stop=settings.session_s <= SESSION_S_DEFAULT,
        )
        return GroupSource(
            self._cluster, member, topic=settings.topic_prefix + self._declaration.source,
            partitions=self._runtime.partitions, plan=partial(divide, standbys=settings.standbys),
        )  # fmt: skip

    def tail(self) -> KafkaTail:
        """Return an unused reader of the pass's changelogs."""
        places = len(self.changelogs) * self._runtime.partitions
        return KafkaTail(self._cluster, prefix=self._runtime.settings.topic_prefix, places=places)

    async def confirm(self) -> None:
        """Return when the pass is still to be run as declared.

        Raises:
            Fenced: a version that it folds was dropped.
        """
        if (await self._runtime.line_up.current()).get(self._declaration.name) != self._declaration:
            raise Fenced(f"The pass {self._declaration.name} folds a version that was dropped.")

    @property
    def changelogs(self) -> Mapping[str, bytes]:
        """The pass's changelog topics, and the table code that their keys lack."""
        return changelogs_of(self._runtime, self._declaration)


def changelogs_of(runtime: Runtime, declaration: PassDeclaration) -> dict[str, bytes]:
    """Return a pass's changelog topics, and the table code that their keys lack."""
    return runtime.state_codec(declaration).changelogs(declaration.tables)


def host_folder(runtime: Runtime) -> Path:
    """Return the folder that the host may write to; it holds nothing of ours."""
    return runtime.settings.state_folder / "host"


def engine_for(runtime: Runtime, declaration: PassDeclaration) -> KafkaEngine:
    """Return the engine of one pass on Kafka, ready to `run`."""
    cluster = runtime.settings.cluster
    if runtime.kafka is None or cluster is None:
        raise HomeUnusable("A worker on Kafka needs --kafka HOST:PORT.")
    wiring = _KafkaWiring(runtime, declaration, cluster)
    return KafkaEngine(
        declaration, wiring, wiring.means, clock=runtime.clock, ids=runtime.ids, meters=runtime.meters
    )


def free_slots(runtime: Runtime, declaration: PassDeclaration) -> None:
    """Let go of the state folders of a pass whose engine has ended: the next one takes them up."""
    for entry in [one for one in runtime.held if one[0] == declaration.name]:
        runtime.held.remove(entry)
        os.close(entry[1])


async def forget_stores(runtime: Runtime) -> None:
    """Remove this machine's stores of versions that were dropped."""
    for version in (await runtime.parts.versions.read()).values():
        if version.status == "dropped":
            forget_slots(runtime.settings.state_folder / pass_of(version.projection, version.version))


async def sweep_keys(runtime: Runtime, declaration: PassDeclaration) -> None:
    """Destroy the keys of dropped versions that a pass, which ended, may have made at the last moment."""
    await _passes.sweep(runtime.parts, declaration)


def dead_letters_of(runtime: Runtime) -> DeadLetters:
    """Return the use cases about parked subjects and refused lines."""
    return _passes.dead_letters_over(runtime.parts, runtime.passes, audit_of(runtime))


def replay_of(runtime: Runtime) -> Replay:
    """Return the use cases around the next version of a projection."""
    return _passes.replay_over(runtime.parts, runtime.passes)


def rebuild_of(runtime: Runtime, declaration: PassDeclaration) -> Rebuild:
    """Return a muted rebuild of a pass beside its live state."""
    return _passes.rebuild_over(runtime.parts, declaration)


async def subjects_of(runtime: Runtime) -> Subjects:
    """Return the use cases about one person."""
    return Subjects(
        log=runtime.log, vault=runtime.vault, codec=runtime.codec, views=runtime.views,
        clock=runtime.clock, ids=runtime.ids, rules=await rules_in_force(runtime),
    )  # fmt: skip


async def rectification_of(runtime: Runtime) -> Rectification:
    """Return the use case of corrections."""
    return Rectification(
        log=runtime.log, vault=runtime.vault, codec=runtime.codec, views=runtime.views,
        clock=runtime.clock, ids=runtime.ids, rules=await rules_in_force(runtime),
    )  # fmt: skip


async def ingest_of(runtime: Runtime) -> Ingest:
    """Return the ingest use case; duplicates are exact when embedded."""
    local, vault = runtime.local, runtime.released_to(COLLECT)
    return Ingest(
        log=runtime.log, vault=vault, codec=LedgerCodec(vault, partitions=runtime.partitions),
        lane_codec=LedgerCodec(vault, partitions=runtime.partitions, stream=LEDGER_UNATTRIBUTED),
        views=runtime.views, clock=runtime.clock, ids=runtime.ids,
        rules=await rules_in_force(runtime), passes=runtime.passes,
        seen=None if local is None else local.live_tags,
    )  # fmt: skip


async def release_of(runtime: Runtime) -> Release:
    """Return the release use case with the real noise."""
    declaration = runtime.declared["analytics"]
    return Release(
        runtime.log, passes=runtime.passes, clock=runtime.clock,
        rules=await rules_in_force(runtime), noise=OpenDpNoise(), registrar=runtime.registrar,
        catalogue=CurrentCatalogue(runtime.registrar.catalogue),
        open_partial=runtime.state_codec(declaration, SUMS).open_partial,
    )  # fmt: skip


def erasure_of(runtime: Runtime, *, wait_s: float = WAIT_S, beside: Sequence[DerivedStore] = ()) -> Erasure:
    """Return the erasure saga; `wait_s` bounds each of its waits, `beside` are further stores."""
    audit = audit_of(runtime)
    return _erasing.erasure_over(runtime.parts, runtime.passes, audit, wait_s=wait_s, beside=beside)


def scope_erasure_of(runtime: Runtime, *, wait_s: float = WAIT_S) -> ScopeErasure:
    """Return the erasure saga of a category, a purpose or a field."""
    return _erasing.scope_erasure_over(runtime.parts, runtime.passes, audit_of(runtime), wait_s=wait_s)


def erasure_care_of(runtime: Runtime) -> ErasureCare:
    """Return what looks after all erasures: those that are open, and those that become final."""
    smaller = scope_erasure_of(runtime)
    return _erasing.care_over(runtime.parts, runtime.keystore.keeper, erasure_of(runtime), smaller)


def stores_of(runtime: Runtime) -> StoreRegistry:
    """Return every store that may hold something of a person."""
    return _erasing.stores_over(runtime.parts, runtime.passes)


def audit_of(runtime: Runtime) -> AuditLog:
    """Return the audit log; its key is a secret of the keystore."""
    return AuditLog(runtime.log, Ed25519Signer(runtime.vault.secret(SEED_NAME)))


def export_of(runtime: Runtime) -> Export:
    """Return the export use case."""
    return Export(log=runtime.log, codec=runtime.codec, clock=runtime.clock)
