# ruff: noqa: E501 - a table reads by its rows
"""Which JSON is a statement: the conformance suite's own, and one change of a whole one a row."""

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from privacy_ledger.adapters.formats.xapi import parse
from privacy_ledger.adapters.formats.xapi_rules import VOIDED, instant_of, statement_of
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed

Members = dict[str, Any]

CONFORMANCE: Final = Path(__file__).parents[1] / "fixtures" / "xapi-conformance" / "statements.ndjson"
NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
UUID: Final = "9c5dc1fa-6a4f-4a54-9e2c-3f0d0d6ab1c7"
ADA: Final[Members] = {"mbox": "mailto:ada@example.com"}
BOB: Final[Members] = {"account": {"homePage": "https://lms.example.com", "name": "bob"}}
TEAM: Final[Members] = {"objectType": "Group", "name": "Team", "member": [ADA, BOB]}
REF: Final[Members] = {"objectType": "StatementRef", "id": UUID}
QUIZ: Final = "https://lms.example.com/quiz/7"
SUB: Final[Members] = {
    "objectType": "SubStatement", "actor": BOB, "verb": {"id": "http://adlnet.gov/expapi/verbs/attended"},
    "object": {"id": QUIZ}, "timestamp": "2031-01-01T00:00:00Z",
}  # fmt: skip
SIMPLE: Final[Members] = {
    "actor": ADA, "verb": {"id": "http://adlnet.gov/expapi/verbs/attended"}, "object": {"id": QUIZ},
}  # fmt: skip
WHOLE: Final[Members] = {
    "id": UUID,
    "actor": {"objectType": "Agent", "name": "Ada", **ADA},
    "verb": {"id": "http://adlnet.gov/expapi/verbs/answered", "display": {"en-US": "answered"}},
    "object": {
        "objectType": "Activity", "id": QUIZ,
        "definition": {
            "name": {"en": "Quiz"}, "description": {"de-AT": "Fragen"}, "moreInfo": "https://lms.example.com/7",
            "type": "http://adlnet.gov/expapi/activities/cmi.interaction", "interactionType": "choice",
            "correctResponsesPattern": ["a[,]b"], "choices": [{"id": "a", "description": {"en": "A"}}, {"id": "b"}],
            "extensions": {"https://lms.example.com/x": None},
        },
    },
    "result": {
        "score": {"scaled": 0.5, "raw": 5, "min": 0, "max": 10}, "success": True, "completion": False,
        "response": "a[,]b", "duration": "PT1M30.5S", "extensions": {"https://lms.example.com/x": [None]},
    },
    "context": {
        "registration": UUID, "instructor": BOB, "team": TEAM, "revision": "1", "platform": "LMS",
        "language": "en-GB", "statement": REF, "extensions": {"https://lms.example.com/x": {"a": None}},
        "contextActivities": {"parent": {"id": QUIZ}, "grouping": [{"id": QUIZ, "objectType": "Activity"}], "category": [], "other": []},
    },
    "timestamp": "2026-02-28T10:00:00Z", "stored": "2026-02-28T10:00:01.000Z", "version": "1.0.3", "authority": BOB,
    "attachments": [{
        "usageType": "https://lms.example.com/u", "display": {"en": "x"}, "description": {"en": "y"},
        "contentType": "text/plain; charset=ascii", "length": 27, "sha2": "0" * 64, "fileUrl": "https://lms.example.com/f",
    }],
}  # fmt: skip


def changed(path: str, value: object, *, start: Members = WHOLE) -> Members:
    """Return a statement with one member set, by a path such as `result.score.raw`; `...` takes it out."""
    root = copy.deepcopy(start)
    *parents, last = path.split(".")
    place: Any = root
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return root


def rows() -> list[Any]:
    """Return the statements of the conformance suite."""
    found = map(json.loads, CONFORMANCE.read_text(encoding="utf-8").splitlines())
    return [pytest.param(row["statement"], row["is_valid"], id=row["name"]) for row in found]


@pytest.mark.parametrize(("statement", "is_valid"), rows())
def test_the_conformance_suite_is_agreed_with(statement: Members, *, is_valid: bool) -> None:
    """All sixty: a store must take the one half and refuse the other."""
    found = parse(json.dumps(statement).encode(), received_at=NOW)

    assert isinstance(found, Parsed) is is_valid


