"""The bars, declared once, and whether what was measured meets them. Names of kinds are here too."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from tests.bench.measure import Figure, Spread, spread

__all__ = ["BARS", "RIVALS", "Bar", "Kind", "Result", "judge"]


class Kind:
    """What is measured, by the name that the report gives it."""

    NOOP: Final = "noop, plain"
    NOOP_RDKAFKA: Final = "noop with librdkafka"
    CORE: Final = "core"
    CORE_EXACT: Final = "core with de-duplication"
    CORE_IDEMPOTENT: Final = "core, idempotent only"
    FAUST: Final = "Faust table agent"
    FAUST_BARE: Final = "Faust table agent, no output"
    QUIX: Final = "quixstreams exactly-once"
    QUIX_BARE: Final = "quixstreams exactly-once, no output"
    BYTEWAX: Final = "bytewax"
    NOOP_SEALED: Final = "noop, sealed"
    TOPOLOGY: Final = "sealed topology"
    INGEST: Final = "ingest, embedded"
    SCREEN: Final = "screen, decoded events"
    KEYS_50K: Final = "worker, 50,000 keys"
    KEYS_500K: Final = "worker, 500,000 keys"
    KEY_ROLL: Final = "key roll, 5,000,000 keys in SQLite"
    KEY_ROLL_PG: Final = "key roll, 500,000 keys in PostgreSQL"
    SEAL: Final = "seal, 500-byte records, keys in memory"
    RESTORE: Final = "restore, 500,000 keys"
    RESTORE_TAGS: Final = "restore, keys and tag rows"
    RESTORE_SEALED: Final = "restore, sealed core pass"
    RESTORE_LIVE: Final = "restore, per live ledger record"

    @staticmethod
    def latency(partitions: int) -> str:
        """Return the name of the latency at so many partitions."""
        return f"append to view, {partitions} partitions"


RIVALS: Final = frozenset(
    {Kind.NOOP_RDKAFKA, Kind.FAUST, Kind.FAUST_BARE, Kind.QUIX, Kind.QUIX_BARE, Kind.BYTEWAX}
)
"""Not ours: one that is not exact, or does not run, is reported and fails nothing."""


class Bar(Struct, frozen=True, kw_only=True):
    """A bar on a kind's rate, or on the ratio of its rate to that of `over`, or on another number.

    `of` is a member of the figure or of its `more`. Neither bound: reported only. The median of the
    rounds is judged, and of memory the highest.
    """

    name: str
    kind: str
    over: str | None = None
    of: str = "rate"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def bound(self) -> str:
        """The bound as text."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}" if self.at_most is not None else ""


