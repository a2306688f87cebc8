"""Passes: a declared name with a fixed list of processors over one source."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, cast

from msgspec import Struct

from privacy_ledger.streams.held import HELD, TICKS, WAITING
from privacy_ledger.streams.protocol import Processor, Published
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

__all__ = ["CORE", "FOLDED", "PassDeclaration", "passes"]

CORE: Final = "core"
"""The pass that alone publishes permissions and writes tombstones."""

FOLDED: Final = cast(
    "tuple[Table[object], ...]",
    (
        PERMISSIONS, INDEX, TIMERS, META, WORK, GENERATIONS, SHREDS, HELD, WAITING, TICKS, FROZEN,
        WINDOWS,
        MEMBERS,
    ),
)  # fmt: skip
"""The tables that every pass keeps for itself."""


class PassDeclaration(Struct, frozen=True, kw_only=True):
    """One pass: its processors, and which tables go to their public view."""

    name: str
    source: str
    processors: tuple[Processor[object], ...]
    publishes: frozenset[str]

    @property
    def writes_tombstones(self) -> bool:
        """Whether this pass owns the ledger's tombstones."""
        return self.name == CORE

    @property
    def tables(self) -> tuple[Table[object], ...]:
        """Every table of the pass, folded and projected."""
        projected = tuple(processor.table for processor in self.processors)
        return (*FOLDED, *cast("tuple[Table[object], ...]", projected))


def passes(declared: Iterable[Processor[object] | Published]) -> dict[str, PassDeclaration]:
    """Return the passes that these declarations make up, by name, processors sorted by name."""
    members: dict[str, list[Processor[object]]] = defaultdict(list)
    published: dict[str, set[str]] = defaultdict(set)
    sources: dict[str, str] = {}
    for one in sorted(declared, key=lambda item: item.name):
        sources[one.runs_in] = one.source
        if isinstance(one, Processor):
            members[one.runs_in].append(one)
        if one.table.view is not None:
            published[one.runs_in].add(one.table.name)
    return {
        name: PassDeclaration(
            name=name,
            source=source,
            processors=tuple(members[name]),
            publishes=frozenset(published[name]),
        )
        for name, source in sorted(sources.items())
    }
