import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from urllib.parse import parse_qs

import pytest

from privacy_ledger.adapters.formats.openedx import UNNAMED_ACTIVITY, parse
from privacy_ledger.domain.events import CourseEnrolled, UsageOther, UsagePageViewed
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed
from privacy_ledger.testing.generator import generate

START = datetime(2026, 3, 1, tzinfo=UTC)
END = START + timedelta(days=30)
LINES = 10_000


def make(*, seed: int = 7, events: int = LINES, quirks: bool) -> Iterator[bytes]:
    """Return a month of lines."""
    return generate(seed=seed, learners=300, courses=12, events=events, start=START, end=END, quirks=quirks)


def decoded(lines: list[bytes]) -> list[dict[str, object]]:
    """Return the lines that are JSON, as objects."""
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def form_of_member(event: dict[str, object]) -> str:
    """Return how the `event` member carries what it carries."""
    member = event.get("event", "absent")
    if member == "absent":
        return "absent"
    if isinstance(member, str):
        return "json" if member[:1] in {"{", "["} else "form"
    return type(member).__name__


@pytest.fixture(scope="module")
def quirky() -> list[bytes]:
    """Return odd lines, made once."""
    return list(make(quirks=True))


@pytest.fixture(scope="module")
def clean() -> list[bytes]:
    """Return well-formed lines, made once."""
    return list(make(quirks=False))


def blank_context(event: dict[str, object]) -> bool:
    """Return whether a line with a context has no user id in it."""
    context = event.get("context")
    return isinstance(context, dict) and context.get("user_id", "") == ""


def test_the_quirks_have_the_shares_of_real_logs(quirky: list[bytes]) -> None:
    """Within a fifth of what was measured in 2,543 lines."""
    events = decoded(quirky)
    forms = Counter(form_of_member(event) for event in events)
    repeats = len(events) - len({json.dumps(event) for event in events})
    n = len(events)
    measured = {
        "not JSON": ((len(quirky) - n) / len(quirky), 40 / 2543),
        "no event type": (sum("event_type" not in event for event in events) / n, 35 / 2503),
        "repeated": (repeats / n, 211 / 2503),
        "JSON in a string": (forms["json"] / n, 1884 / 2503),
        "form in a string": (forms["form"] / n, 83 / 2503),
        "object": (forms["dict"] / n, 459 / 2503),
        "list": (forms["list"] / n, 25 / 2503),
        "null": (forms["NoneType"] / n, 17 / 2503),
        "no user id": (sum(map(blank_context, events)) / n, 241 / 2503),
        "no username": (sum(event["username"] == "" for event in events) / n, 186 / 2503),
    }
    off = {
        name: (round(share, 4), round(wanted, 4))
        for name, (share, wanted) in measured.items()
        if abs(share - wanted) > 0.2 * wanted
    }
    assert not off


def test_the_same_seed_gives_the_same_bytes() -> None:
    """And another seed gives others."""
    first = list(make(events=2000, quirks=True))
    assert first == list(make(events=2000, quirks=True))
    assert first != list(make(seed=8, events=2000, quirks=True))


@pytest.mark.parametrize("quirks", [False, True])
@pytest.mark.parametrize("events", [0, 1, 7, 500])
def test_exactly_as_many_lines_as_asked_for(events: int, *, quirks: bool) -> None:
    """Whatever happens to some of them."""
    assert len(list(make(events=events, quirks=quirks))) == events


def test_clean_lines_all_name_their_person(clean: list[bytes]) -> None:
    """Nothing refused, nothing unattributed, nothing repeated, both shapes."""
    results = [parse(line) for line in clean]
    assert not [r for r in results if not isinstance(r, Parsed) or len(r.people) != 1]
    assert len(set(clean)) == len(clean)
    assert {b'"name":' in line for line in clean} == {True, False}


def test_clean_lines_are_in_time_order_within_the_span(clean: list[bytes]) -> None:
    """As a platform writes them."""
    times = [r.occurred_at for line in clean if isinstance(r := parse(line), Parsed)]
    assert all(a <= b for a, b in pairwise(times))
    assert START <= times[0] <= times[-1] <= END


def test_a_learner_enrols_before_anything_else(clean: list[bytes]) -> None:
    """The first fact of a person in a course is the enrolment."""
    enrolled = set()
    for line in clean:
        result = parse(line)
        assert isinstance(result, Parsed)
        person = result.people[0]
        fact = person.facts[0]
        who = (person.identities[0].value, getattr(fact, "course", None))
        assert isinstance(fact, CourseEnrolled) == (who not in enrolled)
        enrolled.add(who)


def test_people_and_courses_are_skewed_and_pages_are_viewed(clean: list[bytes]) -> None:
    """The busiest tenth does most; course views have something to count."""
    people: Counter[str] = Counter()
    views: Counter[str | None] = Counter()
    for line in clean:
        result = parse(line)
        assert isinstance(result, Parsed)
        people[result.people[0].identities[0].value] += 1
        fact = result.people[0].facts[0]
        if isinstance(fact, UsagePageViewed):
            views[fact.course] += 1
    assert sum(count for _, count in people.most_common(30)) > LINES / 3
    assert views.total() > LINES / 10
    assert None not in views
    assert max(views.values()) > 3 * min(views.values())


def test_quirky_lines_are_facts_or_have_a_reason(quirky: list[bytes]) -> None:
    """Every reason is one that such a line deserves, and some events are about two people."""
    results = [parse(line) for line in quirky if line]
    refused = Counter(r for r in results if isinstance(r, Refusal))
    assert set(refused) == {Refusal.NOT_JSON}
    parsed = [r for r in results if isinstance(r, Parsed)]
    facts = [fact for r in parsed for person in r.people for fact in person.facts]
    assert any(isinstance(fact, UsageOther) and fact.action == UNNAMED_ACTIVITY for fact in facts)
    assert any(r.is_joint for r in parsed)
    assert any(not r.people and r.anonymous for r in parsed)


def test_everybody_is_made_up(quirky: list[bytes]) -> None:
    """Addresses end in example.com, and hosts are from the documentation ranges."""
    for event in decoded(quirky):
        assert str(event["username"]) in {"", "staff-0001"} or str(event["username"])[:8] == "learner-"
        assert str(event.get("ip", "203.0.113.")).startswith("203.0.113.")
        page = str(event.get("page") or "")
        for address in parse_qs(page.partition("?")[2]).get("email", []):
            assert address.endswith("@example.com")
