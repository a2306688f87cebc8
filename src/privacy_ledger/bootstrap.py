"""Wiring: the only module that puts adapters, engine and use cases together."""

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from privacy_ledger import _passes
from privacy_ledger._keystore import OpenedKeystore, care_of, open_vault, places_of, restorer_for
from privacy_ledger._runtime import Runtime
from privacy_ledger._use_cases import (
    atlas_of,
    audit_of,
    dead_letters_of,
    erasure_care_of,
    erasure_of,
    expiry_of,
    export_of,
    ingest_of,
    rebuild_of,
    rectification_of,
    release_of,
    replay_of,
    rules_in_force,
    scope_erasure_of,
    statements_of,
    stores_of,
    studies_of,
    subjects_of,
)
from privacy_ledger.adapters import registry
from privacy_ledger.adapters.clock import SystemClock
from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.adapters.kafka.source import GroupMember, GroupSource
from privacy_ledger.adapters.kafka.tail import KafkaTail
from privacy_ledger.adapters.local.home import Home, open_home
from privacy_ledger.adapters.local.lock import WorkerLock
from privacy_ledger.adapters.local.log import LocalLog
from privacy_ledger.adapters.observe.health import HealthAddress, serving
from privacy_ledger.adapters.observe.switch import watch_of
from privacy_ledger.adapters.rocks_store import RocksFolder
from privacy_ledger.adapters.views import IndexedLatest, TailedLatest
from privacy_ledger.adapters.worker_slot import forget_slots, take_slot
from privacy_ledger.adapters.wrapping import WrappedFolder, as_it_is
from privacy_ledger.app.versions import VersionList
from privacy_ledger.domain.errors import Fenced, HomeUnusable, LogUnavailable
from privacy_ledger.domain.key_release import READ_VIEWS
from privacy_ledger.domain.topics import LEDGER_EVENTS, PARTITIONS_DEFAULT, TOPICS, Topic
from privacy_ledger.domain.versions import pass_of
from privacy_ledger.engine.assignment import divide
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.engine.declaration import PassDeclaration, passes, topics_of
from privacy_ledger.engine.embedded import EmbeddedPasses
from privacy_ledger.engine.kafka import KafkaEngine
from privacy_ledger.engine.remote import RemotePasses
from privacy_ledger.ports.observe import SILENT, Meters
from privacy_ledger.ports.passes import Runner
from privacy_ledger.ports.runtime import Ids, StateStore, Wrap
from privacy_ledger.settings import SESSION_S_DEFAULT, Settings
from privacy_ledger.streams.protocol import Processor, Published

__all__ = [
    "Runtime",
    "atlas_of",
    "audit_of",
    "care_of",
    "changelogs_of",
    "dead_letters_of",
    "declared_passes",
    "declared_topics",
    "engine_for",
    "erasure_care_of",
    "erasure_of",
    "expiry_of",
    "export_of",
    "forget_stores",
    "free_slots",
    "host_folder",
    "ingest_of",
    "open_runtime",
    "open_worker",
    "rebuild_of",
    "rectification_of",
    "release_of",
    "replay_of",
    "restorer_for",
    "rules_in_force",
    "scope_erasure_of",
    "statements_of",
    "stores_of",
    "studies_of",
    "subjects_of",
    "sweep_keys",
    "worker_host",
]

_ENTRY_POINTS: Final = "privacy_ledger.processors"
_HOSTS: Final = "privacy_ledger.hosts"


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


async def _prepare(runtime: Runtime) -> None:
    """Put the seed in force once, and let the first tick set the time."""
    meta = await runtime.views.meta(0)
    if meta.registry_digest is None:
        document = registry.encode(registry.seed())
        seed = document, registry.digest(document)
        # The view may lag behind a registry that somebody else put in force.
        await runtime.registrar.amend(lambda current: seed if current is None else None)
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
    vault = parts.vaults.released_to(READ_VIEWS)
    passes = RemotePasses(
        log, parts.views, parts.line_up, source=LEDGER_EVENTS,
        written=lambda one: _passes.codec_of(one, vault).changelogs(one.tables),
        until_readable=log.until_readable,
    )  # fmt: skip
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