VALID: Final[list[tuple[str, object]]] = [
    ("id", UUID.upper()),
    ("actor", {"objectType": "Agent", "mbox_sha1sum": "A" * 40}),
    ("actor", {"openid": "https://openid.example.com/ada"}),
    ("actor", {"objectType": "Group", "mbox": "mailto:team@example.com"}),
    ("actor", {"objectType": "Group", "mbox": "mailto:team@example.com", "member": [ADA]}),
    ("actor", {"objectType": "Group", "member": []}),
    ("verb", {"id": "http://example.com/xapi/verbs#defenestrated"}),
    ("verb", {"id": "http://example.com/فعل/خواندن"}),
    ("verb", {"id": "urn:example:verb:read"}),
    ("verb.display", {}),
    ("verb.display", {"zh-Hans-CN": "x", "sl-rozaj-biske": "x", "x-own": "x", "i-klingon": "x", "de-1996": "x", "und": "x", "en-a-bbb-x-c": "x", "en-GB-oed": "x"}),
    ("verb.display", dict.fromkeys(("de", "i-enochian", "ine", "zh-Hant", "zh-cmn-Hans-CN", "sr-Latn-RS", "de-CH-1901", "hy-Latn-IT-arevela", "az-Arab-x-AZE-derbend", "x-whatever", "x-a-b-a-b", "en-a-bbb-x-a-a"), "x")),
    ("context.language", "supercalifragilisticexpialidocious"),
    ("object.definition", {}),
    ("object.definition", {"interactionType": "likert", "scale": [{"id": "a"}]}),
    ("object.definition", {"interactionType": "matching", "source": [{"id": "a"}], "target": [{"id": "a"}]}),
    ("object.definition", {"interactionType": "performance", "steps": [{"id": "a"}]}),
    ("object.definition", {"interactionType": "numeric", "correctResponsesPattern": ["1[:]2"]}),
    ("result", {}),
    ("result.score", {"scaled": -1}),
    ("result.score", {"raw": -3, "min": -3}),
    ("result.duration", "P1Y2M3DT4H5M6S"),
    ("result.duration", "P0.5W"),
    ("result.duration", "PT0S"),
    ("context.contextActivities.other", {"id": QUIZ}),
    ("authority", {"objectType": "Group", "member": [BOB, ADA]}),
    ("version", "1.0"),
    ("version", "2.0.0"),
    ("attachments", []),
    ("attachments.0.fileUrl", ...),
    ("timestamp", "2026-02-28T10:00:00.123456789+0200"),
]  # fmt: skip
INVALID: Final[list[tuple[str, object]]] = [
    ("actor", ...), ("verb", ...), ("object", ...), ("verb.id", ...), ("object.id", ...),
    ("extra", 1), ("Actor", ADA), ("actor.extra", 1), ("verb.extra", 1), ("object.extra", 1), ("object.definition.extra", 1),
    ("result.extra", 1), ("result.score.extra", 1), ("context.extra", 1), ("attachments.0.extra", 1),
    ("id", None), ("actor", None), ("actor.name", None), ("result", None), ("result.success", None), ("verb.display.en", None),
    ("context", None), ("context.team", None), ("timestamp", None), ("attachments", None),
    ("id", ""), ("id", UUID[:-1]), ("id", UUID + "0"), ("id", "{" + UUID + "}"), ("id", UUID + "\n"),
    ("actor", []), ("actor", "ada"), ("actor", {}), ("actor", {"name": "Ada"}), ("actor.objectType", "agent"), ("actor.objectType", ""),
    ("actor.openid", "https://openid.example.com/ada"), ("actor.member", [ADA]), ("actor.name", 7),
    ("actor.mbox", "ada@example.com"), ("actor.mbox", "mailto:ada"), ("actor.mbox", "mailto:a b@example.com"), ("actor.mbox", "mailto:ada@example.com?cc=x y"),
    ("actor", {"mbox_sha1sum": "a" * 39}), ("actor", {"mbox_sha1sum": "g" * 40}), ("actor", {"openid": "ada"}),
    ("actor", {"account": {"homePage": "lms.example.com", "name": "ada"}}), ("actor", {"account": {"homePage": "https://lms.example.com"}}),
    ("actor", {"account": {"homePage": "https://lms.example.com", "name": 7}}), ("actor", {"account": {"homePage": "https://lms.example.com", "name": "a", "x": 1}}),
    ("actor", {"objectType": "Group"}), ("actor", {"objectType": "Group", "member": ADA}), ("actor", {"objectType": "Group", "member": [TEAM]}),
    ("actor", {"objectType": "Group", "member": [{}]}), ("actor", {"objectType": "Group", **ADA, **BOB}),
    ("verb", "answered"), ("verb.id", "answered"), ("verb.id", ""), ("verb.id", "http://example.com/a b"), ("verb.id", "http://example.com/%zz"), ("verb.id", "http:"),
    ("verb.display", "answered"), ("verb.display", {"en_US": "x"}), ("verb.display", {"de-419-DE": "x"}), ("verb.display", {"a-DE": "x"}), ("verb.display", {"ar-a-aaa-b-bbb-a-ccc": "x"}), ("verb.display", {"en" + "-a-aaa" * 20: "x"}), ("verb.display", {"": "x"}), ("verb.display", {"a12345678": "x"}), ("verb.display", {"en": 7}),
    ("object", {"objectType": "activity", "id": QUIZ}), ("object", {"objectType": "Thing", "id": QUIZ}), ("object.id", "quiz"), ("object.mbox", "mailto:ada@example.com"),
    ("object", {"objectType": "Agent"}), ("object", {"objectType": "Agent", **ADA, "id": QUIZ}), ("object", {"objectType": "Agent", **ADA, "member": []}),
    ("object", {**REF, "definition": {}}), ("object", {"objectType": "StatementRef", "id": QUIZ}), ("object", {"objectType": "StatementRef"}),
    ("object.definition", []), ("object.definition.type", "quiz"), ("object.definition.moreInfo", "quiz"), ("object.definition.extensions", {"x": 1}),
    ("object.definition.interactionType", "Choice"), ("object.definition.interactionType", ...), ("object.definition.interactionType", "likert"),
    ("object.definition.scale", [{"id": "a"}]), ("object.definition.choices", [{"id": "a"}, {"id": "a"}]), ("object.definition.choices", [{"id": ""}]),
    ("object.definition.choices", [{"id": "a", "x": 1}]), ("object.definition.choices", {"id": "a"}), ("object.definition.correctResponsesPattern", "a"), ("object.definition.correctResponsesPattern", [1]),
    ("result.score", 1), ("result.score.scaled", 1.01), ("result.score.scaled", "0.5"), ("result.score.raw", 11), ("result.score.raw", -1), ("result.score.min", 10), ("result.score.max", True),
    ("result.success", "true"), ("result.success", 1), ("result.completion", "no"), ("result.response", 7), ("result.extensions", {"x": 1}), ("result.extensions", []),
    ("result.duration", "P"), ("result.duration", "PT"), ("result.duration", "P1DT"), ("result.duration", "1H"), ("result.duration", "PT1.5H30M"), ("result.duration", "P1W2D"), ("result.duration", "PT1S\n"), ("result.duration", 7), ("result.duration", "PT1H" + "0" * 100 + "M"),
    ("context.registration", "7"), ("context.instructor", {}), ("context.team", ADA), ("context.team", {"objectType": "Group"}), ("context.language", "english_"), ("context.platform", {}),
    ("context.statement", {"id": UUID}), ("context.statement", SUB), ("context.extensions", {"a b": 1}), ("context.contextActivities", []), ("context.contextActivities.above", []),
    ("context.contextActivities.parent", QUIZ), ("context.contextActivities.parent", [{"id": "quiz"}]), ("context.contextActivities.parent", {"objectType": "Agent", **ADA}),
    ("context.contextActivities.parent", {"id": QUIZ, "definition": {"choices": []}}),
    ("authority", {"objectType": "Group", "member": [BOB]}), ("authority", {"objectType": "Group", "member": [BOB, ADA, BOB]}), ("authority", {"objectType": "Group", "mbox": "mailto:a@example.com"}), ("authority", {"objectType": "Group", "mbox": "mailto:a@example.com", "member": [BOB, ADA]}),
    ("version", "1"), ("version", "0.95"), ("version", "1.1.0"), ("version", "3.0.0"), ("version", "1.0.x"), ("version", 1.0),
    ("attachments", {}), ("attachments.0.usageType", ...), ("attachments.0.usageType", "u"), ("attachments.0.display", ...), ("attachments.0.contentType", "text"),
    ("attachments.0.length", "27"), ("attachments.0.length", -1), ("attachments.0.length", 1.5), ("attachments.0.sha2", ...), ("attachments.0.sha2", "x y"), ("attachments.0.fileUrl", "f"),
    ("timestamp", 7),
]  # fmt: skip


