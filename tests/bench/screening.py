"""What the screen costs an event, beside decoding it."""

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from privacy_ledger.adapters.formats.screen import screen
from privacy_ledger.testing.generator import generate
from tests.bench.bars import Kind
from tests.bench.measure import Figure, Meter
from tests.bench.processes import do
from tests.bench.run import Bench
from tests.bench.tasks import Screen

__all__ = ["Screening", "measure"]

SEED: Final = 1
LEARNERS: Final = 300
COURSES: Final = 5
DAYS: Final = 5


class Screening:
    """Decodes made-up lines and screens what they say, in one process."""

    def __init__(self, bench: Bench) -> None:
        """Prepare nothing: the lines are made where they are measured."""
        self._bench = bench

    def round(self, number: int) -> None:
        """Measure once."""
        del number
        task = Screen(lines=self._bench.size.screen_lines)
        self._bench.measure(Kind.SCREEN, lambda: do(task, Figure))


def measure(task: Screen) -> Figure:
    """Screen decoded lines; none of them holds a card number or a secret, and none may be refused."""
    end = datetime(2026, 3, 1, tzinfo=UTC)
    lines = list(
        generate(
            seed=SEED, learners=LEARNERS, courses=COURSES, events=task.lines,
            start=end - timedelta(days=DAYS), end=end,
        )
    )  # fmt: skip
    decode = msgspec.json.Decoder().decode
    meter = Meter()
    for line in lines:
        decode(line)
    decoding = meter.figure(len(lines))
    events = [decode(line) for line in lines]
    meter = Meter()
    found = [screen(event) for event in events]
    figure = meter.figure(len(lines), line_bytes=sum(map(len, lines)) / len(lines))
    more = {**figure.more, "screen_us": 1e6 / figure.rate, "decodings": decoding.rate / figure.rate}
    return msgspec.structs.replace(figure, more=more, is_exact=found == [None] * len(lines))
