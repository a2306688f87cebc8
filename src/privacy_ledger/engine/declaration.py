"""Passes: a declared name with a fixed list of processors over one source."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, cast

from msgspec import Struct, structs

from privacy_ledger.domain.errors import InvariantViolation
from privacy_ledger.domain.topics import (
    ANALYTICS_PARTIALS,
    TOPICS,
    Topic,
    state_topic,
    version_topics,
    view_topic,
)
from privacy_ledger.domain.versions import pass_of
from privacy_ledger.streams.analytics import CourseViews
from privacy_ledger.streams.held import HELD, TICKS, WAITING
from privacy_ledger.streams.protocol import Processor, Published
from privacy_ledger.streams.roster import MOVED, ROSTER
from privacy_ledger.streams.sparing import HOLDS
from privacy_ledger.streams.states import (
    FROZEN,
    GENERATIONS,
    INDEX,
    MEMBERS,
    META,
    PERMISSIONS,
    SHREDS,
    TIMERS,
    WINDOWS,
    WORK,
    Table,
)

__all__ = [
    "CORE",
    "FOLDED",
    "PassDeclaration",
    "VersionPass",
    "passes",
    "published_projections",
    "topics_of",
    "version_pass",
]

CORE: Final = "core"
"""The pass that alone publishes permissions and writes tombstones."""

FOLDED: Final = cast(
    "tuple[Table[object], ...]",
    (
        PERMISSIONS, INDEX, TIMERS, META, WORK, GENERATIONS, SHREDS, HELD, WAITING, TICKS, FROZEN,
        WINDOWS, MEMBERS, ROSTER, MOVED, HOLDS,
    ),
)  # fmt: skip
"""The tables that every pass keeps for itself."""


class PassDeclaration(Struct, frozen=True, kw_only=True):
    """One pass: its processors, and which tables go to their public view.

    `elsewhere`: the processors of the build's other passes, and how often each has moved.
    """

    name: str
    source: str
    processors: tuple[Processor[object], ...]
    publishes: frozenset[str]
    elsewhere: dict[str, int] = {}

    @property
    def writes_tombstones(self) -> bool:
        """Whether this pass owns the ledger's tombstones."""
        return self.name == CORE

    @property
    def projections(self) -> dict[str, Table[object]]:
        """What the pass folds records into, by name: its processors and what it publishes beside them."""
        own = {processor.table.name for processor in self.processors} | self.publishes
        return {table.name: table for table in sorted(self.tables, key=lambda t: t.name) if table.name in own}

    @property
    def tables(self) -> tuple[Table[object], ...]:
        """Every table of the pass, folded and projected."""
        projected = tuple(processor.table for processor in self.processors)
        return (*FOLDED, *cast("tuple[Table[object], ...]", projected))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The compacted topics that the pass writes and keeps no table in."""
        has_windows = any(isinstance(processor.step, CourseViews) for processor in self.processors)
        return (ANALYTICS_PARTIALS,) if has_windows else ()


def passes(declared: Iterable[Processor[object] | Published]) -> dict[str, PassDeclaration]:
    """Return the passes that these declarations make up, by name, processors sorted by name.

    Raises:
        InvariantViolation: two tables of a pass have one code or name, or a processor moved to
            where it came from last.
    """
    members: dict[str, list[Processor[object]]] = defaultdict(list)
    published: dict[str, set[str]] = defaultdict(set)
    sources: dict[str, str] = {}
    for one in sorted(declared, key=lambda item: item.name):
        sources[one.runs_in] = one.source
        if isinstance(one, Processor):
            members[one.runs_in].append(one)
        if one.table.view is not None:
            published[one.runs_in].add(one.table.name)
    found = {
        name: PassDeclaration(
            name=name,
            source=source,
            processors=tuple(members[name]),
            publishes=frozenset(published[name]),
            elsewhere={
                one.name: len(one.moved_from)
                for other, those in members.items()
                for one in those
                if other != name
            },
        )
        for name, source in sorted(sources.items())
    }
    for declaration in found.values():
        _check(declaration)
    return found


def _check(declaration: PassDeclaration) -> None:
    """Refuse a pass whose rows could not be told apart."""
    seen: set[bytes | str] = set()
    for table in declaration.tables:
        if table.code in seen or table.name in seen:
            raise InvariantViolation(
                f"Two tables of the pass {declaration.name} share the code {table.code!r} or the name "
                f"{table.name}. Give the new one its own."
            )
        seen |= {table.code, table.name}
    for processor in declaration.processors:
        if processor.moved_from[-1:] == (declaration.name,):
            raise InvariantViolation(
                f"The processor {processor.name} says that it moved from {declaration.name} to itself. "
                "`moved_from` names the passes before this one."
            )


class VersionPass(PassDeclaration, frozen=True, kw_only=True):
    """The pass of a later version of one projection: muted, into topics of its own.

    `runs_with` is the pass of the declared version: whoever runs that runs this beside it.
    """

    projection: str
    version: int
    runs_with: str

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topics that this pass alone writes."""
        return version_topics(self.view, self.version, folded_by=self.name, role=self.runs_with)

    @property
    def outputs(self) -> tuple[str, ...]:
        """None: it is muted."""
        return ()

    @property
    def view(self) -> str:
        """The name of the view, without its version."""
        return self.processors[0].table.view or ""

    @property
    def own(self) -> frozenset[str]:
        """The names of the topics that this pass alone writes."""
        return frozenset((state_topic(self.name), view_topic(self.view, self.version)))


def published_projections(declared: Iterable[PassDeclaration]) -> dict[str, PassDeclaration]:
    """Return the published projections that may have later versions, by name, and whose they are."""
    return {
        processor.table.name: declaration
        for declaration in declared
        for processor in declaration.processors
        if processor.table.name in declaration.publishes
    }


def version_pass(declaration: PassDeclaration, projection: str, version: int) -> VersionPass:
    """Return the pass of a later version of a projection that a declared pass publishes."""
    (processor,) = (one for one in declaration.processors if one.table.name == projection)
    name = pass_of(projection, version)
    table = structs.replace(processor.table, version=version)
    return VersionPass(
        name=name,
        source=declaration.source,
        processors=(structs.replace(processor, runs_in=name, table=table, moved_from=()),),
        publishes=frozenset((projection,)),
        projection=projection,
        version=version,
        runs_with=declaration.name,
    )


def topics_of(current: Iterable[PassDeclaration]) -> tuple[Topic, ...]:
    """Return the topics for these passes: those declared, but for views that no pass publishes."""
    current = tuple(current)
    published = {
        view_topic(processor.table.view or "", processor.table.version)
        for one in current
        for processor in one.processors
        if processor.table.name in one.publishes
    }
    views = {view_topic(table.view) for table in FOLDED if table.view is not None} | published
    return (
        *(topic for topic in TOPICS if not topic.name.startswith("view.") or topic.name in views),
        *(topic for one in current if isinstance(one, VersionPass) for topic in one.topics),
    )
