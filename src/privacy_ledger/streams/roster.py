"""The roster of a pass: which processors its state has folded, and who is being brought up.

It is state like any other: one row a processor and partition, written in the transaction of what
it speaks of. A processor that the roster does not hold joins while the pass goes on (`joins`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, Literal

import msgspec
from msgspec import Struct, structs

from privacy_ledger.domain.errors import ProcessorChanged, ProcessorMoved
from privacy_ledger.domain.events import COLLECTION_EVENTS, event_type
from privacy_ledger.streams.analytics import CourseViews
from privacy_ledger.streams.protocol import Processor
from privacy_ledger.streams.states import Table, Workspace

__all__ = [
    "MOVED",
    "ROSTER",
    "Claim",
    "Identity",
    "Moved",
    "Place",
    "Seats",
    "Standing",
    "enrol",
    "identity_of",
    "seats_of",
]

KNOWN: Final = frozenset(event_type(kind) for kind in COLLECTION_EVENTS)


class Identity(Struct, frozen=True, kw_only=True):
    """What a processor's rows were folded by; another identity would mix two projections in one.

    `folds` and `ignores` are the event types that the build knew; one that it did not know parks
    its subject, so it was neither folded nor passed over.
    """

    code: bytes
    table: str
    version: int
    step: str
    purpose: str | None
    layout: str
    folds: tuple[str, ...]
    ignores: tuple[str, ...]
    is_public: bool
    is_windowed: bool


class Standing(Struct, frozen=True, kw_only=True):
    """Where one processor stands in one partition of its pass.

    It folds the subjects below `cursor` live, and the others wait for the slice that brings them
    up; None: it folds everybody. Below the offset `since` it takes no part: there its
    predecessor stood. `floor`: no generation of its view keys below this may be used.
    """

    identity: Identity
    state: Literal["folds", "leaves", "left"] = "folds"
    cursor: bytes | None = None
    since: int = -1
    moves: int = 0
    floor: int = 0


class Moved(Struct, frozen=True, kw_only=True):
    """The mark that a processor's new pass leaves in the old one's state: to where, which move."""

    to: str
    moves: int


class Claim(Struct, frozen=True, kw_only=True):
    """What a new pass found when it took a processor over: where the old one stood at the last.

    `generation`: the highest that the old pass counted for any subject; `identity`: as it folded.
    """

    position: int
    generation: int
    identity: Identity | None


class Place(Struct, frozen=True, kw_only=True):
    """One partition of a pass as its declaration and its position say.

    `public`: tables with a view. `elsewhere`: the moves of processors that the build runs in
    other passes.
    """

    runs_in: str
    partition: int
    position: int
    public: frozenset[str] = frozenset()
    elsewhere: Mapping[str, int] = {}


class Seats(Struct, frozen=True, kw_only=True):
    """Who folds now: the processors that take part, and how far those that are brought up came.

    `is_leaving`: rows of one that is no longer declared are still to be deleted. `opens_at`: the
    offset at which the next of those that wait for their turn begins. `floor`: the lowest
    generation of view keys that may be used. `departed`: tables whose public view nobody writes
    any more; a removal still reaches it by its keys.
    """

    processors: tuple[Processor[object], ...]
    cursors: Mapping[str, bytes] = {}
    opens_at: int | None = None
    floor: int = 0
    departed: tuple[Table[object], ...] = ()
    is_leaving: bool = False

    @property
    def is_moving(self) -> bool:
        """Whether there is something to do for the roster beside the pass's own work."""
        return bool(self.cursors) or self.is_leaving


ROSTER: Final = Table(b"r", "roster", Standing, "plain")
MOVED: Final = Table(b"v", "moved", Moved, "plain")


# Identity ---------------------------------------------------------------------------------


def identity_of(processor: Processor[object], *, is_public: bool) -> Identity:
    """Return what a processor is, as far as its declaration shows."""
    step, table = processor.step, processor.table
    return Identity(
        code=table.code,
        table=table.name,
        version=table.version,
        step=type(step).__qualname__,
        purpose=step.purpose,
        layout=_layout(table.kind),
        folds=tuple(sorted(KNOWN & step.types)),
        ignores=tuple(sorted(KNOWN - step.types)),
        is_public=is_public,
        is_windowed=isinstance(step, CourseViews),
    )


