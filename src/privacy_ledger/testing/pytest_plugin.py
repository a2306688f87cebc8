"""For tests of producers: the fixture `ledger_events` keeps what is emitted in memory, and sends nothing."""

from collections.abc import Iterator

import msgspec
import pytest

from privacy_ledger.domain.events import Fact, event_type
from privacy_ledger.sdk.events import Event
from privacy_ledger.sdk.recording import recorded

__all__ = ["LedgerEvents", "ledger_events"]


class LedgerEvents:
    """What was emitted during a test, in order; events are checked as they would be otherwise."""

    def __init__(self, events: list[Event]) -> None:
        """Take the list that grows."""
        self._events = events

    @property
    def all(self) -> tuple[Event, ...]:
        """Every event so far."""
        return tuple(self._events)

    def of(self, type: type[Fact] | str) -> tuple[Event, ...]:  # noqa: A002 - as `assert_emitted` says it
        """Return the events of a type, given as the fact's class or as its tag, such as `video.paused.v1`."""
        wanted = type if isinstance(type, str) else event_type(type)
        return tuple(event for event in self._events if event_type(event.fact) == wanted)

    def assert_emitted(self, type: type[Fact] | str, **members: object) -> Event:  # noqa: A002 - a word of the field
        """Return the first event of a type whose members are these; `subject` is one of its subjects.

        Raises:
            AssertionError: there is none. It names the types that were emitted and the members that differ,
                and no value.
        """
        __tracebackhide__ = True
        found = self.of(type)
        closest: list[str] | None = None
        for event in found:
            differs = sorted(name for name, value in members.items() if not _has(event, name, value))
            if not differs:
                return event
            if closest is None or len(differs) < len(closest):
                closest = differs
        name = type if isinstance(type, str) else event_type(type)
        if closest is None:
            emitted = ", ".join(sorted({event_type(event.fact) for event in self._events})) or "nothing"
            raise AssertionError(f"{name} was not emitted, but {emitted}.")
        raise AssertionError(
            f"{name} was emitted {len(found)} times; the closest differs in {', '.join(closest)}."
        )

    def assert_nothing_emitted(self) -> None:
        """Return if nothing was emitted.

        Raises:
            AssertionError: something was; it names the types.
        """
        __tracebackhide__ = True
        if self._events:
            emitted = ", ".join(sorted({event_type(event.fact) for event in self._events}))
            raise AssertionError(f"Nothing was to be emitted, but {emitted} was.")


def _has(event: Event, name: str, value: object) -> bool:
    if name == "subject":
        return value in event.subjects
    if name not in event.fact.__struct_fields__:
        return False
    found: object = getattr(event.fact, name)
    return found == value or msgspec.to_builtins(found) == value


@pytest.fixture
def ledger_events() -> Iterator[LedgerEvents]:
    """Yield what any `Ledger` or `SyncLedger` of this process emits during the test."""
    with recorded() as events:
        yield LedgerEvents(events)
