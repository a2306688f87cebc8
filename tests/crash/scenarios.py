"""What people and operators do in a home while its process may end at any call."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from privacy_ledger import bootstrap
from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.local.home import open_home, set_trial_clock
from privacy_ledger.app._evidence import PersonRows, remains_of, waiting_of
from privacy_ledger.app.audit import Proof
from privacy_ledger.app.erasure import ErasureOutcome
from privacy_ledger.app.erasure_care import ErasureStatus
from privacy_ledger.app.ingest import Summary
from privacy_ledger.app.key_care import KeyCare
from privacy_ledger.app.rectification import Correction
from privacy_ledger.domain.errors import RefusedByPolicy
from privacy_ledger.domain.events import AccountUpdated, VideoPlayed, event_type
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import Category, SubjectRef, partition_of
from privacy_ledger.ports.keys import Identity, IdentityStatus
from privacy_ledger.ports.runtime import Wrap
from privacy_ledger.streams import subject_view
from privacy_ledger.streams.progress import Progress, ProgressPart
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import PERMISSIONS
from privacy_ledger.testing.checkers import Ledger
from tests.unit.home import (
    COURSE,
    NOW,
    RECENT,
    Said,
    TestHome,
    home,
    line,
    paid,
    played,
    registered,
    settings,
    unreadable,
    viewed,
)

ADA: Final = "openedx:username:ada"
BOB: Final = "openedx:user_id:8"
PURPOSE: Final = "improve.analyse"
LINES: Final = (
    registered("7", "ada", event="r1", email="ada@example.com"),
    *(played("7", event=f"a{n}") for n in range(3)),
    *(viewed("7", event=f"v{n}") for n in range(2)),
    *(played("8", event=f"b{n}") for n in range(2)),
    viewed("8", event="w0"),
)
_VIEWED: Final = "usage.page_viewed.v1"
_PATTERNS: Final = "video.played.v1"
_RIGHT: Final = Correction(category=Category.ACCOUNT, member="email", value="ada.right@example.com")
_ACCOUNT: Final = {"email": "ada.right@example.com", "name": "ada"}
_OTHERS: Final = tuple(map(str, range(20, 40)))


class OnHome(ABC):
    """What every scenario of a home shares: persons 7 (also called ada) and 8, who consented."""

    name = ""
    prepared_until: str | None = None
    begins_at: datetime | None = None
    moves_to: datetime | None = None

    @asynccontextmanager
    async def open(self, folder: Path, wrap: Wrap) -> AsyncIterator[TestHome]:
        """Open the home and run its passes, as a worker does that takes commands."""
        if self.moves_to is not None and (folder / "home").exists():
            found = open_home(folder / "home", ids=SystemIds())
            if found.clock.now() < self.moves_to:
                set_trial_clock(found, self.moves_to)
        async with home(folder, trial=self.begins_at, is_worker=True, wrap=wrap) as it:
            yield it

    @asynccontextmanager
    async def opened_to_look(self, folder: Path) -> AsyncIterator[Ledger]:
        """Open the home and take no lock."""
        async with bootstrap.open_runtime(settings(folder), prepare=False) as runtime:
            yield runtime

    async def prepare(self, it: TestHome) -> None:
        """Take a few lines."""
        await it.take(LINES, consents=(PURPOSE,))

    @abstractmethod
    async def act(self, it: TestHome) -> None:
        """Do what may be cut short."""

    @abstractmethod
    async def claims(self, it: TestHome) -> list[str]:
        """Return what is not as it should be."""

    async def settle(self, it: TestHome) -> None:
        """Fold all, then a tick: what was carried out is taken off the lists by a later cycle."""
        await it.runtime.passes.settle()
        await it.runtime.registrar.tick(force=True)
        await it.runtime.passes.settle()


async def _counts(it: TestHome, name: str) -> dict[str, int]:
    """Return how many records of each type a person's view has."""
    view = await it.runtime.views.get(subject_view.TABLE, it.ref(name))
    return {} if view is None else dict(subject_view.merge(view).counts)


def _differ(what: str, found: object, expected: object) -> list[str]:
    return [] if found == expected else [f"{what}: {found}, not {expected}"]


