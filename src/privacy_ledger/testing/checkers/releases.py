"""A window is charged once, drawn once and published, if at all, as it was drawn."""

import hashlib
from collections import Counter, defaultdict

import msgspec

from privacy_ledger.domain.budget import (
    BudgetReserved,
    CellsReleased,
    ReleaseCommitted,
    ReleaseRefused,
    SealDecided,
)
from privacy_ledger.domain.topics import ANALYTICS_RELEASES, product_topic
from privacy_ledger.ports.log import EventLog, Row
from privacy_ledger.testing.checkers.evidence import Evidence

__all__ = ["releases"]

_PAGE = 1000
_EVENT = msgspec.json.Decoder(
    SealDecided | BudgetReserved | CellsReleased | ReleaseCommitted | ReleaseRefused
)


class _Published(msgspec.Struct):
    """What a public row says, as far as it is compared."""

    release_id: str
    course: str
    value: int


async def releases(evidence: Evidence) -> list[str]:
    """Return each release that is charged, committed or published other than once."""
    log = evidence.ledger.log
    charged: Counter[str] = Counter()
    commits: dict[str, ReleaseCommitted] = {}
    times: Counter[str] = Counter()
    chunks: dict[str, CellsReleased] = {}
    for row in await _rows(log, ANALYTICS_RELEASES):
        event = _EVENT.decode(row.value or b"")
        match event:
            case BudgetReserved():
                charged[event.release_id] += 1
            case ReleaseCommitted():
                times[event.release_id] += 1
                commits[event.release_id] = event
            case CellsReleased():
                chunks[hashlib.sha256(row.value or b"").hexdigest()] = event
            case _:
                pass
    found = [f"release {name[:6]} charged {count} times" for name, count in charged.items() if count != 1]
    found += [f"release {name[:6]} committed {count} times" for name, count in times.items() if count != 1]
    found += [f"release {name[:6]} charged and not committed" for name in charged.keys() - times.keys()]
    drawn: dict[tuple[str, str], int] = {}
    for commit in commits.values():
        for digest in commit.chunks:
            if digest in chunks:
                drawn.update({(commit.release_id, course): n for course, n in chunks[digest].cells})
    found += await _published(log, {commit.product for commit in commits.values()}, drawn)
    return found


async def _published(log: EventLog, products: set[str], drawn: dict[tuple[str, str], int]) -> list[str]:
    """Return which cells were ever published with another value than was drawn, or undrawn."""
    seen: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for product in products:
        for row in await _rows(log, product_topic(product)):
            if row.value is not None:
                public = msgspec.json.decode(row.value, type=_Published)
                seen[public.release_id, public.course].add(public.value)
    return [
        f"a cell of release {name[:6]} was published with {len(values)} values, or another"
        for (name, course), values in sorted(seen.items())
        if values != {drawn.get((name, course))}
    ]


async def _rows(log: EventLog, topic: str) -> list[Row]:
    """Return every record of a topic's one partition."""
    found: list[Row] = []
    after = -1
    while rows := await log.read(topic, 0, after=after, limit=_PAGE):
        found += rows
        after = rows[-1].offset
    return found