BARS: Final = (
    Bar(name="core ÷ noop", kind=Kind.CORE, over=Kind.NOOP, at_least=0.30),
    Bar(name="core with de-duplication ÷ noop", kind=Kind.CORE_EXACT, over=Kind.NOOP, at_least=0.20),
    Bar(name="transactional ÷ idempotent only", kind=Kind.CORE, over=Kind.CORE_IDEMPOTENT, at_least=0.9),
    Bar(
        name="core with de-duplication ÷ quixstreams exactly-once",
        kind=Kind.CORE_EXACT, over=Kind.QUIX, at_least=2.5,
    ),
    Bar(
        name="core with de-duplication ÷ Faust table agent",
        kind=Kind.CORE_EXACT, over=Kind.FAUST, at_least=20,
    ),
    Bar(name="core with de-duplication ÷ bytewax", kind=Kind.CORE_EXACT, over=Kind.BYTEWAX),
    Bar(
        name="core with de-duplication ÷ quixstreams without an output",
        kind=Kind.CORE_EXACT,
        over=Kind.QUIX_BARE,
    ),
    Bar(
        name="core with de-duplication ÷ Faust without an output",
        kind=Kind.CORE_EXACT,
        over=Kind.FAUST_BARE,
    ),
    Bar(name="reading with librdkafka ÷ reading with aiokafka", kind=Kind.NOOP_RDKAFKA, over=Kind.NOOP),
    Bar(name="sealed topology ÷ noop", kind=Kind.TOPOLOGY, over=Kind.NOOP_SEALED, at_least=0.06),
    Bar(name="sealed topology ÷ noop over plain events", kind=Kind.TOPOLOGY, over=Kind.NOOP),
    Bar(name="embedded ingest, sealed records per CPU-second", kind=Kind.INGEST, at_least=8000),
    Bar(name="screening of an event, µs of CPU", kind=Kind.SCREEN, of="screen_us", at_most=30),
    Bar(name="screening ÷ decoding of an event, CPU", kind=Kind.SCREEN, of="decodings"),
    Bar(name="peak memory at 50,000 keys, MB", kind=Kind.KEYS_50K, of="peak_mb", at_most=200),
    Bar(name="peak memory at 500,000 keys, MB", kind=Kind.KEYS_500K, of="peak_mb", at_most=300),
    Bar(name="peak memory of the sealed topology, MB", kind=Kind.TOPOLOGY, of="peak_mb"),
    Bar(name="restore of 500,000 keys, records per CPU-second", kind=Kind.RESTORE, at_least=300_000),
    Bar(name="restore with tag rows, records per CPU-second", kind=Kind.RESTORE_TAGS),
    Bar(name="restore sealed, records per CPU-second", kind=Kind.RESTORE_SEALED),
    Bar(name="restore sealed, live ledger records per CPU-second", kind=Kind.RESTORE_LIVE),
    Bar(
        name="keys wrapped anew per second", kind=Kind.KEY_ROLL, of="rewrapped_per_s", at_least=100_000
    ),
    Bar(name="keys roll --final-now, s", kind=Kind.KEY_ROLL, of="roll_s", at_most=60),
    Bar(name="keys wrapped anew per second in PostgreSQL", kind=Kind.KEY_ROLL_PG, of="rewrapped_per_s"),
    Bar(name="keys roll --final-now in PostgreSQL, s", kind=Kind.KEY_ROLL_PG, of="roll_s"),
    Bar(name="sealing of a 500-byte record, µs of CPU", kind=Kind.SEAL, of="seal_us", at_most=10),
    Bar(name="append to view at 4 partitions, p50 ms", kind=Kind.latency(4), of="p50_ms", at_most=90),
    Bar(name="append to view at 4 partitions, p99 ms", kind=Kind.latency(4), of="p99_ms", at_most=200),
    Bar(name="append to view at 16 partitions, p50 ms", kind=Kind.latency(16), of="p50_ms"),
    Bar(name="append to view at 16 partitions, p99 ms", kind=Kind.latency(16), of="p99_ms"),
    Bar(name="append to view at 64 partitions, p50 ms", kind=Kind.latency(64), of="p50_ms"),
    Bar(name="append to view at 64 partitions, p99 ms", kind=Kind.latency(64), of="p99_ms"),
)  # fmt: skip


class Result(Struct, frozen=True, kw_only=True):
    """A bar and what was measured for it; None: no bound to meet."""

    bar: Bar
    spread: Spread
    is_met: bool | None


def judge(bar: Bar, figures: Mapping[str, Sequence[Figure]]) -> Result | None:
    """Return what was measured for a bar, or None where one of its kinds was not.

    The ratio is taken within each round, not of the medians: a round is what was measured together.
    """
    mine = figures.get(bar.kind, ())
    bases = (None,) * len(mine) if bar.over is None else figures.get(bar.over, ())
    if not mine or len(bases) != len(mine):
        return None
    found = spread([_value(bar, figure, base) for figure, base in zip(mine, bases, strict=True)])
    is_met = None
    if bar.at_least is not None:
        is_met = found.median >= bar.at_least
    elif bar.at_most is not None:
        is_met = (found.high if bar.of == "peak_mb" else found.median) <= bar.at_most
    return Result(bar=bar, spread=found, is_met=is_met)


def _value(bar: Bar, figure: Figure, base: Figure | None) -> float:
    if bar.of == "peak_mb":
        return figure.peak_mb
    if bar.of != "rate":
        return figure.more[bar.of]
    return figure.rate if base is None else figure.rate / base.rate