class Ingesting(OnHome):
    """A first start and a file: minting, splitting, the lane and its move, copies, the cycle."""

    name = "ingest"

    async def prepare(self, it: TestHome) -> None:
        """Leave the home as it is made."""

    async def act(self, it: TestHome) -> None:
        """Take two files; a session of nobody known in the first is somebody's in the second."""
        await self._take(it)

    async def _take(self, it: TestHome) -> tuple[Summary, Summary]:
        joint = line(
            Said(
                id="j1",
                people=(("7",), ("9",)),
                facts=({"type": event_type(VideoPlayed), "course": COURSE, "video": "v2"},),
            )
        )
        first = await it.take(
            [
                *LINES,
                joint,
                played("7", event="a0"),
                played(event="s1", session="s"),
                played("8", event="b9", browser="Lynx"),
            ],
            consents=(PURPOSE,),
        )
        second = await it.take([played("8", event="b8", session="s"), viewed("9", event="x1")])
        return first, second

    async def claims(self, it: TestHome) -> list[str]:
        """Every line counts once, and the same files are not accepted again."""
        first, second = await self._take(it)
        account, video = "account.registered.v1", "video.played.v1"
        consent, device = "consent.granted.v1", "device.observed.v1"
        return [
            *_differ("of 7", await _counts(it, "7"), {account: 1, video: 4, consent: 1, _VIEWED: 2}),
            *_differ("of 8", await _counts(it, "8"), {video: 5, consent: 1, _VIEWED: 1, device: 1}),
            *_differ("of 9", await _counts(it, "9"), {video: 1, consent: 1, _VIEWED: 1}),
            *_differ("accepted again", (first.accepted, second.accepted), (0, 0)),
        ]


class Withdrawing(OnHome):
    """A withdrawal: purge, refold, tombstones, shreds."""

    name = "withdrawal"

    async def act(self, it: TestHome) -> None:
        """Withdraw and wait for the views."""
        await it.runtime.passes.settle(await it.subjects.withdraw(ADA, PURPOSE))

    async def claims(self, it: TestHome) -> list[str]:
        """Nothing that only the consent allowed is left; the other person's is."""
        mine, other = await _counts(it, "7"), await _counts(it, "8")
        live = await it.runtime.views.live(it.ref("7"))
        return [
            *_differ("viewed", (mine.get(_VIEWED), other.get(_VIEWED)), (None, 1)),
            *_differ("played", mine.get("video.played.v1"), 3),
            *_differ("under the purpose", [row for row in live if PURPOSE in row.purposes], []),
        ]


class Restricting(OnHome):
    """A restriction, a record that is held, and the lift."""

    name = "restriction"

    async def act(self, it: TestHome) -> None:
        """Restrict, take a line and lift."""
        await it.runtime.passes.settle(await it.subjects.restrict(ADA, ground="accuracy"))
        await it.take([played("7", event="held")])
        await it.runtime.passes.settle(await it.subjects.lift(ADA, notified_at=it.runtime.clock.now()))

    async def claims(self, it: TestHome) -> list[str]:
        """The view is that of one who was never restricted."""
        counts = await _counts(it, "7")
        return _differ("seen", (counts.get("video.played.v1"), counts.get(_VIEWED)), (4, 2))


class Acquiring(OnHome):
    """A take-over from one who ended between a commit and what it decided, with parked subjects.

    8 was parked by a broken step and is taken up again, with a withdrawal that waited; 7 has a
    record that nobody can read, and stays parked; the tombstones and shreds of somebody else in the
    partition of 7 are outstanding.
    """

    name = "acquisition"
    prepared_until = f"log.append {LEDGER_EVENTS}"

    async def prepare(self, it: TestHome) -> None:
        """Park two people, and decide what this process does not live to carry out."""
        others = [
            line
            for name in _OTHERS
            for line in (viewed(name, event=f"x{name}"), played(name, event=f"y{name}"))
        ]
        await it.take([*LINES, *others], consents=(PURPOSE,))
        with _broken_step(it.ref("8")):
            await it.take([played("8", event="b7")])
            await it.runtime.passes.settle(await it.subjects.withdraw(BOB, PURPOSE))
            broken = unreadable(await it.rows(), it.ref("7"), it.runtime.ids)
            await it.runtime.log.append(LEDGER_EVENTS, (broken,))
            await it.take([played("7", event="a7")])
            await it.runtime.passes.settle(
                await it.subjects.withdraw(f"openedx:user_id:{_beside(it)}", PURPOSE)
            )

    async def act(self, it: TestHome) -> None:
        """Fold what there is: the take-over was on the way here."""
        await it.runtime.passes.settle()

    async def claims(self, it: TestHome) -> list[str]:
        """What waited was applied, and who is parked is left as they were."""
        consent, gone = "consent.granted.v1", "consent.withdrawn.v1"
        video, account = "video.played.v1", "account.registered.v1"
        return [
            *_differ("of 7", await _counts(it, "7"), {account: 1, video: 3, consent: 1, _VIEWED: 2}),
            *_differ("of 8", await _counts(it, "8"), {video: 3, consent: 1, gone: 1}),
            *_differ("of the other", await _counts(it, _beside(it)), {video: 1, consent: 1, gone: 1}),
        ]


