"""`demo` and `tour`: the whole job on made-up learners, with figures that were measured."""

import json
import secrets
import time
from collections.abc import Iterator
from datetime import timedelta

import click
import msgspec
from msgspec import Struct

from privacy_ledger.adapters.formats import openedx
from privacy_ledger.app.ingest import Source, Summary
from privacy_ledger.app.subjects import Subjects
from privacy_ledger.bootstrap import (
    Runtime,
    erasure_of,
    export_of,
    ingest_of,
    release_of,
    subjects_of,
)
from privacy_ledger.domain.errors import LedgerError, RefusedByPolicy
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.interfaces.cli.insight import PRODUCT
from privacy_ledger.interfaces.cli.operate import verify
from privacy_ledger.interfaces.cli.shell import Exit, Shell, command
from privacy_ledger.testing.generator import course_name, generate, user_id_of

__all__ = ["Check", "Story", "demo", "register", "tour"]

LEARNERS = 820
COURSES = 4
EVENTS = 20_400
PURPOSE = "improve.analyse"


def register(group: click.Group) -> None:
    """Add the commands."""
    group.add_command(demo)
    group.add_command(tour)


class Check(Struct, frozen=True, kw_only=True):
    """One thing that the demo claims and has looked at."""

    claim: str
    holds: bool


class Story:
    """Prints what is done, and collects what was checked."""

    def __init__(self, shell: Shell, runtime: Runtime) -> None:
        """Start with nothing checked."""
        self.shell = shell
        self.runtime = runtime
        self.checks: list[Check] = []
        self.figures: dict[str, float | int] = {}

    def tell(self, text: str) -> None:
        """Print a line of the story."""
        self.shell.say(text)

    def check(self, claim: str, *, holds: bool) -> None:
        """Note a claim and whether it holds."""
        self.checks.append(Check(claim=claim, holds=holds))
        self.shell.say(f"  {'ok ' if holds else 'NO '} {claim}")


@click.command()
@command
async def demo(shell: Shell) -> int:
    """Run the whole job here: no Kafka, account or network. A fresh home, about half a minute."""
    if shell.settings.cluster is not None:
        raise click.UsageError("The demo runs in a home; leave --kafka out.")
    shell.use_fresh_home("ledger-demo")
    started = time.perf_counter()
    async with shell.open() as runtime:
        story = Story(shell, runtime)
        await runtime.registrar.tick()
        people = await _ingest(story)
        subjects = await subjects_of(runtime)
        await _rights(story, subjects, people)
        await _erase(story, subjects, people[2])
        await _analyse(story)
        await _replay(story)
    story.figures["seconds"] = round(time.perf_counter() - started, 1)
    return _end(story)


def _lines(story: Story, *, learners: int, events: int) -> Iterator[tuple[int, bytes]]:
    """Return numbered lines of made-up learners over the last twenty days."""
    end = story.runtime.clock.now() - timedelta(hours=1)
    lines = generate(
        seed=secrets.randbelow(2**31), learners=learners, courses=COURSES, events=events,
        start=end - timedelta(days=20), end=end,
    )  # fmt: skip
    return enumerate(lines, start=1)


async def _ingest(story: Story) -> list[str]:
    """Ingest made-up learners and run every processor; return some subjects with many records."""
    story.tell(f"1. {LEARNERS} made-up learners in {COURSES} courses send Open edX tracking logs.")
    runtime = story.runtime
    await runtime.registrar.add_courses([course_name(number) for number in range(COURSES)])
    counts: dict[str, int] = {}
    lines = []
    for number, line in _lines(story, learners=LEARNERS, events=EVENTS):
        lines.append((number, line))
        found = msgspec.json.decode(line)
        who = str(found["context"].get("user_id") or "")
        counts[who] = counts.get(who, 0) + 1
    lines += _registrations(len(lines), [str(user_id_of(n)) for n in range(LEARNERS)], story)
    started = time.perf_counter()
    use_case = await ingest_of(runtime)
    source = Source(name="openedx", parse=openedx.parse, default_consents=(PURPOSE,))
    summary: Summary = await use_case.run(iter(lines), source)
    ingested = time.perf_counter()
    await runtime.passes.settle()
    settled = time.perf_counter()
    rate = round(summary.records / (ingested - started))
    story.figures |= {
        "lines": summary.read, "records": summary.records, "ingest_per_s": rate,
        "fold_s": round(settled - ingested, 1),
    }  # fmt: skip
    story.tell(
        f"   {summary.read:,} lines became {summary.records:,} sealed records "
        f"({rate:,}/s); every processor had folded them {settled - ingested:.1f} s later."
    )
    total = summary.accepted + summary.duplicates + summary.refused
    total += summary.unattributed + summary.malformed
    story.check("the parts of the summary add up", holds=total == summary.read)
    again: Summary = await use_case.run(iter(lines[:2000]), source)
    story.check("the same lines again: nothing is doubled", holds=again.accepted == 0)
    busiest = sorted(counts, key=lambda who: -counts[who])
    return [f"openedx:user_id:{who}" for who in busiest if who][:5]


