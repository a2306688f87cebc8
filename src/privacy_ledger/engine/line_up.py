"""Which passes there are now: those declared, and those of the versions that the registry keeps."""

from collections.abc import Awaitable, Callable, Mapping
from typing import cast

from msgspec import structs

from privacy_ledger.domain.topics import Topic
from privacy_ledger.domain.versions import Version, VersionKey, is_for_build, native_of
from privacy_ledger.engine.declaration import (
    PassDeclaration,
    VersionPass,
    published_projections,
    version_pass,
)
from privacy_ledger.streams.states import Table

__all__ = ["LineUp"]

Versions = Mapping[VersionKey, Version]


class LineUp:
    """The passes that this build runs, read from the registry anew at each question."""

    def __init__(
        self,
        declared: Mapping[str, PassDeclaration],
        read: Callable[[], Awaitable[Versions]],
        *,
        declare: Callable[[Topic], None],
        build: str,
    ) -> None:
        """Take the declared passes, how the versions are read, the log's own declaration, and the build."""
        self.declared = declared
        self.projections = published_projections(declared.values())
        self._read = read
        self._declare = declare
        self._build = build

    @property
    def tables(self) -> dict[str, Table[object]]:
        """The declared table of each projection that may have later versions."""
        return {
            processor.table.name: cast("Table[object]", processor.table)
            for one in self.declared.values()
            for processor in one.processors
            if processor.table.name in self.projections
        }

    async def current(self) -> dict[str, PassDeclaration]:
        """Return every pass by name, the declared ones first.

        A declared pass goes without a projection whose native version is not what this build
        declares, or was dropped: that one is folded by another build, or by nobody.
        """
        versions, tables = await self._read(), self.tables
        found = {name: self._native(one, versions) for name, one in self.declared.items()}
        for (projection, number), version in versions.items():
            table = tables.get(projection)
            if table is None or version.status != "kept" or version.native in {None, number}:
                continue
            if is_for_build(version, build=self._build, declared=table.version):
                later = version_pass(self.projections[projection], projection, number)
                for topic in later.topics:
                    self._declare(topic)
                found[later.name] = later
        return found

    async def required(self) -> tuple[str, ...]:
        """Return the passes that readers wait for: those declared, and versions that speak."""
        versions, current = await self._read(), await self.current()
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

    def _native(self, declaration: PassDeclaration, versions: Versions) -> PassDeclaration:
        """Return a declared pass with the projections that it folds."""
        gone = {
            table.name
            for processor in declaration.processors
            if (table := processor.table).name in self.projections
            and (
                native_of(versions, table.name, declared=table.version) != table.version
                or versions.get((table.name, table.version), _KEPT).status != "kept"
            )
        }
        if not gone:
            return declaration
        kept = tuple(one for one in declaration.processors if one.table.name not in gone)
        return structs.replace(declaration, processors=kept, publishes=declaration.publishes - gone)


_KEPT = Version(projection="", version=0)