def _beside(it: TestHome) -> str:
    """Return the first of the others whose partition is that of 7."""
    partitions = it.runtime.partitions
    mine = partition_of(it.ref("7"), partitions)
    return next(name for name in _OTHERS if partition_of(it.ref(name), partitions) == mine)


@contextmanager
def _broken_step(victim: SubjectRef) -> Iterator[None]:
    """Let the progress step fail on one person's records."""
    right = Progress.step

    def broken(self: Progress, part: ProgressPart | None, record: Record) -> ProgressPart:
        if record.ref == victim:
            raise ZeroDivisionError
        return right(self, part, record)

    Progress.step = broken  # type: ignore[method-assign] # put back below
    try:
        yield
    finally:
        Progress.step = right  # type: ignore[method-assign] # as it was


class Retaining(OnHome):
    """A tick after more than two years: what is past its retention goes by months, and then its keys."""

    name = "retention"
    begins_at = NOW - timedelta(days=900)
    moves_to = NOW - timedelta(days=30)

    async def prepare(self, it: TestHome) -> None:
        """Take lines of the time at which the home begins."""
        assert self.begins_at is not None
        at = self.begins_at - timedelta(days=1)
        await it.take(
            [
                registered("7", "ada", event="r1", email="ada@example.com", at=at),
                played("7", event="a1", at=at),
                viewed("7", event="v1", at=at),
                played("8", event="b1", at=at),
            ],
            consents=(PURPOSE,),
        )
        await it.runtime.passes.settle(await it.subjects.restrict(BOB, ground="accuracy"))

    async def act(self, it: TestHome) -> None:
        """Tick, and confirm that so much time has passed."""
        await it.runtime.registrar.tick()
        await it.runtime.registrar.confirm_time()
        await it.runtime.passes.settle()
        await bootstrap.expiry_of(it.runtime).run()

    async def claims(self, it: TestHome) -> list[str]:
        """Account and evidence stay while the account lives; who is restricted is frozen, keys and all."""
        mine = {key.group: key.is_expired for key in it.runtime.vault.keys_of(it.ref("7"))}
        other = {key.group for key in it.runtime.vault.keys_of(it.ref("8")) if key.destroyed_at is not None}
        remains = await remains_of(PersonRows(it.runtime.log), it.runtime.vault, it.ref("8"))
        left = await bootstrap.expiry_of(it.runtime).look()
        statements = await bootstrap.statements_of(it.runtime)
        (first,), (again,) = [await statements.receipts((it.ref("7"),)) for _ in range(2)]
        assert self.begins_at is not None
        late = await it.take([played("7", event="late", at=self.begins_at)], is_import=True)
        return [
            *_differ(
                "destroyed",
                mine,
                {"account": False, "evidence": False, "patterns": True, f"usage+{PURPOSE}": True},
            ),
            *_differ("destroyed of 8", other, set()),
            *_differ("readable of 8", (remains.live, remains.readable), (2, 2)),
            *_differ("left", (left.keys, left.kept), (0, {"restricted": 1})),
            *_differ("receipts", (first, len(set(await it.leaves()))), (again, 1)),
            *_differ("accepted late", late.reasons, {"past_retention": 1}),
            *_differ("of 7", await _counts(it, "7"), {"account.registered.v1": 1, "consent.granted.v1": 1}),
            *_differ("of 8", (await _counts(it, "8")).get("video.played.v1"), 1),
        ]


