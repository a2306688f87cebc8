"""How a pass is put together: a part of the wiring, used by `bootstrap` alone.

A declared pass gets the log and the keystore; a later version's pass gets means that reach
nothing but what is its own.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version as installed
from typing import Protocol, TypeVar, cast

from msgspec import Struct, structs

from privacy_ledger.adapters.books import NOTHING, RegistryBooks
from privacy_ledger.adapters.codec import LedgerCodec
from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.local.log import LocalLog
from privacy_ledger.adapters.local.state_store import LogStateStore
from privacy_ledger.adapters.state_codec import PassStateCodec, ViewKeys, table_group
from privacy_ledger.adapters.views import LaterVersions, LogViews
from privacy_ledger.app._evidence import PersonRows
from privacy_ledger.app._requests import SagaReader
from privacy_ledger.app._topic_stores import DeadLetterStore
from privacy_ledger.app.audit import AuditLog
from privacy_ledger.app.dead_letters import DeadLetters
from privacy_ledger.app.registrar import Registrar
from privacy_ledger.app.replay import Folded, Replay
from privacy_ledger.app.versions import VersionList, Versions
from privacy_ledger.domain.events import COLLECTION_EVENTS, event_type
from privacy_ledger.domain.key_release import OPERATE, READ_VIEWS, RIGHTS, Caller, Grant, Kind
from privacy_ledger.domain.permissions import PERMISSION_FACTS
from privacy_ledger.domain.topics import LEDGER_EVENTS, Topic, state_topic, version_topics
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.engine.aftermath import LiveAftermath
from privacy_ledger.engine.cycle import PartitionCycle
from privacy_ledger.engine.declaration import CORE, PassDeclaration, VersionPass, version_pass
from privacy_ledger.engine.embedded import Lane
from privacy_ledger.engine.line_up import LineUp
from privacy_ledger.engine.means import LiveMover, Means, NoMoves
from privacy_ledger.engine.muted import MutedAftermath, MutedLog
from privacy_ledger.engine.outlet import LiveOutlet, Silence
from privacy_ledger.engine.rebuild import Rebuild
from privacy_ledger.ports.codec import Codec, StateCodec
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import Row, TopicKeeper
from privacy_ledger.ports.observe import Meters
from privacy_ledger.ports.passes import Latest, Passes, Runner
from privacy_ledger.ports.runtime import Clock, Ids, StateStore, Wrap
from privacy_ledger.streams.analytics import CourseViews
from privacy_ledger.streams.states import PERMISSIONS, Table

T = TypeVar("T")

__all__ = [
    "HomeLanes",
    "Parts",
    "Vaults",
    "codec_of",
    "cycle_opener",
    "dead_letters_over",
    "decoder_of",
    "grant_of",
    "line_up_of",
    "means_of",
    "parts_of",
    "rebuild_over",
    "replay_over",
    "states_of",
    "sweep",
    "vault_of",
]


class Vaults(Protocol):
    """The one open keystore, as each caller sees it."""

    def released_to(self, caller: Caller) -> KeyVault:
        """Return the keystore with the keys that are released to a declared caller, and no others."""
        ...

    def released_to_pass(self, name: str, grant: Grant) -> KeyVault:
        """Return the keystore with the keys that a pass needs, and no others."""
        ...


class Parts(Struct, frozen=True, kw_only=True):
    """What the wiring of a home and of a cluster have in common."""

    log: LocalLog | KafkaLog
    vault: KeyVault
    vaults: Vaults
    codec: Codec
    books: RegistryBooks
    ids: Ids
    clock: Clock
    latest: Latest
    views: LogViews
    declared: Mapping[str, PassDeclaration]
    line_up: LineUp
    versions: Versions
    registrar: Registrar
    wrap: Wrap
    meters: Meters
    rows: PersonRows
    sagas: SagaReader
    letters: DeadLetterStore
    """These three read a topic once for all erasures of the process."""
    first_seen: dict[SubjectRef, int] = {}
    """Where sealed records of the erased lay when they were looked for; a new one for each instance."""
    expiry_cursor: dict[str, int] = {}
    """Where the daily care of keys that are due goes on."""


def parts_of(
    log: LocalLog | KafkaLog,
    vaults: Vaults,
    *,
    declared: Mapping[str, PassDeclaration],
    latest: Latest,
    ids: Ids,
    clock: Clock,
    wrap: Wrap,
    meters: Meters,
) -> Parts:
    """Return the parts over a log and a keystore."""
    partitions = log.partitions(LEDGER_EVENTS)
    vault, viewing = vaults.released_to(RIGHTS), vaults.released_to(READ_VIEWS)
    codec = LedgerCodec(vault, partitions=partitions)
    listed = VersionList(log)
    line_up = line_up_of(declared, listed, log)

    def version_codec(projection: str, version: int) -> PassStateCodec:
        later = version_pass(line_up.projections[projection], projection, version)
        log.declare(*later.topics)
        return codec_of(later, viewing)

    later = LaterVersions(line_up.tables, listed.read, version_codec)
    views = LogViews(latest, states_of(declared, viewing), later=later, partitions=partitions)
    return Parts(
        log=log, vault=vault, vaults=vaults, codec=codec, books=RegistryBooks(log), ids=ids, clock=clock,
        latest=latest, views=views, declared=declared, line_up=line_up,
        versions=Versions(log, codec, clock, ids, listed=listed, build=installed("privacy-ledger")),
        registrar=Registrar(log, codec, views=views, clock=clock, ids=ids), wrap=wrap, meters=meters,
        rows=PersonRows(log), sagas=SagaReader(log), letters=DeadLetterStore(log),
    )  # fmt: skip


def line_up_of(declared: Mapping[str, PassDeclaration], listed: VersionList, log: TopicKeeper) -> LineUp:
    """Return the line-up of this build's passes."""
    return LineUp(declared, listed.read, declare=log.declare, build=installed("privacy-ledger"))


