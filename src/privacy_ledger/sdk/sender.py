"""The one buffer and the one thread behind both facades: what is emitted waits here, and is sent from here.

A process that forks gets an empty buffer in its child: what the parent holds is sent by the parent. The
thread begins with the first event of a process, so that a server may open its ledger before it forks.
"""

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from msgspec import Struct

from privacy_ledger.sdk.errors import BufferFull, LedgerClosed
from privacy_ledger.sdk.events import Encoded
from privacy_ledger.sdk.terms import RESERVE, Flushed, Limits, Refused, SpoolLike, Ticket
from privacy_ledger.sdk.transport import BatchRefused, ItemResult, Transport, TryAgain, pause_s

__all__ = ["Sender"]

END_S: Final = 1.0
"""So long a thread is waited for whose connection was ended."""
LAST_S: Final = 0.05
"""Nearer to its deadline a closing ledger begins no other attempt."""
log_line = logging.getLogger("privacy_ledger.sdk")
_Said = TypeVar("_Said")


class _Entry(Struct, eq=False):
    """An event that waits: itself, or where it lies on disk."""

    event: Encoded | None
    ticket: Ticket | None
    size: int


class Sender:
    """The buffer of one process, and the thread that empties it."""

    def __init__(
        self,
        transport: Transport,
        *,
        source: str,
        limits: Limits,
        spool: SpoolLike | None = None,
        on_refused: Callable[[Refused], None] | None = None,
        on_gap: Callable[[int], None] | None = None,
    ) -> None:
        """Take the collaborators; the callbacks are called by the sender's thread."""
        self._transport = transport
        self._source = source
        self._limits = limits
        self._spool = spool
        self._on_refused = on_refused
        self._on_gap = on_gap
        self._is_open = False
        self._begin()
        _SENDERS.add(self)

    def _begin(self) -> None:
        """Have nothing: at first, and in the child of a fork."""
        self._cond = threading.Condition()
        self._queue: deque[_Entry] = deque()
        self._in_flight: dict[int, _Entry] = {}
        self._waiters: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self._bytes = 0
        self._first_at = 0.0
        self._hurried = 0
        self._deadline: float | None = None
        self._is_stopped = False
        self._closed: Flushed | None = None
        self._sent = self._refused = self._dropped = self._gap = self._unreadable = 0

    # Whoever emits ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Take events from now on, and send what ended processes spooled; opening twice is opening once."""
        with self._cond:
            if self._is_open:
                return
            self._begin_again()
            left = () if self._spool is None else self._spool.open(self._source)
            self._queue.extend(_Entry(None, ticket, ticket.length) for ticket in left)
            self._bytes += sum(ticket.length for ticket in left)
            self._is_open = True
            if self._queue:
                self._wake()

    def _begin_again(self) -> None:
        """Count from zero: what was before was said when it was closed."""
        self._deadline, self._is_stopped, self._closed, self._bytes = None, False, None, 0
        self._sent = self._refused = self._dropped = self._gap = self._unreadable = 0

    def offer(self, event: Encoded, tell: Callable[[], None] | None = None) -> bool:
        """Return whether the event was taken; False: there is no room now, and it must not be dropped.

        With a spool it is on disk when this returns True. `tell` is called once, by another thread, when it
        is worth while to offer the event again.

        Raises:
            LedgerClosed: nothing is taken.
        """
        with self._cond:
            if not self._is_open:
                raise LedgerClosed
            entry = self._kept(event)
            if entry is None:
                if event.is_droppable:
                    self._dropped += 1
                    self._gap += 1
                elif tell is not None:
                    self._waiters.append(tell)
                return event.is_droppable
            if not self._queue:
                self._first_at = time.monotonic()
            self._queue.append(entry)
            self._bytes += entry.size
            self._wake()
            return True

    def wait_offer(self, event: Encoded) -> None:
        """Take an event, or wait for room; blocks the calling thread.

        Raises:
            BufferFull: there was none in time.
            LedgerClosed: nothing is taken.
        """
        until = time.monotonic() + self.block_s
        while True:
            room = threading.Event()
            left = until - time.monotonic()
            if self.offer(event, room.set if left > 0 else None):
                return
            if left <= 0 or not room.wait(left):
                self.leave(room.set)
                raise BufferFull(event.type)

    def leave(self, tell: Callable[[], None]) -> None:
        """Wait no longer: who gave up is not told, and takes no memory."""
        with self._cond, suppress(ValueError):
            self._waiters.remove(tell)

    @property
    def block_s(self) -> float:
        """How long an event may wait for room."""
        return self._limits.block_s if self._limits.when_full == "block" else 0.0

    @property
    def figures(self) -> Flushed:
        """What became of all events so far."""
        with self._cond:
            return self._counted()

    def flush(self, timeout_s: float) -> Flushed:
        """Send what waits, at most so long; blocks. Returns what became of all events."""
        with self._cond:
            self._hurried += 1
            self._cond.notify_all()
            try:
                self._cond.wait_for(self._is_empty, timeout_s)
                return self._counted()
            finally:
                self._hurried -= 1

    def close(self, timeout_s: float) -> Flushed:
        """Take nothing more, and send what waits, at most so long and `END_S`; twice is once."""
        with self._cond:
            if self._closed is not None:
                return self._closed
            self._is_open = False
            self._deadline = time.monotonic() + timeout_s
            self._cond.notify_all()
            self._tell_waiters()
            if self._thread is not None:
                self._cond.wait_for(lambda: self._is_empty() or self._is_stopped, timeout_s)
            self._is_stopped = True
            self._cond.notify_all()
            thread = self._thread
            is_busy = bool(self._in_flight)
        if thread is not None and thread.is_alive():
            if is_busy:
                self._transport.abort()
            thread.join(END_S)
        with self._cond:
            gap, self._gap = self._gap, 0
            self._thread = None
            found = self._closed = self._counted()
            self._queue.clear()
            self._in_flight.clear()
            if self._spool is not None:
                self._spool.close()
            if thread is None or not thread.is_alive():
                self._transport.close()
        self._told_gap(gap)
        if found.pending:
            log_line.warning("closed with %d events unsent", found.pending)
        return found

    def _kept(self, event: Encoded) -> _Entry | None:
        """Return an event as it waits, or None where there is no room for it."""
        if not self._has_room(is_droppable=event.is_droppable):
            return None
        if self._spool is None:
            return _Entry(event, None, len(event.line))
        ticket = self._spool.put(event)
        return None if ticket is None else _Entry(None, ticket, ticket.length)

    def _has_room(self, *, is_droppable: bool) -> bool:
        limits, waiting = self._limits, len(self._queue) + len(self._in_flight)
        is_spooled = self._spool is not None  # which has a bound of its own for the bytes on disk
        events = limits.spooled_events if is_spooled else limits.buffer_events
        size = limits.buffer_bytes
        if is_droppable:
            events, size = events - events // RESERVE, size - size // RESERVE
        return waiting < events and (is_spooled or self._bytes < size)

    def _is_empty(self) -> bool:
        return not self._queue and not self._in_flight

    def _counted(self) -> Flushed:
        waiting = len(self._queue) + len(self._in_flight)
        is_spooled = self._spool is not None
        return Flushed(
            sent=self._sent, pending=0 if is_spooled else waiting,
            spooled=waiting + self._unreadable if is_spooled else 0,
            refused=self._refused, dropped=self._dropped,
        )  # fmt: skip

    def _wake(self) -> None:
        """Have a thread in this process, and tell it."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="privacy-ledger-sdk", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None  # the interpreter is ending: what waits is pending, and said to be
        self._cond.notify_all()

    def _tell_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for tell in waiters:
            tell()

    # The thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            entries = self._next()
            if not entries:
                return
            if not self._deliver(entries):
                return

    def _next(self) -> list[_Entry]:
        """Return the next batch once it is due; empty: the ledger is closed and nothing waits."""
        limits = self._limits
        with self._cond:
            while True:
                if self._is_stopped or threading.current_thread() is not self._thread:
                    return []
                is_due = len(self._queue) >= limits.batch_events or self._bytes >= limits.batch_bytes
                if self._queue and (is_due or self._hurried or not self._is_open):
                    break
                if not self._queue:
                    if not self._is_open:
                        return []
                    self._cond.wait()
                    continue
                left = self._first_at + limits.linger_s - time.monotonic()
                if left <= 0:
                    break
                self._cond.wait(left)
            taken: list[_Entry] = []
            size = 0
            while self._queue and len(taken) < limits.batch_events and size < limits.batch_bytes:
                entry = self._queue.popleft()
                size += entry.size
                taken.append(entry)
                self._in_flight[id(entry)] = entry
            return taken

    def _deliver(self, entries: Sequence[_Entry]) -> bool:
        """Send a batch until each event of it has an answer; False: there was no time left."""
        parts = [self._loaded(entries)]
        while parts:
            part = parts.pop()
            if not part:
                continue
            attempt_key, failures = os.urandom(16).hex(), 0
            while True:
                try:
                    answers = self._attempt(part, attempt_key)
                except TryAgain as error:
                    failures += 1
                    if failures & (failures - 1) == 0:  # the first, second, fourth ... tell enough
                        log_line.warning("not sent, attempt %d: %s", failures, error.code)
                    if not self._pause(failures, error.after_s):
                        return False
                    continue
                except BatchRefused as error:
                    if len(part) == 1:
                        self._settle(part, [ItemResult(is_taken=False, reason=error.code)])
                    else:
                        middle = len(part) // 2
                        parts += [part[middle:], part[:middle]]
                    break
                self._settle(part, answers)
                break
        return True

    def _attempt(self, part: "list[tuple[_Entry, Encoded]]", attempt_key: str) -> Sequence[ItemResult]:
        if self._is_stopped:
            raise TryAgain("closed")
        try:
            answers = self._transport.send([event for _, event in part], attempt_key=attempt_key)
        except (TryAgain, BatchRefused):
            raise
        except Exception as error:  # noqa: BLE001 - the outermost frame of the thread's work
            raise TryAgain(type(error).__name__) from None
        if len(answers) != len(part):
            raise TryAgain("answer-invalid")
        return answers

    def _loaded(self, entries: Sequence[_Entry]) -> "list[tuple[_Entry, Encoded]]":
        """Return entries with their events; what the spool's key does not open is left on disk."""
        found: list[tuple[_Entry, Encoded]] = []
        unreadable = 0
        for entry in entries:
            event = entry.event
            if event is None and self._spool is not None and entry.ticket is not None:
                event = self._spool.read(entry.ticket)
            if event is not None:
                found.append((entry, event))
                continue
            unreadable += 1
            with self._cond:
                self._in_flight.pop(id(entry), None)
                self._bytes -= entry.size
                self._unreadable += 1
                self._cond.notify_all()
        if unreadable:
            log_line.error("%d spooled events cannot be read; they stay on disk: check the key", unreadable)
        return found

    def _pause(self, failures: int, after_s: float | None) -> bool:
        """Wait before the next attempt; False: the ledger is closing, and there is no time for another."""
        until = time.monotonic() + pause_s(
            failures, after_s, first_s=self._limits.backoff_first_s, max_s=self._limits.backoff_max_s
        )
        with self._cond:
            while not self._is_stopped:
                now = time.monotonic()
                if self._deadline is not None and until > self._deadline:
                    left = self._deadline - now
                    if after_s is not None or left <= LAST_S:
                        self._is_stopped = True
                        self._cond.notify_all()
                        return False
                    until = now + left / 2
                if now >= until:
                    return True
                self._cond.wait(until - now)
            return False

    def _settle(self, part: "list[tuple[_Entry, Encoded]]", answers: Sequence[ItemResult]) -> None:
        """Count what each event came to, make room, and tell who asked to be told."""
        refused: list[Refused] = []
        with self._cond:
            for (entry, event), answer in zip(part, answers, strict=True):
                if self._in_flight.pop(id(entry), None) is None:
                    continue  # the ledger was closed meanwhile, and has said that this is not known
                self._bytes -= entry.size
                if self._spool is not None and entry.ticket is not None:
                    self._spool.done(entry.ticket)
                if answer.is_taken:
                    self._sent += 1
                else:
                    self._refused += 1
                    refused.append(Refused(id=event.id, type=event.type, reason=answer.reason or "refused"))
            gap, self._gap = self._gap, 0
            self._tell_waiters()
            if not refused:
                self._cond.notify_all()
        self._told_gap(gap)
        for one in refused:
            log_line.warning("refused: %s, %s", one.type, one.reason)
            _called(self._on_refused, one)
        if refused:
            with self._cond:
                self._cond.notify_all()

    def _told_gap(self, count: int) -> None:
        """Say how many usage events were dropped since it was last said."""
        if count:
            log_line.warning("%d usage events were dropped: the buffer had no room", count)
            _called(self._on_gap, count)

    def after_fork(self) -> None:
        """Be a producer of this process's own: what the parent holds, the parent sends."""
        self._transport.forget()
        if self._spool is not None:
            self._spool.forget()
        self._begin()


def _called(callback: Callable[[_Said], None] | None, said: _Said) -> None:
    """Call an application's function; that it fails is said by the name of its error only."""
    if callback is None:
        return
    try:
        callback(said)
    except Exception as error:  # noqa: BLE001 - the application's code ends here, and the thread goes on
        log_line.error("a callback failed: %s", type(error).__name__)  # noqa: TRY400 - a traceback has values


_SENDERS: Final["weakref.WeakSet[Sender]"] = weakref.WeakSet()


def _after_fork() -> None:
    for sender in list(_SENDERS):
        sender.after_fork()


os.register_at_fork(after_in_child=_after_fork)
