"""One interleaved run: a folder, a broker, and the figures of every kind so far."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct, structs

from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.domain.topics import Topic
from tests.bench import kafka
from tests.bench.bars import RIVALS
from tests.bench.measure import Figure
from tests.bench.processes import ChildFailed, do
from tests.bench.tasks import Verify

__all__ = ["FULL", "QUICK", "Bench", "Measured", "Size"]


class Size(Struct, frozen=True, kw_only=True):
    """How much is measured."""

    is_full: bool
    rounds: int
    events: int
    subjects: int
    rival_events: int
    faust_events: int
    lines: int
    screen_lines: int
    learners: int
    keys_few: int
    keys_many: int
    keys_events: int
    keystore_rows: int
    keystore_pg_rows: int
    sealed_records: int
    latency_rate: int
    latency_s: int
    latency_partitions: tuple[int, ...]
    growth_rounds: int
    growth_events: int
    growth_subjects: tuple[int, ...]


FULL: Final = Size(
    is_full=True, rounds=3, events=300_000, subjects=50_000, rival_events=100_000, faust_events=30_000,
    lines=60_000, screen_lines=50_000, learners=50_000,
    keys_few=50_000, keys_many=500_000, keys_events=200_000,
    keystore_rows=5_000_000, keystore_pg_rows=500_000, sealed_records=300_000,
    latency_rate=5_000, latency_s=20, latency_partitions=(4, 16, 64),
    growth_rounds=3, growth_events=200_000, growth_subjects=(1_000, 100_000, 1_000_000),
)  # fmt: skip
QUICK: Final = Size(
    is_full=False, rounds=3, events=20_000, subjects=5_000, rival_events=5_000, faust_events=3_000,
    lines=2_000, screen_lines=2_000, learners=500, keys_few=2_000, keys_many=10_000, keys_events=5_000,
    keystore_rows=30_000, keystore_pg_rows=10_000, sealed_records=20_000,
    latency_rate=1_000, latency_s=4, latency_partitions=(4, 16),
    growth_rounds=2, growth_events=4_000, growth_subjects=(100, 1_000, 5_000),
)  # fmt: skip


class Measured(Protocol):
    """Kinds that are measured together, once a round."""

    def round(self, number: int) -> None:
        """Measure each kind once."""
        ...


class Bench:
    """Where kinds are measured; a kind that failed is told in `missing` and not measured again."""

    def __init__(self, folder: Path, size: Size, *, bootstrap: str) -> None:
        """Take an empty folder and a broker."""
        self.folder = folder
        self.size = size
        self.bootstrap = bootstrap
        self._cluster = ClusterSettings(bootstrap=bootstrap)
        self.prefix = f"bench{os.getpid()}.{time.time_ns():x}."
        self.figures: dict[str, list[Figure]] = {}
        self.missing: dict[str, str] = {}

    def fresh(self, name: str) -> Path:
        """Return a new empty folder."""
        folder = self.folder / name
        folder.mkdir()
        return folder

    def measure(self, name: str, run: Callable[[], Figure]) -> Figure | None:
        """Note the figure of one run; a rival that fails is noted as missing.

        Raises:
            ChildFailed: one of ours failed.
        """
        if name in self.missing:
            return None
        try:
            figure = run()
        except ChildFailed as error:
            if name not in RIVALS:
                raise
            self.missing[name] = str(error)
            self.figures.pop(name, None)
            print(f"{name}: NOT RUN ({error})", file=sys.stderr, flush=True)
            return None
        self.figures.setdefault(name, []).append(figure)
        more = "".join(f" {key} {value:,.1f}" for key, value in figure.more.items())
        print(f"{name}: {figure.rate:,.0f}/CPU-s.{more} {figure.note}", file=sys.stderr, flush=True)
        return figure

    def checked(
        self, figure: Figure, *, topic: str, digest: str, partitions: int = 1, written_by: str = "engine"
    ) -> Figure:
        """Return a figure with whether the view in a topic is the expected one."""
        found = do(
            Verify(bootstrap=self.bootstrap, topic=topic, partitions=partitions, written_by=written_by), str
        )
        same = found == digest
        note = f"The view is {'equal to' if same else 'DIFFERENT from'} the expected one."
        return structs.replace(
            figure, is_exact=figure.is_exact and same, note=f"{figure.note} {note}".strip()
        )

    def create(self, topics: Sequence[Topic], *, prefix: str, partitions: int = 1) -> None:
        """Create topics under a prefix."""
        asyncio.run(kafka.create(self._cluster, topics, prefix=prefix, partitions=partitions))

    def drop(self, prefix: str) -> None:
        """Delete the topics under a prefix."""
        asyncio.run(kafka.drop(self._cluster, prefix=prefix))
