"""The event loop of what runs for long: libuv's, which costs a worker less than asyncio's own."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

import uvloop

__all__ = ["run"]

T = TypeVar("T")


def run(main: Coroutine[object, object, T]) -> T:
    """Run to the end of a coroutine and return what it returns, as `asyncio.run` does; see decision 0021."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