class Erasing(OnHome):
    """The erasure of a person with two references, one of them restricted, and a session that never moved."""

    name = "erasure"

    async def prepare(self, it: TestHome) -> None:
        """Let a line join the references of one person, and a move end after its join."""
        await it.take([played("7", event="e1")])
        await it.take([played("ada", event="e2"), *LINES[6:]], consents=(PURPOSE,))
        await it.take([played("7", "ada", event="e3"), viewed("7", event="e4")])
        await it.runtime.passes.settle(await it.subjects.restrict(ADA, ground="objection"))
        await it.take([played(event="s1", session="s")])
        (lane,) = it.runtime.vault.find((Identity("lane:test", "session:s"),))
        assert lane is not None
        it.runtime.vault.join_lanes({lane.ref: it.ref("ada")}, now=it.runtime.clock.now())

    async def act(self, it: TestHome) -> None:
        """Erase every reference."""
        await it.erasure().erase(it.subjects.find(ADA).refs)

    async def claims(self, it: TestHome) -> list[str]:
        """Complete, once, with the same receipt when asked again; nobody comes back by old lines."""
        person = it.subjects.find(ADA)
        done = await it.erasure().erase(person.refs)
        late = (played("ada", event="late"), played(event="s2", session="s"))
        again = await it.take([*LINES, *late], consents=(PURPOSE,))
        twice = await it.erasure().erase(it.subjects.find(ADA).refs)
        leaves, audit = await it.leaves(), await it.audit().verify()
        waiting = [await waiting_of(it.runtime.log, it.runtime.vault, ref) for ref in person.refs]
        return [
            *_differ(
                "in the lane", sorted((one.readable, len(one.kids)) for one in waiting), [(0, 0), (0, 1)]
            ),
            *_differ("completed", [one.is_completed for one in done], [True, True]),
            *_differ("receipts", twice, done),
            *_differ(
                "leaves", (len(leaves), set(leaves)), (2, {bytes.fromhex(one.leaf or "") for one in done})
            ),
            *_differ("audit log", (audit.leaves, audit.faults), (2, ())),
            *_differ("unfinished", await it.erasure().unfinished(), 0),
            *_differ("identity", person.status, IdentityStatus.ERASED),
            *_differ("accepted again", (again.accepted, again.reasons), (0, {"subject_erased": 8})),
            *_differ("of 8", (await _counts(it, "8")).get("video.played.v1"), 2),
        ]


class ErasingLess(OnHome):
    """The erasure of one category, of which more is collected at once."""

    name = "scope-erasure"

    async def act(self, it: TestHome) -> None:
        """Erase it, and take a line of the category again."""
        await self._erase(it)
        now = it.runtime.clock.now()
        await it.take([played("7", event=now.isoformat(), at=now)])

    async def _erase(self, it: TestHome) -> list[ErasureOutcome]:
        use_case = bootstrap.scope_erasure_of(it.runtime, wait_s=5.0)
        if resumed := await use_case.resume():
            return list(resumed)
        return list(await use_case.erase_scope(it.subjects.scopes(ADA, "category", "patterns")))

    async def claims(self, it: TestHome) -> list[str]:
        """Nothing of before comes back; what came since goes with the next erasure; all else is there."""
        old = await it.take(LINES, consents=(PURPOSE,))
        counts, before = await _counts(it, "7"), len(await it.leaves())
        (done,), audit = await self._erase(it), await it.audit().verify()
        return [
            *_differ("accepted again", (old.accepted, old.reasons), (0, {"scope_erased": 3})),
            *_differ("since", (counts.get(_PATTERNS, 0) > 0, counts.get(_VIEWED)), (True, 2)),
            *_differ("completed", done.is_completed, True),  # noqa: FBT003 - a value, not a flag
            *_differ("left", (await _counts(it, "7")).get(_PATTERNS), None),
            *_differ("audit log", (audit.leaves, audit.faults), (before + 1, ())),
            *_differ("of 8", (await _counts(it, "8")).get(_PATTERNS), 2),
        ]


