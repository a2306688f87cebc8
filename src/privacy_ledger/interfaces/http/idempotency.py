"""Requests that are sent again under one `Idempotency-Key` get the answer of the first.

As in the draft of the HTTP API working group, "The Idempotency-Key HTTP Header Field". It is a comfort:
events are told from their copies by source and id for as long as they are kept, and this memory only lasts
an hour and as long as the process. Keys and bodies are kept as hashes.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct

from privacy_ledger.interfaces.http.problems import Kind, Problem

__all__ = ["ANSWERS_MAX", "KEY_CHARS_MAX", "Answers"]

KEY_CHARS_MAX: Final = 255
ANSWERS_MAX: Final = 10_000
ANSWER_BYTES_MAX: Final = 1 << 25
AGE_S: Final = 3600.0


class _Entry(Struct, eq=False):
    fingerprint: bytes
    answer: asyncio.Future[bytes]
    since: float
    size: int = 0


class Answers:
    """What was answered under which key, bounded in number, bytes and age; the oldest go first."""

    def __init__(
        self,
        *,
        answers_max: int = ANSWERS_MAX,
        bytes_max: int = ANSWER_BYTES_MAX,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the bounds."""
        self._answers_max = answers_max
        self._bytes_max = bytes_max
        self._monotonic = monotonic
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._bytes = 0

    async def once(
        self, source: str, key: str | None, fingerprint: bytes, work: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        """Return what `work` answers, or what it answered before under the same key of the same source.

        Who asks while the first is on its way waits for it. An error is nobody's answer: it is forgotten.

        Raises:
            Problem: the key came with another request, or is none (400).
        """
        if key is None:
            return await work()
        if not 0 < len(key) <= KEY_CHARS_MAX or not key.isascii() or not key.isprintable():
            raise Problem(Kind.HEADER_INVALID)
        slot = hashlib.sha256(f"{source} {key}".encode()).digest()
        entry = self._entries.get(slot)
        if entry is not None and entry.since >= self._monotonic() - AGE_S:
            if entry.fingerprint != fingerprint:
                raise Problem(Kind.KEY_REUSED)
            return await asyncio.shield(entry.answer)
        self._forget(slot)
        self._make_room()
        entry = _Entry(fingerprint, asyncio.get_running_loop().create_future(), self._monotonic())
        self._entries[slot] = entry
        try:
            answer = await work()
        except BaseException as error:
            if self._entries.get(slot) is entry:
                self._forget(slot)
            if isinstance(error, Exception):
                entry.answer.set_exception(error)
                entry.answer.exception()  # nobody may be waiting for it
            else:
                entry.answer.cancel()
            raise
        entry.answer.set_result(answer)
        if self._entries.get(slot) is entry:
            entry.size = len(answer)
            self._bytes += entry.size
        return answer

    def _make_room(self) -> None:
        """Forget what is too much for one more, from the oldest on."""
        while self._entries and (len(self._entries) >= self._answers_max or self._bytes > self._bytes_max):
            self._forget(next(iter(self._entries)))

    def _forget(self, slot: bytes) -> None:
        entry = self._entries.pop(slot, None)
        if entry is not None:
            self._bytes -= entry.size
