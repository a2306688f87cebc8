"""A rebuild from offset 0 has the digests of the live state."""

from privacy_ledger.adapters.books import NOTHING, RegistryBooks
from privacy_ledger.adapters.views import TailedLatest
from privacy_ledger.engine.rebuild import Rebuild, live_digests
from privacy_ledger.testing.checkers.evidence import Evidence

__all__ = ["rebuilt"]


async def rebuilt(evidence: Evidence) -> list[str]:
    """Return each table whose rebuild, up to the live position, has another digest."""
    ledger = evidence.ledger
    found: list[str] = []
    for declaration in ledger.declared.values():
        until = {
            partition: (await ledger.views.position(declaration.name, partition)).offset
            for partition in range(ledger.partitions)
        }
        rebuild = Rebuild(
            declaration, log=ledger.log, codec=ledger.codec, books=RegistryBooks(ledger.log),
            initial=NOTHING, sampling_key=ledger.vault.secret("sampling"),
        )  # fmt: skip
        await rebuild.run(until, now=ledger.clock.now())
        live = await live_digests(
            declaration, ledger.state_codec(declaration), TailedLatest(ledger.log),
            partitions=ledger.partitions,
        )  # fmt: skip
        found += [
            f"{one.table} of {declaration.name}: {one.keys} keys live, {other.keys} rebuilt"
            for one, other in zip(live, rebuild.digests(), strict=True)
            if one != other
        ]
    return found