class Correcting(OnHome):
    """A wrong e-mail address, in two records and under restriction, is corrected."""

    name = "rectification"

    async def prepare(self, it: TestHome) -> None:
        """Take lines, and restrict the person while the value is disputed."""
        wrong: dict[str, str | int] = {"type": event_type(AccountUpdated), "email": "ada.wrong@example.com"}
        update = line(Said(id="u1", people=(("7",),), facts=(wrong,), at=RECENT + timedelta(seconds=1)))
        await it.take([*LINES, update], consents=(PURPOSE,))
        await it.runtime.passes.settle(await it.subjects.restrict(ADA, ground="accuracy"))

    async def act(self, it: TestHome) -> None:
        """Correct it, and lift the restriction."""
        use_case = await bootstrap.rectification_of(it.runtime)
        done = await use_case.rectify(it.subjects.find(ADA).refs, _RIGHT)
        await it.runtime.passes.settle(done.offsets)
        await it.runtime.passes.settle(await it.subjects.lift(ADA, notified_at=it.runtime.clock.now()))

    async def claims(self, it: TestHome) -> list[str]:
        """The right value is shown, and no record opens as a wrong one; late copies change nothing."""
        again = await it.take(LINES, consents=(PURPOSE,))
        rows = [row for row in await it.rows() if row.key[:16] == it.ref("7") and row.value is not None]
        facts = [record.body for record in it.runtime.codec.decode(rows)]
        emails = {email for fact in facts if (email := getattr(fact, "email", None)) is not None}
        view = await it.runtime.views.get(subject_view.TABLE, it.ref("7"))
        account = {} if view is None else subject_view.merge(view).account
        counts = await _counts(it, "7")
        return [
            *_differ("accepted again", again.accepted, 0),
            *_differ("readable", emails, {_RIGHT.value}),
            *_differ("shown", {name: at.value for name, at in account.items()}, _ACCOUNT),
            *_differ("registered", counts.get("account.registered.v1"), 1),
            *_differ("played", (counts.get(_PATTERNS), counts.get(_VIEWED)), (3, 2)),
        ]


class HeldErasing(OnHome):
    """An erasure that rests on a hold and a duty, the lift of the hold, and what goes then."""

    name = "held-erasure"

    async def prepare(self, it: TestHome) -> None:
        """Let somebody pay, and hold what they looked at."""
        await it.take([*LINES, paid("7", event="p1")], consents=(PURPOSE,))
        _, offsets = await it.subjects.place_hold(
            ADA, category=Category.USAGE, ground="legal_claims", until=None
        )
        await it.runtime.passes.settle(offsets)

    async def act(self, it: TestHome) -> None:
        """Erase, lift, and go on with what the lift lets go."""
        await it.erasure().erase(it.subjects.find(ADA).refs)
        for hold in await it.subjects.holds(ADA):
            await it.runtime.passes.settle(await it.subjects.lift_hold(ADA, hold.request))
        await it.erasure().resume()

    async def claims(self, it: TestHome) -> list[str]:
        """What the duty keeps is left, under its key; the last receipt says so; late payments are taken."""
        ref = it.ref("7")
        (done,) = await it.erasure().erase(it.subjects.find(ADA).refs)
        rows = await it.runtime.views.live(ref)
        remains = await remains_of(
            PersonRows(it.runtime.log), it.runtime.vault, ref, but=frozenset(row.record_id for row in rows)
        )
        groups = it.runtime.vault.live_groups(ref)
        again = await it.take([*LINES, paid("7", event="p1"), paid("ada", event="p2")], consents=(PURPOSE,))
        leaves, audit = await it.leaves(), await it.audit().verify()
        kept = [(item.category, item.ground) for item in done.retained]
        return [
            *_differ("kept", kept, [("billing", "legal_obligation")]),
            *_differ("live", {(row.category, row.purposes) for row in rows}, {("billing", ("tax.comply",))}),
            *_differ("beside it", (remains.live, remains.readable, remains.unknown), (0, 0, 0)),
            *_differ("key groups", groups, ("billing", "index")),
            *_differ("the last leaf", leaves[-1:], [bytes.fromhex(done.leaf or "")]),
            *_differ("leaves", (len(set(leaves)), len(leaves)), (2, 2)),
            *_differ("audit log", audit.faults, ()),
            *_differ("unfinished", await it.erasure().unfinished(), 0),
            *_differ("identity", it.subjects.find(ADA).status, IdentityStatus.ERASED),
            *_differ("taken again", (again.accepted + again.duplicates, again.refused), (5, 6)),
            *_differ("of 8", (await _counts(it, "8")).get("video.played.v1"), 2),
        ]


