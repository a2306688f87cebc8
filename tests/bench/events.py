"""The made-up events that every engine folds, the state they fold into, and what it must be.

Pure, and light to import: a rival's process loads this and nothing else of the project.
"""

import hashlib
import itertools
import random
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

__all__ = [
    "EVENT_BYTES",
    "REF_BYTES",
    "Document",
    "PlainEvent",
    "PlainState",
    "Population",
    "Tally",
    "decode_event",
    "decode_state",
    "digest",
    "encode_state",
    "plain",
    "step",
]

T = TypeVar("T")
EVENT_BYTES: Final = 1000
REF_BYTES: Final = 16
RESENT: Final = 0.02
RESENT_AMONG: Final = 500
"""A re-send repeats one of so many newest events."""
SEED: Final = 7
_TYPES: Final = ("opened", "played", "paused", "sought", "answered", "posted", "graded", "closed")
_START: Final = datetime(2026, 3, 1, tzinfo=UTC)

Document = dict[str, object]


class PlainEvent(Struct, frozen=True, gc=False):
    """The five fields that are decoded; the other members of the document are skipped."""

    id: str
    type: str
    course: str
    at: datetime
    position_ms: int


class PlainState(Struct, frozen=True, array_like=True, gc=False):
    """The state of one subject, some 200 bytes."""

    events: int
    last_at: datetime
    last_offset: int
    last_course: str
    position_ms_max: int
    counts: dict[str, int]


decode_event: Final[Callable[[bytes], PlainEvent]] = msgspec.json.Decoder(PlainEvent).decode
encode_state: Final[Callable[[object], bytes]] = msgspec.msgpack.Encoder().encode
decode_state: Final[Callable[[bytes], PlainState]] = msgspec.msgpack.Decoder(PlainState).decode


def step(state: PlainState | None, event: PlainEvent, offset: int) -> PlainState:
    """Fold one event."""
    if state is None:
        return PlainState(1, event.at, offset, event.course, event.position_ms, {event.type: 1})
    counts, furthest = state.counts, state.position_ms_max
    return PlainState(
        state.events + 1, event.at, offset, event.course,
        max(event.position_ms, furthest),
        {**counts, event.type: counts.get(event.type, 0) + 1},
    )  # fmt: skip


class Population:
    """Made-up subjects, the n-th of weight 1/n, and what they do; the same each time.

    `events` goes on where an earlier call left off. Two in a hundred are re-sent.
    """

    def __init__(self, subjects: int) -> None:
        """Make the subjects' references."""
        self._rng = random.Random(SEED)
        self._weights = list(itertools.accumulate(1 / rank for rank in range(1, subjects + 1)))
        self._refs = [self._rng.randbytes(REF_BYTES) for _ in range(subjects)]
        self._recent: list[tuple[bytes, Document]] = []
        self._at = _START

    def opening(self) -> Iterator[tuple[bytes, Document]]:
        """Yield one short event for each subject, so that all of them have a state."""
        for ref in self._refs:
            yield ref, self._event()

    def events(self, count: int) -> Iterator[tuple[bytes, Document]]:
        """Yield (reference, document of 1 KB)."""
        rng = self._rng
        for _ in range(count):
            if self._recent and rng.random() < RESENT:
                yield rng.choice(self._recent)
                continue
            ref = self._refs[bisect(self._weights, rng.random() * self._weights[-1])]
            event = self._event()
            event["padding"] = rng.randbytes((EVENT_BYTES - len(msgspec.json.encode(event)) - 13) // 2).hex()
            self._recent.append((ref, event))
            if len(self._recent) > RESENT_AMONG:
                self._recent.pop(0)
            yield ref, event

    def _event(self) -> Document:
        rng = self._rng
        self._at += timedelta(milliseconds=250)
        return {
            "id": rng.randbytes(16).hex(),
            "type": rng.choice(_TYPES),
            "agent": "Mozilla/5.0 (X11; Linux x86_64; rv:129.0) Gecko/20100101 Firefox/129.0",
            "session": rng.randbytes(16).hex(),
            "course": f"course-v1:ExampleX+CS{101 + rng.randrange(40)}+T1",
            "context": {"module": {"name": "Unit", "usage_key": rng.randbytes(24).hex()}, "path": "/event"},
            "at": self._at.isoformat(),
            "position_ms": rng.randrange(3_600_000),
        }


class Tally:
    """A naive count of what each subject did, written apart from the step."""

    def __init__(self) -> None:
        """Start with nobody."""
        self._subjects: dict[bytes, tuple[list[int], list[object], dict[str, int]]] = {}

    def __len__(self) -> int:
        return len(self._subjects)

    def add(self, ref: bytes, event: Mapping[str, object], *, offset: int) -> None:
        """Count an event that lies at this offset."""
        numbers, last, kinds = self._subjects.setdefault(ref, ([0, 0], [], {}))
        numbers[0] += 1
        numbers[1] = max(numbers[1], int(str(event["position_ms"])))
        last[:] = (event["at"], offset, event["course"])
        kind = str(event["type"])
        kinds[kind] = kinds.get(kind, 0) + 1

    def digest(self) -> str:
        """Return the digest that a view of these subjects must have."""
        return digest(self._subjects, _counted)


def _counted(subject: tuple[list[int], list[object], dict[str, int]]) -> list[object]:
    numbers, last, kinds = subject
    return [numbers[0], *last, numbers[1], dict(sorted(kinds.items()))]


def plain(state: PlainState) -> list[object]:
    """Return a state as the tally writes it."""
    return [
        state.events, state.last_at.isoformat(), state.last_offset,
        state.last_course, state.position_ms_max, dict(sorted(state.counts.items())),
    ]  # fmt: skip


def digest(view: Mapping[bytes, T], show: Callable[[T], object]) -> str:
    """Return one digest of a whole view, each value as it is shown."""
    found = hashlib.sha256()
    for key in sorted(view):
        found.update(msgspec.json.encode((key.hex(), show(view[key]))))
    return found.hexdigest()
