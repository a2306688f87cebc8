"""Peak memory of a worker by how many keys it keeps, and the restore of those keys."""

import shutil
from typing import Final

from tests.bench.bars import Kind
from tests.bench.measure import Figure
from tests.bench.plain import VIEW_TOPIC
from tests.bench.processes import do
from tests.bench.run import Bench
from tests.bench.tasks import EngineFold, Expected, Fill, Restore

__all__ = ["Memory"]

RESTORES: Final = ((Kind.RESTORE, True), (Kind.RESTORE_TAGS, False))


class Memory:
    """Our core with de-duplication over sources in which every subject occurs."""

    def __init__(self, bench: Bench, *, with_memory: bool, with_restore: bool) -> None:
        """Write the sources."""
        self._bench = bench
        self._with_restore = with_restore
        self._sources = {Kind.KEYS_500K: self._fill("keys-many.", bench.size.keys_many)}
        if with_memory:
            self._sources[Kind.KEYS_50K] = self._fill("keys-few.", bench.size.keys_few)

    def round(self, number: int) -> None:
        """Fold each source; restore the larger one's state."""
        for name, (prefix, expected) in self._sources.items():
            self._bench.measure(name, lambda: self._fold(prefix, expected, number))  # noqa: B023 - called at once
            folder = self._bench.folder / f"{prefix}{number}"
            out = f"{self._bench.prefix}{prefix}{number}."
            if name == Kind.KEYS_500K and self._with_restore:
                for kind, is_view_only in RESTORES:
                    own = self._bench.fresh(f"{prefix}{number}-{'view' if is_view_only else 'all'}")
                    task = Restore(
                        bootstrap=self._bench.bootstrap, prefix=out, folder=str(own),
                        original=str(folder), is_view_only=is_view_only,
                    )  # fmt: skip
                    self._bench.measure(kind, lambda: do(task, Figure))  # noqa: B023 - called at once
                    shutil.rmtree(own)
            self._bench.drop(out)
            shutil.rmtree(folder)

    def _fill(self, name: str, subjects: int) -> tuple[str, Expected]:
        bench = self._bench
        task = Fill(
            bootstrap=bench.bootstrap, prefix=bench.prefix + name, events=bench.size.keys_events,
            subjects=subjects, is_opened=True,
        )  # fmt: skip
        return name, do(task, Expected)

    def _fold(self, name: str, expected: Expected, number: int) -> Figure:
        bench = self._bench
        prefix = f"{bench.prefix}{name}{number}."
        task = EngineFold(
            bootstrap=bench.bootstrap, folder=str(bench.fresh(f"{name}{number}")), prefix=prefix,
            source_prefix=bench.prefix + name, events=expected.events, targets=expected.targets,
            is_exact=True,
        )  # fmt: skip
        return bench.checked(do(task, Figure), topic=prefix + VIEW_TOPIC, digest=expected.each_once)
