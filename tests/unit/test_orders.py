"""Restriction, erasure, rectification and export of one person, in every order and all at once."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Final

import pytest

from privacy_ledger import bootstrap
from privacy_ledger.app._evidence import PersonRows, remains_of
from privacy_ledger.app.export import MANIFEST
from privacy_ledger.app.rectification import Correction
from privacy_ledger.domain.errors import RefusedByPolicy
from privacy_ledger.domain.values import Category
from privacy_ledger.ports.keys import IdentityStatus
from privacy_ledger.streams import progress, subject_view
from privacy_ledger.streams.states import PERMISSIONS
from tests.unit.home import TestHome, home, played, registered

ADA: Final = "openedx:username:ada"
WRONG: Final = "ada.wrong@example.com"
RIGHT: Final = "ada.right@example.com"
LINES: Final = [
    registered("7", "ada", event="r1", email=WRONG),
    *(played("7", event=f"a{n}") for n in range(3)),
    registered("8", "bob", event="r2", email="bob@example.com"),
    *(played("8", event=f"b{n}") for n in range(3)),
]
_CORRECTION: Final = Correction(category=Category.ACCOUNT, member="email", value=RIGHT)


class Desk:
    """What the team does for Ada, by the name of the right; what is refused is noted."""

    def __init__(self, it: TestHome) -> None:
        """Take the home."""
        self._it = it
        self._refs = it.subjects.find(ADA).refs
        self.exports: list[dict[str, bytes]] = []
        self.refused: list[str] = []

    async def do(self, name: str) -> None:
        """Do one thing, or be refused."""
        try:
            await getattr(self, name)()
        except RefusedByPolicy as refusal:
            self.refused.append(f"{name}: {refusal.refusal}")

    async def restrict(self) -> None:
        """Restrict, and lift when all is done."""
        await self._it.subjects.restrict(ADA, ground="accuracy")

    async def correct(self) -> None:
        """Correct the e-mail address."""
        use_case = await bootstrap.rectification_of(self._it.runtime)
        await use_case.rectify(self._refs, _CORRECTION)

    async def export(self) -> None:
        """Export, unless the person was erased."""
        self._it.subjects.active(ADA)
        self.exports.append(await bootstrap.export_of(self._it.runtime).export(self._refs))

    async def erase(self) -> None:
        """Erase the person."""
        await self._it.erasure().erase(self._refs)

    async def erase_a_part(self) -> None:
        """Erase what is known of their videos."""
        scopes = self._it.subjects.scopes(ADA, "category", "patterns")
        await bootstrap.scope_erasure_of(self._it.runtime, wait_s=5.0).erase_scope(scopes)


async def one_after_the_other(steps: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Do each when the one before is written, whether or not it was folded."""
    for step in steps:
        await step()


async def at_once(steps: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Begin them in this order, and let them race."""
    await asyncio.gather(*(step() for step in steps))


def emails(export: dict[str, bytes]) -> list[str]:
    """Return the e-mail addresses that an export tells."""
    found = [one["fact"].get("email") for one in json.loads(export.get("account.json", b"[]"))]
    return [email for email in found if email is not None]


ORDERS: Final = list(permutations(("restrict", "erase", "correct", "export")))
PARTS: Final = list(permutations(("restrict", "erase_a_part", "correct", "export")))
MODES: Final = pytest.mark.parametrize("how", [one_after_the_other, at_once], ids=lambda how: how.__name__)


@MODES
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
async def test_whatever_comes_first_the_erased_are_gone_and_others_are_whole(
    tmp_path: Path, order: tuple[str, ...], how: Callable[..., Awaitable[None]]
) -> None:
    """No order brings anybody back; an export tells the wrong value or the right one, never both."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        others = await it.export("8")
        desk, refs = Desk(it), it.subjects.find(ADA).refs
        await how([lambda name=name: desk.do(name) for name in order])
        await it.runtime.passes.settle()
        await it.erasure().erase(refs)
        remains = [await remains_of(PersonRows(it.runtime.log), it.runtime.vault, ref) for ref in refs]
        permissions = await it.runtime.views.get(PERMISSIONS, refs[0])
        assert [(one.live, one.readable) for one in remains] == [(0, 0)]
        assert permissions is not None
        assert permissions.is_ended
        assert await it.runtime.views.live(refs[0]) == ()
        assert await it.runtime.views.get(subject_view.TABLE, refs[0]) is None
        assert await it.runtime.views.get(progress.TABLE, refs[0]) is None
        assert it.subjects.find(ADA).status is IdentityStatus.ERASED
        assert {k: v for k, v in (await it.export("8")).items() if k != MANIFEST} == {
            k: v for k, v in others.items() if k != MANIFEST
        }
        again = await it.take(LINES)
        assert (again.accepted, again.reasons["subject_erased"]) == (0, 4)
    assert all("subject_erased" in refusal for refusal in desk.refused)
    assert all(len(set(emails(export))) <= 1 for export in desk.exports)


@MODES
@pytest.mark.parametrize("order", PARTS, ids="-".join)
async def test_whatever_comes_first_the_part_is_gone_and_the_value_is_right(
    tmp_path: Path, order: tuple[str, ...], how: Callable[..., Awaitable[None]]
) -> None:
    """After the lift the view is the same in every order."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        desk, ref = Desk(it), it.ref("7")
        await how([lambda name=name: desk.do(name) for name in order])
        await it.runtime.passes.settle()
        await it.subjects.lift(ADA, notified_at=it.runtime.clock.now())
        await it.runtime.passes.settle()
        view = await it.runtime.views.get(subject_view.TABLE, ref)
        assert view is not None
        merged = subject_view.merge(view)
        assert {name: one.value for name, one in merged.account.items()} == {"email": RIGHT, "name": "ada"}
        assert merged.counts == {"account.registered.v1": 1, "account.updated.v1": 1}
        rows = [row for row in await it.rows() if row.key[:16] == ref and row.value is not None]
        facts = [record.body for record in it.runtime.codec.decode(rows)]
        assert {getattr(fact, "email", None) for fact in facts} == {None, RIGHT}
        assert not any(hasattr(fact, "video") for fact in facts)
    assert desk.refused == []
    assert [len(set(emails(export))) for export in desk.exports] == [1]
