"""The use cases over an opened home or cluster: a part of the wiring, used by `bootstrap` alone."""

from collections.abc import Sequence

from privacy_ledger import _erasing, _passes, _retaining
from privacy_ledger._runtime import Runtime
from privacy_ledger.adapters import registry
from privacy_ledger.adapters.atlas import atlas_over
from privacy_ledger.adapters.codec import LedgerCodec
from privacy_ledger.adapters.noise import OpenDpNoise
from privacy_ledger.adapters.signer import SEED_NAME, Ed25519Signer
from privacy_ledger.app.audit import AuditLog
from privacy_ledger.app.dead_letters import DeadLetters
from privacy_ledger.app.erasure import WAIT_S, Erasure
from privacy_ledger.app.erasure_care import ErasureCare
from privacy_ledger.app.expiry_care import ExpiryCare
from privacy_ledger.app.export import Export
from privacy_ledger.app.ingest import Ingest
from privacy_ledger.app.rectification import Rectification
from privacy_ledger.app.release import CurrentCatalogue, Release
from privacy_ledger.app.replay import Replay
from privacy_ledger.app.retention_status import Statements
from privacy_ledger.app.scope_erasure import ScopeErasure
from privacy_ledger.app.stores import DerivedStore, StoreRegistry
from privacy_ledger.app.studies import Studies
from privacy_ledger.app.subjects import Subjects
from privacy_ledger.domain.key_release import COLLECT, SUMS
from privacy_ledger.domain.rules import Registry, Rules
from privacy_ledger.domain.topics import LEDGER_UNATTRIBUTED
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.engine.rebuild import Rebuild
from privacy_ledger.ports.atlas import Atlas

__all__ = [
    "atlas_of",
    "audit_of",
    "dead_letters_of",
    "erasure_care_of",
    "erasure_of",
    "expiry_of",
    "export_of",
    "ingest_of",
    "rebuild_of",
    "rectification_of",
    "release_of",
    "replay_of",
    "rules_in_force",
    "scope_erasure_of",
    "statements_of",
    "stores_of",
    "studies_of",
    "subjects_of",
]


async def rules_in_force(runtime: Runtime) -> Rules:
    """Return the rules that the core pass has adopted, or those of the seed before it has run."""
    meta = await runtime.views.meta(0)
    digest = meta.registry_digest or registry.digest(registry.encode(registry.seed()))
    await runtime.books.load(digest)
    return runtime.books.known[digest]


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
        passes=runtime.passes,
        clock=runtime.clock, ids=runtime.ids, rules=await rules_in_force(runtime),
    )  # fmt: skip


async def studies_of(runtime: Runtime) -> Studies:
    """Return the use cases of studies and beta features."""

    def encode(book: Registry) -> tuple[bytes, str]:
        registry.check(book)
        document = registry.encode(book)
        return document, registry.digest(document)

    return Studies(
        runtime.registrar, await rules_in_force(runtime), decode=registry.decode, encode=encode
    )  # fmt: skip


async def ingest_of(runtime: Runtime) -> Ingest:
    """Return the ingest use case; duplicates are exact when embedded."""
    local, vault = runtime.local, runtime.released_to(COLLECT)
    return Ingest(
        log=runtime.log, vault=vault, codec=LedgerCodec(vault, partitions=runtime.partitions),
        lane_codec=LedgerCodec(vault, partitions=runtime.partitions, stream=LEDGER_UNATTRIBUTED),
        views=runtime.views, clock=runtime.clock, ids=runtime.ids,
        rules=await rules_in_force(runtime), passes=runtime.passes,
        seen=None if local is None else local.live_tags, atlas=atlas_of(runtime),
    )  # fmt: skip


def atlas_of(runtime: Runtime) -> Atlas:
    """Return who tells the places of addresses, by the operator's own database."""
    return atlas_over(runtime.settings.geoip)


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


def expiry_of(runtime: Runtime) -> ExpiryCare:
    """Return what destroys keys whose records are all past their retention."""
    return _retaining.expiry_over(runtime.parts)


async def statements_of(runtime: Runtime) -> Statements:
    """Return who says what retention did for a person."""
    return _retaining.statements_over(runtime.parts, audit_of(runtime), await rules_in_force(runtime))


def stores_of(runtime: Runtime) -> StoreRegistry:
    """Return every store that may hold something of a person."""
    return _erasing.stores_over(runtime.parts, runtime.passes)


def audit_of(runtime: Runtime) -> AuditLog:
    """Return the audit log; its key is a secret of the keystore."""
    return AuditLog(runtime.log, Ed25519Signer(runtime.vault.secret(SEED_NAME)))


def export_of(runtime: Runtime) -> Export:
    """Return the export use case."""
    return Export(rows=runtime.parts.rows, codec=runtime.codec, clock=runtime.clock)