def test_a_whole_statement_and_a_simple_one_are_valid() -> None:
    """Every member at once, and none but those that must be."""
    assert statement_of(WHOLE) is not None
    assert statement_of(SIMPLE) is not None


@pytest.mark.parametrize(("path", "value"), VALID)
def test_a_statement_that_the_specification_allows_is_valid(path: str, value: object) -> None:
    """One change of a whole statement."""
    start = {
        **WHOLE,
        "context": {k: v for k, v in WHOLE["context"].items() if k not in {"revision", "platform"}},
    }
    assert statement_of(changed(path, value, start=start)) is not None


@pytest.mark.parametrize(("path", "value"), INVALID)
def test_a_statement_that_breaks_one_rule_is_none(path: str, value: object) -> None:
    """One change of a whole statement, and the reason is the statement itself."""
    line = json.dumps(changed(path, value)).encode()

    assert parse(line, received_at=NOW) is Refusal.SCHEMA_MISMATCH


@pytest.mark.parametrize(
    ("change", "is_valid"),
    [
        ({}, True), ({"result": {"success": True}}, True), ({"attachments": []}, True), ({"context": {"revision": "1"}}, True), ({"timestamp": "2031-01-01T00:00:00"}, True),
        ({"actor": ...}, False), ({"verb": ...}, False), ({"object": ...}, False), ({"object": SUB}, False), ({"object": REF, "context": {"platform": "x"}}, False),
        ({"id": UUID}, False), ({"stored": "2026-01-01T00:00:00Z"}, False), ({"version": "1.0.0"}, False), ({"authority": ADA}, False),
        ({"timestamp": "tomorrow"}, False), ({"timestamp": "2031-01-01T00:00:00-00:00"}, False), ({"actor": {}}, False), ({"object": {}}, False),
        ({"result": {"score": {"min": 1, "max": 1}}}, False), ({"verb": {"id": VOIDED}}, False), ({"verb": {"id": VOIDED}, "object": REF}, True),
    ],
)  # fmt: skip
def test_a_sub_statement_is_whole_and_holds_no_other(change: Members, *, is_valid: bool) -> None:
    """And it has no id, store, version or authority (2.4.4.3)."""
    sub = {key: value for key, value in {**SUB, **change}.items() if value is not ...}

    assert (statement_of({**SIMPLE, "object": sub}) is not None) is is_valid


