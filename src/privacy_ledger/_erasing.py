"""How erasures are put together: a part of the wiring, used by `bootstrap` alone."""

from collections.abc import Sequence
from importlib.metadata import version as installed

from privacy_ledger import _passes
from privacy_ledger.adapters import registry
from privacy_ledger.app._topic_stores import (
    KeyStore,
    LaneStore,
    LedgerStore,
    PassStore,
    TopicIndex,
    VersionStore,
)
from privacy_ledger.app.audit import AuditLog
from privacy_ledger.app.erasure import WAIT_S, Erasure
from privacy_ledger.app.erasure_care import ErasureCare
from privacy_ledger.app.retention import Retention
from privacy_ledger.app.scope_erasure import ScopeErasure
from privacy_ledger.app.stores import DerivedStore, PassIndex, StoreRegistry
from privacy_ledger.domain.key_release import ERASE, READ_VIEWS
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import SubjectRef, partition_of
from privacy_ledger.engine.declaration import PassDeclaration, VersionPass
from privacy_ledger.ports.keeping import KeyKeeper
from privacy_ledger.ports.passes import Passes
from privacy_ledger.streams.states import Table

__all__ = ["care_over", "erasure_over", "retention_over", "scope_erasure_over", "stores_over"]


def erasure_over(
    parts: _passes.Parts,
    passes: Passes,
    audit: AuditLog,
    *,
    wait_s: float = WAIT_S,
    beside: Sequence[DerivedStore] = (),
) -> Erasure:
    """Return the erasure saga over the stores that there are, and those of whoever runs it."""
    return Erasure(
        log=parts.log, rows=parts.rows, sagas=parts.sagas,
        vault=parts.vaults.released_to(ERASE), codec=parts.codec,
        views=parts.views, retention=retention_over(parts), passes=passes, clock=parts.clock,
        stores=stores_over(parts, passes, wait_s=wait_s, beside=beside),
        ids=parts.ids, audit=audit, build=installed("privacy-ledger"), wait_s=wait_s,
    )  # fmt: skip


def scope_erasure_over(
    parts: _passes.Parts, passes: Passes, audit: AuditLog, *, wait_s: float = WAIT_S
) -> ScopeErasure:
    """Return the erasure saga of a category, a purpose or a field."""
    return ScopeErasure(
        log=parts.log, rows=parts.rows, sagas=parts.sagas,
        vault=parts.vaults.released_to(ERASE), codec=parts.codec,
        views=parts.views, retention=retention_over(parts), passes=passes, clock=parts.clock,
        stores=stores_over(parts, passes, wait_s=wait_s),
        ids=parts.ids, audit=audit, build=installed("privacy-ledger"), wait_s=wait_s,
    )  # fmt: skip


def care_over(
    parts: _passes.Parts, keeper: KeyKeeper, erasure: Erasure, smaller: ScopeErasure
) -> ErasureCare:
    """Return what looks after all erasures."""
    return ErasureCare(
        log=parts.log, rows=parts.rows, vault=parts.vaults.released_to(ERASE), keeper=keeper,
        codec=parts.codec, clock=parts.clock, ids=parts.ids, erasures=(erasure, smaller),
        meters=parts.meters, first_seen=parts.first_seen,
    )  # fmt: skip


def retention_over(parts: _passes.Parts) -> Retention:
    """Return who knows what the law keeps, under the rules that the core pass has adopted."""

    async def rules(ref: SubjectRef) -> Rules:
        meta = await parts.views.meta(partition_of(ref, parts.log.partitions(LEDGER_EVENTS)))
        if meta.registry_digest is None:
            return Rules(registry.seed())
        await parts.books.load(meta.registry_digest)
        return parts.books.known[meta.registry_digest]

    return Retention(
        rows=parts.rows, vault=parts.vaults.released_to(ERASE), views=parts.views, rules=rules
    )  # fmt: skip


def stores_over(
    parts: _passes.Parts,
    passes: Passes,
    *,
    wait_s: float = WAIT_S,
    beside: Sequence[DerivedStore] = (),
) -> StoreRegistry:
    """Return every store of a home or a cluster that may hold something of a person."""
    log, vault, retention = parts.log, parts.vaults.released_to(ERASE), retention_over(parts)

    async def stores() -> Sequence[DerivedStore]:
        current = (await parts.line_up.current()).values()
        declared = [one for one in current if not isinstance(one, VersionPass)]
        return (
            KeyStore(vault, parts.clock, retention),
            *(store for one in declared for store in _kept(parts, one, passes, wait_s=wait_s)),
            VersionStore(parts.views, passes, wait_s=wait_s),
            LaneStore(log, vault, parts.clock),
            parts.letters,
            *beside,
            LedgerStore(parts.rows, vault, passes, retention=retention, wait_s=wait_s),
        )

    async def indexes() -> Sequence[PassIndex]:
        vaults, partitions = parts.vaults.released_to(READ_VIEWS), log.partitions(LEDGER_EVENTS)
        return [
            TopicIndex(states=_passes.codec_of(one, vaults), latest=parts.latest, partitions=partitions)
            for one in (await parts.line_up.current()).values()
        ]

    return StoreRegistry(stores, indexes=indexes)


def _kept(
    parts: _passes.Parts, declaration: PassDeclaration, passes: Passes, *, wait_s: float
) -> list[PassStore]:
    """Return a store for each topic in which a pass keeps something."""
    states = _passes.codec_of(declaration, parts.vaults.released_to(READ_VIEWS))
    of_topic: dict[str, list[Table[object]]] = {}
    for table in declaration.tables:
        of_topic.setdefault(states.topic(table), []).append(table)
    return [
        PassStore(
            topic, tables, states=states, latest=parts.latest, passes=passes,
            partitions=parts.log.partitions(LEDGER_EVENTS), retention=retention_over(parts), wait_s=wait_s,
        )
        for topic, tables in sorted(of_topic.items())
    ]  # fmt: skip
