"""The producer's example of the README is what a producer can run."""

import inspect
from typing import Any

from privacy_ledger.domain.events import CourseEnrolled
from privacy_ledger.sdk import Flushed
from privacy_ledger.testing.pytest_plugin import LedgerEvents
from tests.docs.documents import blocks_of
from tests.sdk.service import KEY, Service


def example() -> Any:  # noqa: ANN401 - what the document defines
    """Return the function of the one block for producers."""
    (block,) = [one for one in blocks_of("README.md") if one.info == ("python", "producer")]
    found: dict[str, Any] = {}
    exec(compile(block.body, str(block), "exec"), found)  # noqa: S102 - the document's own code
    assert inspect.iscoroutinefunction(found["main"])
    return found["main"]


async def test_the_example_sends_its_event(service: Service) -> None:
    """To a service on a real port, with the key."""
    flushed = await example()(f"http://127.0.0.1:{service.port}", KEY)

    assert flushed == Flushed(sent=1)
    assert service.requests[0].events[0]["subject"] == "openedx:user_id:42"


async def test_the_example_is_tested_as_the_document_says(ledger_events: LedgerEvents) -> None:
    """By the fixture."""
    await example()("https://ledger.example.com", KEY)

    ledger_events.assert_emitted(CourseEnrolled, subject="openedx:user_id:42")
