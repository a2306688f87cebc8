"""Passes: a declared name with a fixed list of processors over one source."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, cast

from msgspec import Struct

from privacy_ledger.domain.errors import InvariantViolation
from privacy_ledger.streams.protocol import Processor, Published
from privacy_ledger.streams.roster import MOVED, ROSTER
from privacy_ledger.streams.states import (
    FROZEN,
    GENERATIONS,
    INDEX,
    MEMBERS,
    META,
    PARKED,
    PERMISSIONS,
    SHREDS,
    TIMERS,
    WAITING,
    WINDOWS,
    WORK,
    Table,
)

__all__ = ["CORE", "FOLDED", "PassDeclaration", "passes"]

CORE: Final = "core"
"""The pass that alone publishes permissions and writes tombstones."""

FOLDED: Final = cast(
    "tuple[Table[object], ...]",
    (
        PERMISSIONS, INDEX, TIMERS, META, WORK, GENERATIONS, SHREDS, PARKED, WAITING, FROZEN, WINDOWS,
        MEMBERS, ROSTER, MOVED,
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