def codec_of(declaration: PassDeclaration, vault: KeyVault) -> PassStateCodec:
    """Return the state codec of a pass."""
    return PassStateCodec(declaration.name, vault, publishes=declaration.publishes)


def states_of(declared: Mapping[str, PassDeclaration], vault: KeyVault) -> PassStateCodec:
    """Return the codec that reads every public view, whichever pass writes it, and what core keeps."""
    public = frozenset[str]().union(*(declaration.publishes for declaration in declared.values()))
    return PassStateCodec(CORE, vault, publishes=public)


def grant_of(declaration: PassDeclaration) -> Grant:
    """Return the keys that a pass needs by its own declaration, and no others.

    Categories: those of the event types that its steps fold, and of the facts by which every pass
    knows what may be done. Beside them its own states and views, and the windows of a windowed step.
    """
    folded = set[str]().union(*(processor.step.types for processor in declaration.processors))
    needed = {kind for kind in COLLECTION_EVENTS if event_type(kind) in folded} | {*PERMISSION_FACTS}
    is_windowed = any(isinstance(processor.step, CourseViews) for processor in declaration.processors)
    return Grant(
        categories=frozenset(kind.category for kind in needed),
        kinds=frozenset({Kind.WINDOW} if is_windowed else ()),
        groups=frozenset(
            table_group(declaration.name, table) for table in declaration.tables if table.sealing != "plain"
        ),
    )


def vault_of(parts: Parts, declaration: PassDeclaration) -> KeyVault:
    """Return the keystore as a pass sees it."""
    return parts.vaults.released_to_pass(declaration.name, grant_of(declaration))


def decoder_of(parts: Parts, declaration: PassDeclaration) -> LedgerCodec:
    """Return what reads the ledger with the keys of a pass, and no others."""
    return LedgerCodec(vault_of(parts, declaration), partitions=parts.log.partitions(LEDGER_EVENTS))


def rebuild_over(parts: Parts, declaration: PassDeclaration) -> Rebuild:
    """Return a muted rebuild of a pass beside its live state, with the keys of that pass."""
    return Rebuild(
        declaration, log=parts.log, codec=decoder_of(parts, declaration), books=parts.books,
        initial=NOTHING, sampling_key=parts.vault.secret("sampling"),
    )  # fmt: skip


# Means ------------------------------------------------------------------------------------


def means_of(parts: Parts, declaration: PassDeclaration) -> Means:
    """Return the means of a pass: a later version's reach nothing but what is its own."""
    vault, clock = vault_of(parts, declaration), parts.clock
    states = codec_of(declaration, vault)
    if isinstance(declaration, VersionPass):
        log = MutedLog(parts.log, pass_name=declaration.name, own=declaration.own)
        keys = ViewKeys(vault, declaration.processors[0].table, clock=clock)
        return Means(
            log=log, aftermath=MutedAftermath(keys), outlet=Silence(), mover=NoMoves(), states=states
        )
    return Means(
        log=parts.log,
        aftermath=LiveAftermath(declaration, log=parts.log, vault=vault, states=states, clock=clock),
        outlet=LiveOutlet(declaration.name, codec=parts.codec, partials=states, ids=parts.ids),
        mover=LiveMover(declaration, log=parts.log, vault=vault, states=states, clock=clock),
        states=states,
    )


def cycle_opener(
    parts: Parts, declaration: PassDeclaration, means: Means
) -> Callable[[int, StateStore], PartitionCycle]:
    """Return how a cycle of the pass is opened over a partition's store."""
    sampling, codec = parts.vault.secret("sampling"), decoder_of(parts, declaration)

    def open_cycle(partition: int, store: StateStore) -> PartitionCycle:
        async def read_at(offsets: Sequence[int]) -> Sequence[Row]:
            return await means.log.read_at(declaration.source, partition, offsets)

        return PartitionCycle(
            declaration, partition, store=store, codec=codec, states=means.states, books=parts.books,
            initial=NOTHING, sampling_key=sampling, outlet=means.outlet, read_at=read_at,
        )  # fmt: skip

    return open_cycle