def _registrations(start: int, people: list[str], story: Story) -> list[tuple[int, bytes]]:
    """Return one login line per learner, so that every one of them is known."""
    at = (story.runtime.clock.now() - timedelta(minutes=30)).isoformat()
    lines = []
    for number, who in enumerate(people, start=start + 1):
        event = {
            "name": "edx.user.login", "event_type": "edx.user.login", "event_source": "server",
            "time": at, "username": "", "context": {"user_id": int(who)}, "event": {},
        }  # fmt: skip
        lines.append((number, json.dumps(event).encode()))
    return lines


async def _rights(story: Story, subjects: Subjects, people: list[str]) -> None:
    """One person withdraws a consent; another restricts, and lifts again."""
    settle = story.runtime.passes.settle
    first, second = people[0], people[1]
    story.tell("2. One learner withdraws the consent to analytics; another disputes their data.")
    before = (await subjects.show(first)).references[0].counts
    await settle(await subjects.withdraw(first, PURPOSE))
    after = (await subjects.show(first)).references[0].counts
    gone = sum(count for name, count in before.items() if name.startswith("usage."))
    left = sum(count for name, count in after.items() if name.startswith("usage."))
    story.check(f"{gone} records that only this consent allowed are gone", holds=gone > 0 == left)
    whole = (await subjects.show(second)).references[0].counts
    await settle(await subjects.restrict(second, ground="accuracy"))
    line = _one_line(story, second)
    source = Source(name="openedx", parse=openedx.parse)
    await (await ingest_of(story.runtime)).run(iter([(1, line)]), source)
    await settle()
    held = (await subjects.show(second)).references[0]
    is_held = held.is_restricted and held.counts == whole
    story.check("while restricted, a new event is kept and seen by nothing", holds=is_held)
    now = story.runtime.clock.now()
    await settle(await subjects.lift(second, notified_at=now))
    lifted = (await subjects.show(second)).references[0].counts
    is_back = sum(lifted.values()) == sum(whole.values()) + 1
    story.check("after the lift it is as if there had been no restriction", holds=is_back)


def _one_line(story: Story, subject: str) -> bytes:
    """Return one more enrolment of a subject, now."""
    who = int(subject.rsplit(":", 1)[1])
    course = course_name(0)
    at = story.runtime.clock.now().isoformat()
    event = {
        "name": "edx.course.enrollment.activated", "event_type": "edx.course.enrollment.activated",
        "event_source": "server", "time": at, "username": "",
        "context": {"user_id": who, "course_id": course},
        "event": {"user_id": who, "course_id": course, "mode": "audit"},
    }  # fmt: skip
    return json.dumps(event).encode()


async def _erase(story: Story, subjects: Subjects, subject: str) -> None:
    """Erase one person, and look whether anything of them can be read."""
    story.tell("3. A third learner asks to be erased.")
    runtime = story.runtime
    person = subjects.find(subject)
    plan = await erasure_of(runtime).plan(person.refs)
    started = time.perf_counter()
    outcomes = await erasure_of(runtime).erase(person.refs)
    await runtime.passes.settle()
    seconds = time.perf_counter() - started
    story.figures["erasure_s"] = round(seconds, 2)
    records = sum(plan.records.values())
    is_done = all(outcome.is_completed for outcome in outcomes)
    story.check(f"{records} records erased and verified in {seconds:.1f} s, with a receipt", holds=is_done)
    readable = await _readable(runtime, person.refs[0])
    story.check("no key opens any record of that person", holds=readable == 0)
    line = _one_line(story, subject)
    source = Source(name="openedx", parse=openedx.parse)
    again = await (await ingest_of(runtime)).run(iter([(1, line)]), source)
    story.check("an old log of theirs brings nobody back", holds=again.reasons == {"subject_erased": 1})


async def _readable(runtime: Runtime, ref: bytes) -> int:
    """Return how many records of a reference can still be decrypted, by a scan of the ledger."""
    readable = 0
    for partition in range(runtime.partitions):
        after = -1
        while rows := await runtime.log.read(LEDGER_EVENTS, partition, after=after):
            mine = [row for row in rows if row.key.startswith(ref)]
            sealed = [row for row in mine if row.value is not None and row.value[:1] == b"\x01"]
            readable += sum(runtime.codec.payload(row) is not None for row in sealed)
            after = rows[-1].offset
    return readable


