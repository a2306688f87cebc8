"""Studies and beta features: joined by consent, left with all that they alone collected."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from privacy_ledger import bootstrap
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.events import StudyResponseRecorded, event_type
from privacy_ledger.ports.keys import DataKey, Shredded
from privacy_ledger.ports.log import header
from tests.unit.home import Said, TestHome, home, line, played, videos_of

ADA = "openedx:user_id:7"
READING, LISTENING, BETA = "study.reading", "study.listening", "beta.new-player"


async def opened(it: TestHome) -> TestHome:
    """Open two studies and a beta feature, and return the home under the rules that have them."""
    for name in (READING, LISTENING, BETA):
        assert await (await bootstrap.studies_of(it.runtime)).open(name, source="ethics board, case 12")
        await it.runtime.passes.settle()
    rules = await bootstrap.rules_in_force(it.runtime)
    return TestHome(it.runtime, await bootstrap.ingest_of(it.runtime), rules)


def answered(programme: str, *, event: str, it: TestHome) -> bytes:
    """Return a line that says what somebody answered in a study."""
    fact: dict[str, str | int] = {
        "type": event_type(StudyResponseRecorded), "programme": programme, "item": "q1",
        "response": "I read at night",
    }  # fmt: skip
    return line(Said(id=event, people=(("7",),), facts=(fact,), at=it.runtime.clock.now()))


async def test_studies_that_are_opened_at_once_are_all_in_force(tmp_path: Path) -> None:
    """By several processes, none of which has folded what the others put in force."""
    names = [f"study.s{number}" for number in range(4)]
    async with home(tmp_path) as it:
        async with AsyncExitStack() as stack:
            others = [
                await stack.enter_async_context(bootstrap.open_runtime(it.runtime.settings)) for _ in names
            ]
            studies = [await bootstrap.studies_of(one) for one in others]
            opened = await asyncio.gather(
                *(one.open(name, source="ethics board") for one, name in zip(studies, names, strict=True))
            )
            assert all(opened)
            assert not await studies[0].open(names[-1], source="ethics board")
        await it.runtime.passes.settle()
        assert list((await bootstrap.studies_of(it.runtime)).opened()) == names


async def test_a_seed_never_replaces_a_registry_that_no_view_knows_yet(tmp_path: Path) -> None:
    """A process that is opened before the first fold finds what another put in force."""
    async with home(tmp_path) as it:
        settings = msgspec.structs.replace(it.runtime.settings, home=tmp_path / "second")
        async with bootstrap.open_runtime(settings) as first:
            assert (await first.views.meta(0)).registry_digest is None
            assert await (await bootstrap.studies_of(first)).open(READING, source="ethics board")
            async with bootstrap.open_runtime(settings) as second:
                await second.passes.settle()
                assert (await bootstrap.studies_of(second)).opened() == (READING,)


async def kids(it: TestHome, programme: str) -> list[bytes]:
    """Return the keys of what a study collected."""
    return [
        (row.value or b"")[1:33]
        for row in await it.rows()
        if header(row.headers, "purposes") == programme.encode()
    ]


async def test_leaving_one_study_keeps_the_other_and_the_course(tmp_path: Path) -> None:
    """The key of its own goes, with every record; and nothing of before comes back."""
    async with home(tmp_path) as before:
        await before.take([played("7", event="a1")])
        it = await opened(before)
        for name in (READING, LISTENING, BETA):
            await it.runtime.passes.settle(await it.subjects.grant(ADA, name))
        lines = [answered(name, event=name, it=it) for name in (READING, LISTENING, BETA)]
        assert (await it.take(lines)).accepted == 3
        mine, others = await kids(it, READING), [*await kids(it, LISTENING), *await kids(it, BETA)]
        await it.runtime.passes.settle(await it.subjects.withdraw(ADA, READING))
        opened_keys = it.runtime.vault.open_keys([*mine, *others])
        assert [type(opened_keys[kid]) for kid in mine] == [Shredded]
        assert [type(opened_keys[kid]) for kid in others] == [DataKey, DataKey]
        live = await it.runtime.views.live(it.ref("7"))
        assert {p for row in live for p in row.purposes if p.startswith(("study", "beta"))} == {
            LISTENING, BETA,
        }  # fmt: skip
        assert await videos_of(it, "7") == ["v1"]
        assert (await it.take(lines)).accepted == 0


async def test_no_study_collects_from_who_did_not_join_it(tmp_path: Path) -> None:
    """Nor does one that nobody opened, whoever consented to another."""
    async with home(tmp_path) as before:
        await before.take([played("7", event="a1")])
        it = await opened(before)
        await it.runtime.passes.settle(await it.subjects.grant(ADA, READING))
        summary = await it.take([
            answered(LISTENING, event="x1", it=it), answered("study.sleeping", event="x2", it=it),
            answered(READING, event="x3", it=it),
        ])  # fmt: skip
        assert (summary.accepted, summary.reasons) == (1, {"consent_missing": 1, "unknown_purpose": 1})


async def test_a_study_may_be_erased_and_corrected_like_any_purpose(tmp_path: Path) -> None:
    """By its purpose, with a receipt."""
    async with home(tmp_path) as before:
        await before.take([played("7", event="a1")])
        it = await opened(before)
        await it.runtime.passes.settle(await it.subjects.grant(ADA, READING))
        await it.take([answered(READING, event="x1", it=it)])
        (kid,) = await kids(it, READING)
        erasure = bootstrap.scope_erasure_of(it.runtime, wait_s=5.0)
        (done,) = await erasure.erase_scope(it.subjects.scopes(ADA, "purpose", READING))
        assert done.is_completed
        assert isinstance(it.runtime.vault.open_keys([kid])[kid], Shredded)
        assert (await it.take([answered(READING, event="x2", it=it)])).accepted == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [("reading", "a"), ("study.", "a"), ("study.Reading", "a"), ("ads.x", "a"), (READING, " ")],
)
async def test_what_names_no_study_is_refused(tmp_path: Path, name: str, source: str) -> None:
    """And so is a study that nobody approved."""
    async with home(tmp_path) as it:
        with pytest.raises(BadInput):
            await (await bootstrap.studies_of(it.runtime)).open(name, source=source)
        assert (await bootstrap.studies_of(it.runtime)).opened() == ()


async def test_a_study_is_opened_once(tmp_path: Path) -> None:
    """A second time changes nothing."""
    async with home(tmp_path) as it:
        assert await (await bootstrap.studies_of(it.runtime)).open(READING, source="case 12")
        await it.runtime.passes.settle()
        again = await bootstrap.studies_of(it.runtime)
        assert not await again.open(READING, source="case 12")
        assert again.opened() == (READING,)