@pytest.mark.parametrize("name", ["revision", "platform"])
@pytest.mark.parametrize("thing", [REF, SUB, {"objectType": "Agent", **BOB}, TEAM])
def test_a_revision_and_a_platform_are_of_activities_only(name: str, thing: Members) -> None:
    """2.4.6: the object is an activity."""
    assert statement_of({**SIMPLE, "object": thing}) is not None
    assert statement_of({**SIMPLE, "object": thing, "context": {name: "x"}}) is None


@pytest.mark.parametrize(
    ("context", "version", "is_valid"),
    [
        ({"contextAgents": [{"objectType": "contextAgent", "agent": ADA, "relevantTypes": ["https://example.com/t"]}]}, "2.0.0", True),
        ({"contextAgents": [{"objectType": "contextAgent", "agent": ADA}]}, None, True),
        ({"contextAgents": [{"objectType": "contextAgent", "agent": ADA}]}, "1.0.3", False),
        ({"contextAgents": [{"agent": ADA}]}, None, False),
        ({"contextAgents": [{"objectType": "contextAgent", "agent": TEAM}]}, None, False),
        ({"contextAgents": [{"objectType": "contextAgent", "agent": ADA, "relevantTypes": []}]}, None, False),
        ({"contextAgents": [{"objectType": "contextAgent", "agent": ADA, "relevantTypes": ["t"]}]}, None, False),
        ({"contextGroups": [{"objectType": "contextGroup", "group": TEAM}]}, "2.0.0", True),
        ({"contextGroups": [{"objectType": "contextGroup", "group": TEAM}]}, "1.0.0", False),
        ({"contextGroups": [{"objectType": "contextGroup", "group": ADA}]}, None, False),
    ],
)  # fmt: skip
def test_further_agents_and_groups_came_with_the_second_version(
    context: Members, version: str | None, *, is_valid: bool
) -> None:
    """IEEE 9274.1.1; a statement that says it is older may not have them."""
    said = {**SIMPLE, "context": context, **({} if version is None else {"version": version})}

    assert (statement_of(said) is not None) is is_valid


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-03-01T12:00:00Z", NOW), ("2026-03-01T13:00:00+01:00", NOW), ("2026-03-01T13:00:00+0100", NOW), ("2026-03-01t12:00:00z", NOW),
        ("2026-03-01T12:00:00+00:00", NOW), ("2026-03-01T07:00:00.000000000-05:00", NOW), ("2026-03-01 12:00:00Z", NOW),
        ("2026-03-01T12:00:00-00:00", Refusal.TIME_INVALID), ("2026-03-01T12:00:00-0000", Refusal.TIME_INVALID), ("2026-03-01T12:00:00-00", Refusal.TIME_INVALID),
        ("2026-03-01T12:00:00", Refusal.TIME_NAIVE), ("2026-03-01", Refusal.TIME_INVALID), ("", Refusal.TIME_INVALID), ("2026-02-30T12:00:00Z", Refusal.TIME_INVALID),
        ("2026-03-01T12:00:00+00:00+00:00", Refusal.TIME_INVALID), ("2026-03-01T12:00Z", Refusal.TIME_INVALID), ("2026-03-01T12:00:00Z\n", Refusal.TIME_INVALID),
    ],
)  # fmt: skip
def test_a_timestamp_is_an_instant_or_has_a_reason(text: str, instant: datetime | Refusal) -> None:
    """An offset of minus zero says that nobody knows it."""
    assert instant_of(text) == instant