class Handing(OnHome):
    """The hand-over of a receipt: its salt is destroyed here, once the person has it."""

    name = "hand-over"

    async def prepare(self, it: TestHome) -> None:
        """Erase one of two people."""
        await it.take(LINES, consents=(PURPOSE,))
        (done,) = await it.erasure().erase(it.subjects.find(ADA).refs)
        self._file(it).write_bytes(msgspec.json.encode({"receipt": msgspec.Raw(done.receipt or b"")}))

    async def act(self, it: TestHome) -> None:
        """Say that the person has the file."""
        await self._hand_over(it)

    async def _hand_over(self, it: TestHome) -> ErasureStatus:
        return await bootstrap.erasure_care_of(it.runtime).hand_over(self._file(it).read_bytes())

    def _file(self, it: TestHome) -> Path:
        """Return where the person's copy lies: beside the home."""
        return it.runtime.settings.home.parent / "receipt.json"

    async def claims(self, it: TestHome) -> list[str]:
        """No receipt is given again, none was made beside it, and the leaf is proven as before."""
        person, again = it.subjects.find(ADA), await self._hand_over(it)
        (done,) = await it.erasure().erase(person.refs)
        proof = await it.audit().prove(bytes.fromhex(done.leaf or ""))
        return [
            *_differ(
                "handed over", (again.is_handed_over, done.is_handed_over, done.receipt), (True, True, None)
            ),
            *_differ("leaf", (done.leaf, len(await it.leaves())), (again.leaf, 1)),
            *_differ("proof", type(proof), Proof),
        ]


class Linking(OnHome):
    """A line that joins somebody to an erased person: they are erased by the same request."""

    name = "linked-erasure"

    async def prepare(self, it: TestHome) -> None:
        """Erase ada while nick is somebody else."""
        await it.take([*LINES, played("nick", event="n1")], consents=(PURPOSE,))
        await it.erasure().erase(it.subjects.find(ADA).refs)

    async def act(self, it: TestHome) -> None:
        """Take the line, and run what it left to do."""
        await it.take([played("7", "nick", event="n2")])
        await it.erasure().resume()

    async def claims(self, it: TestHome) -> list[str]:
        """Nick is erased, and nothing is left to do."""
        nick = it.subjects.find("openedx:username:nick")
        again = await it.take([played("nick", event="n3")])
        return [
            *_differ("identity", nick.status, IdentityStatus.ERASED),
            *_differ("unfinished", await it.erasure().unfinished(), 0),
            *_differ("accepted again", again.reasons, {"subject_erased": 1}),
        ]


class Returning(OnHome):
    """The authenticated return of an erased person, and a first line of theirs."""

    name = "return"

    async def prepare(self, it: TestHome) -> None:
        """Erase a person."""
        await it.take(LINES, consents=(PURPOSE,))
        await it.erasure().erase(it.subjects.find(ADA).refs)

    async def act(self, it: TestHome) -> None:
        """Reopen the person, unless that was done already."""
        try:
            await it.runtime.passes.settle(await it.subjects.return_(ADA))
        except RefusedByPolicy as refused:
            if refused.refusal is not Refusal.NOT_ERASED:
                raise

    async def claims(self, it: TestHome) -> list[str]:
        """A new reference takes what happens from now on, and nothing else."""
        before = (await _counts(it, "7")).get("video.played.v1", 0)
        later = it.runtime.clock.now() + timedelta(seconds=2)
        summary = await it.take([*LINES, played("7", event=later.isoformat(), at=later)])
        return [
            *_differ("accepted", (summary.accepted, summary.reasons.get("before_subject")), (1, 6)),
            *_differ("seen", await _counts(it, "7"), {"video.played.v1": before + 1}),
        ]


