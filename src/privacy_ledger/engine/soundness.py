"""Whether a store, its changelogs and the ledger are what they were: each thing that is not has a name.

A store says of itself whose it is, which life of the state it holds, and when it last held all of
it. The state topic says how far each changelog was ever known to reach (`Chronicle`). So a store
that is stale, foreign or ahead is wiped, and a changelog that lost its beginning or its end is
noticed, instead of a wrong state being folded on.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.domain.errors import ChangelogLost, LedgerRewound, LedgerTruncated, StoreUnfit
from privacy_ledger.domain.topics import DELETE_RETENTION_MS, state_topic
from privacy_ledger.engine.cycle import POSITION_KEY
from privacy_ledger.engine.handover import marked_topics, stored_marks
from privacy_ledger.ports.log import NewRecord, PassLog
from privacy_ledger.ports.passes import PassPosition
from privacy_ledger.ports.runtime import StateStore

__all__ = [
    "CHRONICLE_KEY",
    "Chronicle",
    "Place",
    "check_ledger",
    "check_life",
    "check_whole",
    "chronicle_of",
    "examine",
    "look_back",
    "own_stamp",
    "prepare",
    "time_stamp",
]

STALE_AFTER: Final = timedelta(milliseconds=DELETE_RETENTION_MS / 2)
"""A store that was not whole for longer may have missed a tombstone that is gone since."""
AHEAD_OF_CLOCK_MAX: Final = timedelta(days=1)
LOOK_BACK: Final = 64
"""So many offsets below a store's mark are looked at: they say which life of the state the topic holds."""
CHRONICLE_KEY: Final = b"\0log"
_AT_KEY: Final = b"\0at"
_OWN_KEY: Final = b"\0own"


class Place(Struct, frozen=True, kw_only=True):
    """One partition of a pass: its name, its number, its changelogs, and the ledger that it folds."""

    pass_name: str
    partition: int
    changelogs: Mapping[str, bytes]
    source: str

    @property
    def own(self) -> str:
        """The pass's private changelog."""
        return state_topic(self.pass_name)

    @property
    def writer(self) -> str:
        """The name of the partition's writer: whoever opened it last owns the partition."""
        return f"{self.pass_name}.{self.partition}"


class Chronicle(Struct, frozen=True, kw_only=True):
    """What the state topic says of the pass's changelogs: where each began, and an offset it reached.

    `life` as in `PassPosition`. `is_rebuilding`: the state is being built again and is not whole.
    """

    life: bytes
    starts: dict[str, int]
    reached: dict[str, int]
    is_rebuilding: bool = False

    def record(self, partition: int) -> NewRecord:
        """Return the record of it for the state topic."""
        return NewRecord(partition, CHRONICLE_KEY, msgspec.msgpack.encode(self))


_LIFE: Final[Mapping[bytes, type[PassPosition] | type[Chronicle]]] = {
    POSITION_KEY: PassPosition,
    CHRONICLE_KEY: Chronicle,
}


# The store by itself --------------------------------------------------------------------------


def time_stamp(now: datetime) -> tuple[bytes, bytes]:
    """Return the entry that says: at this time the store held all that its changelogs said."""
    return _AT_KEY, b"%d" % (now.timestamp() * 1000)


def own_stamp(place: Place, life: bytes = b"") -> tuple[bytes, bytes]:
    """Return the entry that says whose the store is, and which life of the state it holds, if known."""
    return _OWN_KEY, f"{place.writer}:{life.hex()}".encode()


def prepare(store: StateStore, place: Place, *, now: datetime) -> StoreUnfit | None:
    """Return why a store must not be used, or None; an empty one is stamped first."""
    if not any(True for _ in store.scan(b"\0")):
        store.write([own_stamp(place), time_stamp(now)])
    return examine(store, place, now=now)


def examine(store: StateStore, place: Place, *, now: datetime) -> StoreUnfit | None:
    """Return why a store that was just opened must not be used, or None."""
    at, own = store.get_many([_AT_KEY, _OWN_KEY])
    where = f"The store of {place.pass_name} partition {place.partition}"
    again = "It is wiped and restored."
    name = f"{place.writer}:".encode()
    if own is None or not own.startswith(name):
        return StoreUnfit("foreign", f"{where} belongs to another pass or partition. {again}")
    if not set(marked_topics(store)) <= set(place.changelogs):
        return StoreUnfit("outdated", f"{where} holds a view that the pass no longer writes. {again}")
    age = now - datetime.fromtimestamp(int(at or b"0") / 1000, UTC)
    if age > STALE_AFTER or age < -AHEAD_OF_CLOCK_MAX:
        return StoreUnfit("stale", f"{where} was last whole {age.days} days ago. {again}")
    return None


