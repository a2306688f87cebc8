"""Measured processes, seen from the parent: one that is waited for, and one that is told more."""

import queue
import subprocess
import sys
import threading
from typing import Final, Self, TypeVar

import msgspec
from msgspec import Struct

from tests.bench.tasks import Task

__all__ = ["Child", "ChildFailed", "do"]

T = TypeVar("T")
TIMEOUT_S: Final = 1800.0
END_TIMEOUT_S: Final = 60.0


class ChildFailed(Exception):
    """A measured process ended with an error, which it printed, or said nothing in time."""


def do(task: Task, kind: type[T]) -> T:
    """Run a task in a process of its own and return what it says.

    Raises:
        ChildFailed: it did not come to its end.
    """
    try:
        done = subprocess.run(_command(task), stdout=subprocess.PIPE, check=True, timeout=TIMEOUT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise ChildFailed(f"{type(task).__name__}: {_reason(error)}") from error
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=kind)


class Child:
    """A process that is told more while it runs; ended when the block is left."""

    def __init__(self, task: Task) -> None:
        """Start it."""
        self._name = type(task).__name__
        self._process = subprocess.Popen(_command(task), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def tell(self, message: Struct) -> None:
        """Say one thing to it.

        Raises:
            ChildFailed: it has ended.
        """
        pipe = self._process.stdin
        try:
            if pipe is None:
                raise ChildFailed(f"{self._name}: it takes no input")
            pipe.write(msgspec.json.encode(message) + b"\n")
            pipe.flush()
        except OSError as error:
            raise ChildFailed(f"{self._name}: it has ended") from error

    def hear(self, kind: type[T], *, timeout_s: float = TIMEOUT_S) -> T:
        """Return the next thing that it says.

        Raises:
            ChildFailed: it ended first, or said nothing in time.
        """
        line = self._next(timeout_s)
        if not line:
            raise ChildFailed(f"{self._name}: it ended with code {self._process.wait()}")
        return msgspec.json.decode(line, type=kind)

    def heard(self, kind: type[T]) -> list[T]:
        """Return what it has said since, without waiting."""
        found = []
        while not self._lines.empty():
            found.append(self.hear(kind))
        return found

    def close(self) -> None:
        """Say that nothing more comes, and do not wait; idempotent."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def end(self, kind: type[T]) -> T:
        """Say that nothing more comes, and return its last word.

        Raises:
            ChildFailed: it did not come to its end.
        """
        self.close()
        last = b""
        while line := self._next(TIMEOUT_S):
            last = line
        if self._process.wait(END_TIMEOUT_S) or not last:
            raise ChildFailed(f"{self._name}: it ended with code {self._process.returncode}")
        return msgspec.json.decode(last, type=kind)

    def _next(self, timeout_s: float) -> bytes:
        """Return the next line, or nothing at the end of its output."""
        try:
            return self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise ChildFailed(f"{self._name}: nothing said in {timeout_s:.0f} s") from None

    def _read(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(b"")


def _command(task: Task) -> list[str]:
    name = type(task).__name__
    return [sys.executable, "-m", "tests.bench.child", name, msgspec.json.encode(task).decode()]


def _reason(error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"it ended with code {error.returncode}; its last lines say why"
    return f"not done in {error.timeout:.0f} s"