async def sweep(parts: Parts, declaration: PassDeclaration) -> None:
    """Let go of the dropped versions that this pass folded, once it folds them no more.

    Their keys once more: a cycle that was under way when they were destroyed may have made new
    ones. Nothing lies under them, for its owner was fenced.
    """
    known = await parts.versions.read()
    for processor in declaration.processors:
        version = known.get((processor.table.name, processor.table.version))
        if version is not None and version.status != "kept":
            await parts.log.release(*_topics(declaration, processor.table))
            for group in _groups(declaration, processor.table, parts.vault):
                parts.vault.shred_group(group, now=parts.clock.now())


def _topics(declaration: PassDeclaration, table: Table[T]) -> tuple[Topic, ...]:
    """Return the topics that one version alone uses."""
    if isinstance(declaration, VersionPass):
        return declaration.topics
    name = declaration.name
    return version_topics(table.view or "", table.version, folded_by=name, role=name)[1:]


def _groups(declaration: PassDeclaration, table: Table[T], vault: KeyVault) -> tuple[str, ...]:
    """Return the key groups that one version alone uses."""
    states = codec_of(declaration, vault)
    view = states.group(table)
    return (view, states.group(PERMISSIONS)) if isinstance(declaration, VersionPass) else (view,)


# A home's lanes ---------------------------------------------------------------------------


class HomeLanes:
    """`Lanes` of a home."""

    def __init__(self, parts: Parts, log: LocalLog) -> None:
        """Start without a lane."""
        self._parts = parts
        self._log = log
        self._lanes: dict[str, Lane] = {}

    async def current(self) -> tuple[Lane, ...]:
        """Return a lane per pass to run, the same one as long as its declaration stays."""
        line_up = self._parts.line_up
        wanted, required = await line_up.current(), await line_up.required()
        kept = {name: lane for name, lane in self._lanes.items() if wanted.get(name) == lane.declaration}
        self._lanes = {name: kept.get(name) or self._lane(one) for name, one in wanted.items()}
        partitions = self._log.partitions(LEDGER_EVENTS)
        for name, lane in self._lanes.items():
            lane.is_beside = name not in required
            lane.set_rate(await line_up.rate(lane.declaration), partitions=partitions)
        return tuple(self._lanes.values())

    async def required(self) -> tuple[str, ...]:
        """Return the names of the passes that readers wait for."""
        return await self._parts.line_up.required()

    async def left(self, declaration: PassDeclaration) -> None:
        """Destroy the keys that a dropped version made since its own were destroyed."""
        await sweep(self._parts, declaration)

    def _lane(self, declaration: PassDeclaration) -> Lane:
        states = codec_of(declaration, vault_of(self._parts, declaration))
        routes, own = states.routes(declaration.tables), state_topic(declaration.name)
        means = means_of(self._parts, declaration)
        open_cycle = cycle_opener(self._parts, declaration, means)

        def opened(partition: int) -> PartitionCycle:
            store = LogStateStore(self._log, partition, own=own, routes=routes)
            return open_cycle(partition, self._parts.wrap(f"store.{declaration.name}.{partition}", store))

        return Lane(declaration, opened, means)


# Replay -----------------------------------------------------------------------------------


def dead_letters_over(parts: Parts, passes: Passes, audit: AuditLog) -> DeadLetters:
    """Return the use cases about parked subjects and refused lines."""

    async def states() -> Mapping[str, StateCodec]:
        vault = parts.vaults.released_to(OPERATE)
        return {name: codec_of(one, vault) for name, one in (await parts.line_up.current()).items()}

    return DeadLetters(
        log=parts.log, latest=parts.latest, codec=parts.codec, passes=passes, states=states,
        audit=audit, clock=parts.clock, ids=parts.ids,
    )  # fmt: skip


def replay_over(parts: Parts, passes: Runner) -> Replay:
    """Return the use cases around versions of projections."""
    line_up, vault = parts.line_up, parts.vaults.released_to(OPERATE)

    def folded(projection: str, number: int, native: int) -> Folded:
        declaration: PassDeclaration = line_up.projections[projection]
        table = structs.replace(line_up.tables[projection], version=native)
        if number != native:
            declaration = later = version_pass(declaration, projection, number)
            table = cast("Table[object]", later.processors[0].table)
            parts.log.declare(*later.topics)
        return Folded(
            projection=projection, version=number, pass_name=declaration.name, table=table,
            states=codec_of(declaration, vault), topics=_topics(declaration, table),
            groups=_groups(declaration, table, vault),
        )  # fmt: skip

    async def runs() -> frozenset[str]:
        return frozenset(
            f"{processor.table.name}.v{processor.table.version}"
            for one in (await line_up.current()).values()
            for processor in one.processors
        )

    return Replay(
        log=parts.log, keeper=parts.log, vault=vault,
        states=states_of(parts.declared, vault), views=parts.views, latest=parts.latest,
        versions=parts.versions, passes=passes, clock=parts.clock, tables=line_up.tables,
        folded=folded, runs=runs,
    )  # fmt: skip
