"""Which passes there are now: those declared, and those of the versions that the registry keeps."""

from collections.abc import Awaitable, Callable, Mapping
from typing import cast

from msgspec import structs

from privacy_ledger.domain.topics import Topic
from privacy_ledger.domain.versions import Version, VersionKey
from privacy_ledger.engine.declaration import PassDeclaration, VersionPass, projections, version_pass
from privacy_ledger.streams.states import Table

__all__ = ["LineUp"]


class LineUp:
    """The passes to run, read from the registry anew at each question."""

    def __init__(
        self,
        declared: Mapping[str, PassDeclaration],
        read: Callable[[], Awaitable[Mapping[VersionKey, Version]]],
        *,
        declare: Callable[[Topic], None],
    ) -> None:
        """Take the declared passes, how the versions are read, and the log's own declaration."""
        self.declared = declared
        self.projections = projections(declared.values())
        self._read = read
        self._declare = declare

    async def current(self) -> dict[str, PassDeclaration]:
        """Return every pass by name, the declared ones first; a dropped projection is in none."""
        versions = await self._read()
        tables = self.tables
        found = {name: _without_dropped(one, versions) for name, one in self.declared.items()}
        for (projection, number), version in versions.items():
            declaration = self.projections.get(projection)
            if declaration is None or version.status != "kept" or number == tables[projection].version:
                continue
            later = version_pass(declaration, projection, number)
            for topic in later.topics:
                self._declare(topic)
            found[later.name] = later
        return found

    async def required(self) -> tuple[str, ...]:
        """Return the passes that readers wait for: those declared, and versions that speak."""
        versions = await self._read()
        current = await self.current()
        return tuple(
            name
            for name, one in current.items()
            if not isinstance(one, VersionPass) or versions[one.projection, one.version].speaks
        )

    async def rate(self, declaration: PassDeclaration) -> int | None:
        """Return the bound on records a second of a version that does not speak, else None."""
        if not isinstance(declaration, VersionPass):
            return None
        version = (await self._read()).get((declaration.projection, declaration.version))
        return None if version is None or version.speaks else version.rate

    @property
    def tables(self) -> dict[str, Table[object]]:
        """The declared table of each projection that may have later versions."""
        return {
            processor.table.name: cast("Table[object]", processor.table)
            for one in self.declared.values()
            for processor in one.processors
            if processor.table.name in self.projections
        }


def _without_dropped(declaration: PassDeclaration, versions: Mapping[VersionKey, Version]) -> PassDeclaration:
    """Return a declared pass without the projections whose declared version was dropped."""
    kept = tuple(
        processor
        for processor in declaration.processors
        if (version := versions.get((processor.table.name, processor.table.version))) is None
        or version.status == "kept"
    )
    if len(kept) == len(declaration.processors):
        return declaration
    gone = {one.table.name for one in declaration.processors} - {one.table.name for one in kept}
    return structs.replace(declaration, processors=kept, publishes=declaration.publishes - gone)