# The store beside its changelogs ----------------------------------------------------------------


async def look_back(log: PassLog, store: StateStore, place: Place) -> None:
    """Make sure that a store's changelogs can bring it on, and that the last it applied is still theirs.

    Raises:
        StoreUnfit: a changelog begins above its mark, or the state topic holds another life.
    """
    marks = stored_marks(store, place.changelogs)
    for topic, mark in marks.items():
        if 0 <= mark < await log.first(topic, place.partition) - 1:
            where = f"The store of {place.pass_name} partition {place.partition}"
            raise StoreUnfit("behind", f"{where} ends before {topic} begins. It is wiped and restored.")
    mark = marks[place.own]
    rows = await log.read(place.own, place.partition, after=max(-1, mark - LOOK_BACK), limit=LOOK_BACK)
    for row in reversed([row for row in rows if row.offset <= mark and row.value is not None]):
        if row.key in _LIFE:
            _check_life(store, place, msgspec.msgpack.decode(row.value or b"", type=_LIFE[row.key]).life)
            return


def check_life(store: StateStore, place: Place) -> bytes:
    """Return the life of the state that a restored store holds; it must be the one that it began with.

    Raises:
        StoreUnfit: its topics were made anew meanwhile.
    """
    (position,) = store.get_many([POSITION_KEY])
    life = b"" if position is None else msgspec.msgpack.decode(position, type=PassPosition).life
    if position is not None:
        _check_life(store, place, life)
    return life


def _check_life(store: StateStore, place: Place, life: bytes) -> None:
    (own,) = store.get_many([_OWN_KEY])
    if own not in {None, own_stamp(place)[1], own_stamp(place, life)[1]}:
        raise StoreUnfit(
            "foreign",
            f"The store of {place.pass_name} partition {place.partition} is of an earlier life of its "
            "topics. It is wiped and restored.",
        )


def chronicle_of(store: StateStore) -> Chronicle | None:
    """Return what the state topic says of the changelogs; None before it said anything."""
    (value,) = store.get_many([CHRONICLE_KEY])
    return None if value is None else msgspec.msgpack.decode(value, type=Chronicle)


async def check_whole(log: PassLog, store: StateStore, place: Place, *, awaited: frozenset[str]) -> None:
    """Make sure that the changelogs still hold the whole state of the pass.

    `awaited`: views of processors that are still to be taken over; others wrote them.

    Raises:
        ChangelogLost: one lost its beginning or its end, or the state is gone and a view is not.
    """
    chronicle = chronicle_of(store)
    (position,) = store.get_many([POSITION_KEY])

    def lost(how: str, topic: str, message: str) -> ChangelogLost:
        return ChangelogLost(how, topic=topic, partition=place.partition, message=message)

    if chronicle is not None and chronicle.is_rebuilding:
        raise lost("unfinished", place.own, "is of a pass whose state was being built again.")
    for topic in sorted(place.changelogs):
        first, end = await log.first(topic, place.partition), await log.end(topic, place.partition)
        start = 0 if chronicle is None else chronicle.starts.get(topic, 0)
        reached = -1 if chronicle is None else chronicle.reached.get(topic, -1)
        if end <= reached:
            raise lost("shortened", topic, f"ends at {end}, and {reached} was acknowledged.")
        if first > start:
            raise lost("truncated", topic, f"begins at {first} instead of {start}.")
        if position is None and end > first and topic != place.own and topic not in awaited:
            raise lost("missing", place.own, f"holds no position, and {topic} holds rows.")


# The ledger -------------------------------------------------------------------------------------


async def check_ledger(log: PassLog, place: Place, position: PassPosition) -> None:
    """Make sure that the ledger still has all that the pass is to fold next, and reaches its position.

    Cheap: it asks for both ends only; `check_not_rewound` looks at the records themselves.

    Raises:
        LedgerTruncated: records above the position were deleted.
        LedgerRewound: the ledger ends below the position.
    """
    where = f"{place.source} partition {place.partition}"
    first = await log.first(place.source, place.partition)
    if first > position.offset + 1:
        raise LedgerTruncated(
            f"{where} begins at {first}, and the pass {place.pass_name} has folded up to "
            f"{position.offset}: what lies between was deleted. Restore the topic from a backup, and "
            "look at its settings with `privacy-ledger topics plan`."
        )
    end = await log.end(place.source, place.partition)
    if end <= position.offset:
        raise LedgerRewound(
            f"{where} ends at {end}, below offset {position.offset} that the pass {place.pass_name} has "
            "folded. Restore the topic from a backup, then start the worker again."
        )
