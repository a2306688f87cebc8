"""What the committed projections say, held against the oracle."""

from collections.abc import Callable

from privacy_ledger.bootstrap import Runtime
from privacy_ledger.streams.record import Record
from privacy_ledger.testing.checkers import Evidence
from privacy_ledger.testing.checkers.meaning import meaning
from privacy_ledger.testing.witness import Witness


async def differences(runtime: Runtime, *, without: Callable[[Record], bool] | None = None) -> list[str]:
    """Return every way in which the projections differ from what the oracle expects of the log as it lies.

    `without`: records that belong to nobody; the oracle does not read them. Nobody may have been
    erased by keys alone: what cannot be read any more is expected of nobody.
    """
    witness = Witness()
    await witness.look(runtime.log, runtime.codec)
    if without is not None:
        for partition, records in witness.records.items():
            witness.records[partition] = [record for record in records if not without(record)]
    return await meaning(Evidence(runtime, writes=(), witness=witness))