@cache
def _layout(kind: type[object]) -> str:
    """Return a digest of the layout of a state's bytes, whatever its classes are called."""
    schema = msgspec.json.schema(kind)
    definitions = schema.get("$defs", {})

    def plain(node: object) -> object:
        if isinstance(node, list):
            return [plain(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return plain(definitions[str(node["$ref"]).rpartition("/")[2]])
        return {key: plain(value) for key, value in node.items() if key not in _NAMES}

    shape = plain({key: value for key, value in schema.items() if key != "$defs"})
    return hashlib.sha256(msgspec.json.encode(shape, order="sorted")).hexdigest()[:16]


_NAMES: Final = frozenset({"title", "description"})


def _difference(stored: Identity, declared: Identity) -> str | None:
    """Return what makes two identities two projections, or None."""
    if stored.version != declared.version:
        return f"version {declared.version} instead of {stored.version}"
    for name in ("code", "table", "step", "purpose", "layout", "is_windowed"):
        if getattr(stored, name) != getattr(declared, name):
            return {"layout": "another layout of its state", "is_windowed": "other windows"}.get(
                name, f"another {name}"
            )
    both = KNOWN & {*stored.folds, *stored.ignores}
    changed = sorted(both & (set(stored.folds) ^ set(declared.folds)))
    return f"other event types ({', '.join(changed[:3])})" if changed else None


# Seats -------------------------------------------------------------------------------------


def seats_of(work: Workspace, processors: Sequence[Processor[object]], *, position: int) -> Seats:
    """Return who folds at a position. Without a roster (a rebuild) all do, from the start."""
    roster = {key.decode(): standing for key, standing in work.scan(ROSTER, b"")}
    if not roster:
        return Seats(processors=tuple(processors))
    taking: list[Processor[object]] = []
    cursors: dict[str, bytes] = {}
    waiting: list[int] = []
    leaving = {standing.identity.code for standing in roster.values() if standing.state == "leaves"}
    for processor in processors:
        standing = roster.get(processor.name)
        if standing is None or standing.state != "folds" or standing.identity.code in leaving:
            continue
        if position < standing.since:
            waiting.append(standing.since)
            continue
        taking.append(processor)
        if standing.cursor is not None:
            cursors[processor.name] = standing.cursor
    departed = tuple(
        Table[object](one.identity.code, one.identity.table, object, "view", version=one.identity.version)
        for name, one in roster.items()
        if one.state == "left" and one.identity.is_public and work.get(MOVED, name.encode()) is None
    )
    floor = max(standing.floor for standing in roster.values())
    return Seats(
        processors=tuple(taking), cursors=cursors, opens_at=min(waiting, default=None), floor=floor,
        departed=departed, is_leaving=bool(leaving),
    )  # fmt: skip


# Enrolment ---------------------------------------------------------------------------------


def enrol(
    work: Workspace,
    processors: Sequence[Processor[object]],
    place: Place,
    *,
    claims: Mapping[str, Claim],
    floors: Mapping[str, int],
) -> None:
    """Bring the roster to what the build declares, when a partition is taken over.

    `claims`: processors that were just taken over from another pass. `floors`: the first
    generation that no key of a processor's group has, by name. Writes nothing when nothing
    changed.

    Raises:
        ProcessorMoved: a later build moved a processor, away from this pass or to it.
        ProcessorChanged: a processor is not what its rows were folded by.
    """
    roster = {key.decode(): standing for key, standing in work.scan(ROSTER, b"")}
    declared = {processor.name for processor in processors}
    for name, standing in roster.items():
        if name not in declared and standing.state == "folds":
            _refuse_older(name, standing, place)
            state: Literal["leaves", "left"] = "left" if standing.identity.is_public else "leaves"
            work.put(ROSTER, name.encode(), structs.replace(standing, state=state, cursor=None))
    for processor in processors:
        _refuse_moved(work, processor, place)
        before = roster.get(processor.name)
        identity = identity_of(processor, is_public=processor.table.name in place.public)
        claim = claims.get(processor.name)
        for known in (before, claim):
            if known is not None and known.identity is not None:
                _refuse_changed(known.identity, identity, processor, place)
        floor = max(floors[processor.name], claim.generation + 1 if claim else 0)
        is_first = not roster
        after = _standing(work, processor, before, place, identity=identity, claim=claim, is_first=is_first)
        if before is None or before.state != "folds" or claim is not None:
            after = structs.replace(after, floor=max(after.floor, floor))
        if after != before:
            work.put(ROSTER, processor.name.encode(), after)


def _standing(
    work: Workspace,
    processor: Processor[object],
    before: Standing | None,
    place: Place,
    *,
    identity: Identity,
    claim: Claim | None,
    is_first: bool,
) -> Standing:
    """Return how a declared processor stands from now on."""
    moves = len(processor.moved_from)
    if claim is not None:
        return Standing(identity=identity, cursor=b"", since=claim.position, moves=moves)
    if before is not None and before.state == "folds":
        return structs.replace(before, identity=identity, moves=max(moves, before.moves))
    is_new = is_first and (place.position < 0 or _has_rows(work, processor))
    # A pass at its beginning, or a state from before there were rosters: nobody joins late.
    return Standing(identity=identity, cursor=None if is_new else b"", moves=moves)


def _has_rows(work: Workspace, processor: Processor[object]) -> bool:
    """Return whether this partition holds a state of a processor, whoever wrote it."""
    return next(work.keys(processor.table, b""), None) is not None


def _refuse_moved(work: Workspace, processor: Processor[object], place: Place) -> None:
    mark = work.get(MOVED, processor.name.encode())
    if mark is not None and mark.moves > len(processor.moved_from):
        raise ProcessorMoved(
            processor=processor.name,
            runs_in=f"the pass {place.runs_in}",
            partition=place.partition,
            to=mark.to,
        )


def _refuse_older(name: str, standing: Standing, place: Place) -> None:
    """Refuse a build that runs in another pass what was moved here, or what it did not move there."""
    moves = place.elsewhere.get(name)
    if moves is not None and moves <= standing.moves:
        raise ProcessorMoved(
            processor=name, runs_in="another pass", partition=place.partition, to=place.runs_in
        )


def _refuse_changed(stored: Identity, declared: Identity, processor: Processor[object], place: Place) -> None:
    difference = _difference(stored, declared)
    if difference is not None:
        raise ProcessorChanged(
            processor=processor.name, runs_in=place.runs_in, partition=place.partition, how=difference
        )