async def _analyse(story: Story) -> None:
    """Seal a day, release it once, and try to draw again."""
    story.tell("4. An analyst asks how many learners viewed each course on one day.")
    runtime = story.runtime
    release = await release_of(runtime)
    until = runtime.clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    until -= timedelta(days=3)
    await release.seal(PRODUCT, until=until)
    rows = (await release.show(PRODUCT)).rows
    for row in rows:
        story.tell(f"   {row.window}  {row.course:<40} {row.value:>6}  95 % [{row.ci_low}, {row.ci_high}]")
    budget = (await release.list_products())[0].spent
    await release.seal(PRODUCT, until=until)
    same = (await release.show(PRODUCT)).rows == rows
    is_same = same and (await release.list_products())[0].spent == budget
    story.check(f"{len(rows)} noisy figures; asking again draws nothing", holds=len(rows) > 0 and is_same)


async def _replay(story: Story) -> None:
    """Rebuild everything from offset 0 and compare."""
    story.tell("5. An operator rebuilds every projection from zero, beside the live ones.")
    report = await verify(story.runtime)
    rate = round(report.records / max(report.seconds, 0.001))
    story.figures |= {"replayed": report.records, "replay_per_s": rate}
    story.check(f"live and rebuild are equal ({report.records:,} records, {rate:,}/s)", holds=report.is_equal)


def _end(story: Story) -> int:
    """Print where everything lies and what to try next."""
    shell = story.shell
    home = shell.settings.home
    is_good = all(check.holds for check in story.checks)
    verdict = "All checks hold" if is_good else "SOME CHECKS FAILED"
    story.tell(f"{verdict} ({story.figures['seconds']} s). Everything lies in {home}:")
    story.tell("   ledger.db  the log and its views · keystore.db  keys, wrapped · the key file lies outside")
    story.tell(f"Next: privacy-ledger --home {home} tour")
    story.tell(f"      privacy-ledger --home {home} analytics show {PRODUCT}")
    story.tell(f"      privacy-ledger --home {home} subject show openedx:user_id:{user_id_of(7)}")
    if shell.as_json:
        shell.result(
            {
                "ok": is_good, "home": str(home), "figures": story.figures,
                "checks": msgspec.to_builtins(story.checks),
            }
        )  # fmt: skip
    return Exit.DONE if is_good else Exit.FAILED


@click.command()
@command
async def tour(shell: Shell) -> int:
    """Walk through one person's life: emit, see, restrict, export, erase, replay, nobody is back."""
    async with shell.open() as runtime:
        story = Story(shell, runtime)
        await runtime.registrar.tick()
        who = secrets.randbelow(10**9) + 10**9
        subject = f"openedx:user_id:{who}"
        subjects = await subjects_of(runtime)
        source = Source(name="openedx", parse=openedx.parse)
        settle = runtime.passes.settle
        shell.say(f"1. emit     a made-up learner, {subject}, enrols in a course")
        await (await ingest_of(runtime)).run(iter([(1, _one_line(story, subject))]), source)
        await settle()
        shown = await subjects.show(subject)
        shell.say(f"2. see      {dict(shown.references[0].counts)}")
        story.check("the event is in the projections", holds=bool(shown.references[0].courses))
        await settle(await subjects.restrict(subject, ground="accuracy"))
        (held,) = (await subjects.show(subject)).references
        story.check("3. restrict: used for nothing", holds=held.is_restricted)
        await settle(await subjects.lift(subject, notified_at=runtime.clock.now()))
        person = subjects.find(subject)
        files = await export_of(runtime).export(person.refs)
        shell.say(f"4. export   {', '.join(sorted(files))} ({sum(map(len, files.values()))} bytes)")
        outcomes = await erasure_of(runtime).erase(person.refs)
        await settle()
        story.check("5. erase: verified, with a receipt", holds=all(o.is_completed for o in outcomes))
        report = await verify(runtime)
        story.check("6. replay: live and rebuild are equal", holds=report.is_equal)
        story.check("7. nothing came back", holds=await _is_gone(subjects, subject))
        if shell.as_json:
            shell.result({"checks": msgspec.to_builtins(story.checks)})
        return Exit.DONE if all(check.holds for check in story.checks) else Exit.FAILED


async def _is_gone(subjects: Subjects, subject: str) -> bool:
    """Return whether the person is erased and no projection says anything of them."""
    try:
        subjects.active(subject)
    except RefusedByPolicy:
        shown = await subjects.show(subject)
        return shown.status == "erased" and not any(ref.counts for ref in shown.references)
    except LedgerError:
        return False
    return False