class Releasing(OnHome):
    """The seal of a window in every partition, the draw, the charge and the public copy."""

    name = "release"

    async def prepare(self, it: TestHome) -> None:
        """Add the course to the catalogue."""
        await super().prepare(it)
        await it.runtime.registrar.add_courses([COURSE])

    async def act(self, it: TestHome) -> None:
        """Seal the day of the lines."""
        await self._seal(it)

    async def _seal(self, it: TestHome) -> tuple[int, tuple[str, ...]]:
        until = (RECENT + timedelta(days=1)).replace(hour=0, minute=0, second=0)
        release = await bootstrap.release_of(it.runtime)
        report = await release.seal("course_views_daily", until=until, since=RECENT.date(), is_early=True)
        return len(report.released), report.already_released

    async def claims(self, it: TestHome) -> list[str]:
        """The window is released and stays as it is."""
        release = await bootstrap.release_of(it.runtime)
        before = await release.show("course_views_daily")
        again = await self._seal(it)
        after = await release.show("course_views_daily")
        return [
            *_differ("released again", again, (0, (f"{RECENT:%Y-%m-%d}",))),
            *_differ("rows", (len(before.rows), after.rows), (1, before.rows)),
        ]


class Rolling(OnHome):
    """A final roll of the keystore's epoch after an erasure."""

    name = "key-roll"

    async def prepare(self, it: TestHome) -> None:
        """Erase one of two people."""
        await it.take(LINES, consents=(PURPOSE,))
        await it.erasure().erase(it.subjects.find(ADA).refs)

    async def act(self, it: TestHome) -> None:
        """Roll, destroy what was before, and say that the erasure is final."""
        _care(it).roll(is_final=True)
        await bootstrap.erasure_care_of(it.runtime).finalise()

    async def claims(self, it: TestHome) -> list[str]:
        """One epoch is left; who was not erased is whole, and ingest goes on; final is said once."""
        await bootstrap.erasure_care_of(it.runtime).finalise()
        await it.runtime.passes.settle()
        erased = it.subjects.find(ADA).refs[0]
        permissions = await it.runtime.views.get(PERMISSIONS, erased)
        ended = None if permissions is None or permissions.erasure is None else permissions.erasure.state
        standing = _care(it).standing()
        destroyed = sum(epoch.shredded for epoch in standing.epochs)
        await it.take([played("8", event="after")])
        counts = await _counts(it, "8")
        keys = it.runtime.keystore.places.keys
        return [
            *_differ("final", (ended, (await it.types("ada")).count("erasure.final.v1")), ("final", 1)),
            *_differ("epochs with destroyed keys", destroyed, 0),
            *_differ("epochs", len(standing.epochs), len(list(keys.glob("epoch-*.kek")))),
            *_differ("older epochs", standing.older, ()),
            *_differ("backup", standing.backup is None, False),  # noqa: FBT003 - a value, not a flag
            *_differ("backups", [own.state for own in _care(it).backups()], ["kept"]),
            *_differ("of 8", (counts.get("video.played.v1"), counts.get(_VIEWED)), (3, 1)),
        ]


class Restoring(OnHome):
    """A restore of the keystore from before an erasure."""

    name = "key-restore"

    async def prepare(self, it: TestHome) -> None:
        """Make a backup, and erase one of two people."""
        await it.take(LINES, consents=(PURPOSE,))
        _care(it).back_up()
        await it.erasure().erase(it.subjects.find(ADA).refs)

    async def act(self, it: TestHome) -> None:
        """Restore, and look for what the log lacks."""
        (backup,) = it.runtime.keystore.places.backups.glob("*.backup")
        it.runtime.keystore.restorer.restore(backup, beside_others=True)
        await it.erasure().reconcile()

    async def claims(self, it: TestHome) -> list[str]:
        """Who was erased is, and who was not is whole."""
        remains = await remains_of(
            PersonRows(it.runtime.log), it.runtime.vault, it.subjects.find(ADA).refs[0]
        )
        counts = await _counts(it, "8")
        return [
            *_differ("identity", it.subjects.find(ADA).status, IdentityStatus.ERASED),
            *_differ("readable", (remains.readable, remains.live), (0, 0)),
            *_differ("of 8", (counts.get("video.played.v1"), counts.get(_VIEWED)), (2, 1)),
        ]


def _care(it: TestHome) -> KeyCare:
    return bootstrap.care_of(it.runtime.keystore, it.runtime.clock)


HOME_SCENARIOS: Final = (
    Ingesting, Acquiring, Withdrawing, Restricting, Retaining, Erasing, ErasingLess, Correcting, HeldErasing,
    Handing, Linking, Returning, Releasing, Rolling, Restoring,
)  # fmt: skip
"""Every scenario of a home."""
