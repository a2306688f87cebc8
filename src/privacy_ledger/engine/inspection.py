"""What a pass's own topics and the ledger say to somebody who only looks: `doctor`, and comparisons."""

import msgspec
from msgspec import Struct

from privacy_ledger.domain.errors import BuildRefused, ChangelogLost, LedgerRewound, LedgerTruncated
from privacy_ledger.engine.cache import StateCache
from privacy_ledger.engine.cycle import POSITION_KEY
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.engine.handover import check_not_rewound
from privacy_ledger.engine.rebuild import MemoryStore
from privacy_ledger.engine.soundness import CHRONICLE_KEY, Place, check_ledger, check_whole
from privacy_ledger.ports.codec import StateCodec
from privacy_ledger.ports.log import PassLog
from privacy_ledger.ports.passes import PassPosition
from privacy_ledger.ports.runtime import StateStore
from privacy_ledger.ports.tables import Scan
from privacy_ledger.streams.roster import MOVED, ROSTER, Standing, enrol
from privacy_ledger.streams.roster import Place as Seat
from privacy_ledger.streams.states import Workspace

__all__ = ["Finding", "inspect", "joining", "standings"]


class Finding(Struct, frozen=True, kw_only=True):
    """What is wrong with one partition of a pass, by name, and the command that comes next."""

    name: str
    text: str
    mend: str


async def inspect(
    log: PassLog, latest: Scan, declaration: PassDeclaration, place: Place, states: StateCodec
) -> list[Finding]:
    """Return what is wrong with a partition, as far as its topics show; nothing is changed."""
    store = await _read(latest, place)
    (stored,) = store.get_many([POSITION_KEY])
    position = PassPosition() if stored is None else msgspec.msgpack.decode(stored, type=PassPosition)
    found: list[Finding] = []
    if stored is not None:
        try:
            await check_whole(log, store, place, awaited=frozenset())
            await check_ledger(log, place, position)
            await check_not_rewound(log, place.source, place.partition, position)
        except (ChangelogLost, LedgerRewound, LedgerTruncated) as error:
            found.append(Finding(name=error.outcome, text=str(error), mend="worker run"))
    try:
        _check_roll(store, declaration, place, states, position=position.offset)
    except BuildRefused as error:
        return [*found, Finding(name=error.outcome, text=str(error), mend="version")]
    where = f"the pass {place.pass_name}, partition {place.partition}"
    for name in sorted(_joining(_roster(store, states), declaration)):
        text = f"The processor {name} is being brought up in {where}"
        found.append(Finding(name="processor joins", text=text, mend="worker run"))
    return found


async def standings(latest: Scan, place: Place, states: StateCodec) -> dict[str, Standing]:
    """Return where each processor stands in a partition, by name: its own position beside the pass's."""
    return _roster(await _read(latest, place), states)


async def joining(latest: Scan, declaration: PassDeclaration, place: Place, states: StateCodec) -> set[str]:
    """Return the processors that do not fold everybody yet in a partition."""
    return _joining(await standings(latest, place, states), declaration)


def _joining(roster: dict[str, Standing], declaration: PassDeclaration) -> set[str]:
    standings = {one.name: roster.get(one.name) for one in declaration.processors}
    return {
        name
        for name, standing in standings.items()
        if standing is not None and (standing.state != "folds" or standing.cursor is not None)
    }


async def _read(latest: Scan, place: Place) -> StateStore:
    """Return a store with the few rows of a state topic that are not about a subject."""
    store = MemoryStore()
    for prefix in (POSITION_KEY, CHRONICLE_KEY, ROSTER.code, MOVED.code):
        store.write(list(await latest.scan(place.own, place.partition, prefix)))
    return store


def _roster(store: StateStore, states: StateCodec) -> dict[str, Standing]:
    cache = StateCache(store, states)
    return {key.decode(): standing for key, standing in cache.scan(ROSTER, b"")}


def _check_roll(
    store: StateStore, declaration: PassDeclaration, place: Place, states: StateCodec, *, position: int
) -> None:
    """Raise `BuildRefused` where a worker of this build would be refused."""
    enrol(
        Workspace(StateCache(store, states)),
        declaration.processors,
        Seat(
            runs_in=declaration.name, partition=place.partition, position=position,
            public=declaration.publishes, elsewhere=declaration.elsewhere,
        ),
        claims={},
        floors={one.name: 0 for one in declaration.processors},
    )  # fmt: skip
