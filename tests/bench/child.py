"""One measured process: `python -m tests.bench.child TASK JSON` prints what came of it as JSON.

A task that is told more while it runs hears lines on its input and says lines on its output.
"""

import asyncio
import importlib
import inspect
import os
import sys
from typing import TypeVar

import msgspec
from msgspec import Struct

from tests.bench import tasks

__all__ = ["Talk"]

T = TypeVar("T")


class Talk:
    """Lines of JSON to and from the parent; whatever else is printed goes to the error output."""

    def __init__(self) -> None:
        """Keep the output for results only."""
        self._out = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._heard: asyncio.StreamReader | None = None

    def say(self, message: object) -> None:
        """Say one thing."""
        self._out.write(msgspec.json.encode(message) + b"\n")
        self._out.flush()

    async def hear(self, kind: type[T]) -> T | None:
        """Return the next thing said, or None when nothing more comes."""
        if self._heard is None:
            self._heard = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(self._heard)
            await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
        line = await self._heard.readline()
        return msgspec.json.decode(line, type=kind) if line else None

    def hear_waiting(self, kind: type[T]) -> T | None:
        """Return the next thing said, and do nothing else until then; never beside `hear`."""
        line = sys.stdin.buffer.readline()
        return msgspec.json.decode(line, type=kind) if line else None


def main(name: str, document: str) -> None:
    """Do one task and say its result."""
    kind: type[tasks.Task] = getattr(tasks, name)
    run_main = asyncio.run
    if not kind.runs.startswith("rivals."):
        # As a worker does, and the baseline with it. A rival loads nothing of the project.
        run_main = importlib.import_module("privacy_ledger.adapters.loop").run
        importlib.import_module("privacy_ledger.logging").configure()
    task: Struct = msgspec.json.decode(document, type=kind)
    module, function = kind.runs.split(":")
    run = getattr(importlib.import_module(f"tests.bench.{module}"), function)
    talk = Talk()
    arguments = (task, talk) if len(inspect.signature(run).parameters) > 1 else (task,)
    result = run(*arguments)
    talk.say(run_main(result) if inspect.iscoroutine(result) else result)


if __name__ == "__main__":
    main(*sys.argv[1:])
