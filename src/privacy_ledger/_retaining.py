"""How retention's last step and its statements are put together: a part of the wiring."""

from collections.abc import Mapping
from importlib.metadata import version as installed

from privacy_ledger import _passes
from privacy_ledger.app.audit import AuditLog
from privacy_ledger.app.expiry_care import ExpiryCare
from privacy_ledger.app.retention_status import Statements
from privacy_ledger.domain.key_release import ERASE, OPERATE
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.ports.codec import StateCodec

__all__ = ["expiry_over", "statements_over"]


def expiry_over(parts: _passes.Parts) -> ExpiryCare:
    """Return what destroys keys whose records are all due, by what every pass that is run says."""

    async def states() -> Mapping[str, StateCodec]:
        vault = parts.vaults.released_to(OPERATE)
        return {name: _passes.codec_of(one, vault) for name, one in (await parts.line_up.current()).items()}

    async def rules(digest: str) -> Rules:
        await parts.books.load(digest)
        return parts.books.known[digest]

    return ExpiryCare(
        vault=parts.vaults.released_to(ERASE), views=parts.views, latest=parts.latest, states=states,
        rules=rules, clock=parts.clock, partitions=parts.log.partitions(LEDGER_EVENTS),
        cursor=parts.expiry_cursor,
    )  # fmt: skip


def statements_over(parts: _passes.Parts, audit: AuditLog, rules: Rules) -> Statements:
    """Return who says what retention did for a person."""
    return Statements(
        vault=parts.vaults.released_to(ERASE), views=parts.views, care=expiry_over(parts),
        rules=rules, audit=audit, clock=parts.clock,
        partitions=parts.log.partitions(LEDGER_EVENTS), build=installed("privacy-ledger"),
    )  # fmt: skip
