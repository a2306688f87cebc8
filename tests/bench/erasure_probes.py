"""Processes of `poe bench-erasures` that look on: keys that were open, and projections that answered.

Each says between which two looks something changed: what is reported is the later one, and the
time between them is the error.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from privacy_ledger.bootstrap import Runtime, open_runtime
from privacy_ledger.domain.errors import KeyUnavailable, LogUnavailable
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import DataKey, KeyVault, Shredded
from tests.bench import product
from tests.bench.child import Talk
from tests.bench.erasing import Held, people_in
from tests.bench.tasks import ErasureKeys, ErasureViews, Order, Seen

__all__ = ["keys", "views"]

KEYS_POLL_S: Final = 0.02
VIEWS_POLL_S: Final = 0.1
GRACE_S: Final = 90.0
"""So long it is looked for what was not seen when the last order was carried out."""


async def keys(task: ErasureKeys, talk: Talk) -> list[Seen]:
    """Open every key of everybody, and say when each person's were all destroyed for this process.

    Raises:
        RuntimeError: a key does not open before anybody is erased.
    """
    people = people_in(task.file)
    async with open_runtime(product.settings(task), prepare=False) as runtime:
        vault = runtime.vault
        if not all(_are_open(vault, one) for one in people):
            raise RuntimeError("a key does not open before anybody is erased")
        talk.say(0)

        async def is_gone(person: int) -> bool:
            try:
                opened = vault.open_keys(people[person].kids)
            except KeyUnavailable:  # neither open nor destroyed: nothing was seen
                return False
            return all(isinstance(opened.get(kid), Shredded) for kid in people[person].kids)

        return await _watch(talk, is_gone, poll_s=KEYS_POLL_S)


def _are_open(vault: KeyVault, one: Held) -> bool:
    return all(isinstance(vault.open_keys((kid,)).get(kid), DataKey) for kid in one.kids)


async def views(task: ErasureViews, talk: Talk) -> list[Seen]:
    """Look at everybody's projections and index, and say when nothing of a person was answered.

    Raises:
        RuntimeError: somebody is in no projection before anybody is erased.
    """
    people = people_in(task.file)
    async with open_runtime(product.settings(task), prepare=False) as runtime:
        await runtime.passes.settle()
        if not all([await _is_held(runtime, one) for one in people]):
            raise RuntimeError("somebody is in no projection before anybody is erased")
        talk.say(0)

        async def is_gone(person: int) -> bool:
            try:
                return not await _answers(runtime, people[person])
            except (KeyUnavailable, LogUnavailable):
                return False

        return await _watch(talk, is_gone, poll_s=VIEWS_POLL_S)


async def _is_held(runtime: Runtime, one: Held) -> bool:
    """Return whether projections and index both answer."""
    refs = [SubjectRef(ref) for ref in one.refs]
    return all([await runtime.views.answering(ref) and await runtime.views.live(ref) for ref in refs])


async def _answers(runtime: Runtime, one: Held) -> bool:
    """Return whether projections or index answer."""
    refs = [SubjectRef(ref) for ref in one.refs]
    return any([await runtime.views.answering(ref) or await runtime.views.live(ref) for ref in refs])


async def _watch(talk: Talk, is_gone: Callable[[int], Awaitable[bool]], *, poll_s: float) -> list[Seen]:
    """Look at everybody who was ordered, again and again; what was not seen in time is left out.

    A person is looked at before the order comes to an eraser, for this process is told first.
    """
    seen: list[Seen] = []
    looked: dict[int, int] = {}
    ended = asyncio.Event()

    async def listen() -> None:
        while (order := await talk.hear(Order)) is not None:
            looked[order.person] = time.monotonic_ns()
        ended.set()

    listening = asyncio.create_task(listen())
    until: float | None = None
    while looked or not ended.is_set():
        if ended.is_set():
            until = until or time.monotonic() + GRACE_S
            if time.monotonic() > until:
                break
        for person, before in list(looked.items()):
            begun = time.monotonic_ns()
            if await is_gone(person):
                seen.append(Seen(person=person, before_ns=before, at_ns=time.monotonic_ns()))
                del looked[person]
            else:
                looked[person] = begun
        await asyncio.sleep(poll_s)
    await listening
    return seen
