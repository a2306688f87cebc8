"""Checkers: each looks at a settled ledger for one promise and returns how it is broken.

A checker knows no scenario. It reads what is durable, and what was written on the way there.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from privacy_ledger.testing.checkers.duties import duties
from privacy_ledger.testing.checkers.erased import erased
from privacy_ledger.testing.checkers.evidence import Evidence, Ledger
from privacy_ledger.testing.checkers.meaning import meaning
from privacy_ledger.testing.checkers.positions import positions
from privacy_ledger.testing.checkers.rebuilt import rebuilt
from privacy_ledger.testing.checkers.records import records
from privacy_ledger.testing.checkers.releases import releases

__all__ = ["CHECKERS", "Checker", "Evidence", "Ledger", "violations"]

Checker = Callable[[Evidence], Awaitable[list[str]]]

CHECKERS: Final[Mapping[str, Checker]] = {
    "meaning": meaning,
    "rebuilt": rebuilt,
    "records": records,
    "erased": erased,
    "duties": duties,
    "positions": positions,
    "releases": releases,
}
"""Every checker by name; `duties` comes after those that read keys, for it destroys some to ask."""


async def violations(evidence: Evidence) -> list[str]:
    """Return every way in which a settled ledger breaks a promise, each after its checker's name."""
    return [f"{name}: {found}" for name, check in CHECKERS.items() for found in await check(evidence)]
