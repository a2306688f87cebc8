"""Privacy signals through the command: what they change, and for whom they wait."""

import json
from datetime import timedelta
from typing import Any, Final

from tests.cli.cli import (
    COURSE,
    NOW,
    PURPOSE,
    RECENT,
    Cli,
    adds_up,
    encoded,
    event,
    parts_of,
    subject,
    viewed,
)

Members = dict[str, Any]

NOTICE: Final = "platform-privacy-policy.v1"
SESSION: Final = "c0ffee00c0ffee00deadbeef77"


def sent(cli: Cli, *lines: Members, words: tuple[str, ...] = ()) -> Members:
    """Ingest signals of person 1, and return the summary."""
    base = {"subject": subject(1), "occurred_at": RECENT.isoformat()}
    stdin = "\n".join(json.dumps({**base, **line}) for line in lines).encode()
    document = cli.run("ingest", "-", "--format", "signals", *words, stdin=stdin).document
    assert adds_up(document)
    return document


def consents(cli: Cli) -> set[str]:
    """Return the consents of person 1 that are in force."""
    return set(cli.run("consent", "show", subject(1)).document["consents"])


def test_a_choice_grants_and_withdraws_and_a_signal_grants_nothing(used: Cli) -> None:
    """No page view is taken before the choice, nor after it was taken back."""
    before = used.ingest([viewed(1, number=1)]).document
    signal = sent(used, {"gpc": "1"}, {"gpp": "DBABTA~1YNN"}, {"gpp": "DBABTA~1YYN"})
    untouched = consents(used)
    granted = sent(used, {"choice": {"source": "banner", "performance": True, "notice": NOTICE}})
    between = (consents(used), used.ingest([viewed(1, number=2)]).document)
    refused = sent(
        used, {"choice": {"source": "banner", "performance": False}, "occurred_at": NOW.isoformat()}
    )
    after = (consents(used), used.ingest([viewed(1, number=3)]).document)

    assert before["reasons"] == after[1]["reasons"] == {"consent_missing": 1}
    assert (parts_of(signal), signal["reasons"]) == ({"accepted": 2, "refused": 1}, {"unknown_event": 1})
    assert (untouched, between[0], after[0]) == (set(), {PURPOSE}, set())
    assert parts_of(granted) == parts_of(refused) == parts_of(between[1]) == {"accepted": 1}


def test_a_consent_that_comes_late_does_not_undo_a_withdrawal(used: Cli) -> None:
    """By command or in the same file; the choice is recorded, and a later one counts."""
    choice = {"source": "banner", "performance": True, "notice": NOTICE}
    refused = {"source": "banner", "performance": False}
    later = (RECENT + timedelta(hours=1)).isoformat()
    one_file = sent(used, {"choice": refused, "occurred_at": later}, {"choice": choice})
    after_file = consents(used)
    chosen = sent(used, {"choice": choice, "occurred_at": NOW.isoformat()})
    between = consents(used)
    used.run("consent", "withdraw", subject(1), PURPOSE)
    late = sent(used, {"id": "s-1", "choice": choice, "occurred_at": later})
    after_command = consents(used)
    used.run("consent", "grant", subject(1), PURPOSE)

    assert parts_of(one_file) == {"accepted": 2}
    assert parts_of(chosen) == parts_of(late) == {"accepted": 1}
    assert (after_file, between, after_command) == (set(), {PURPOSE}, set())
    assert consents(used) == {PURPOSE}


def test_a_string_without_consents_withdraws(used: Cli) -> None:
    """As a choice does; the opt-out of a person who is not known registers nobody, and is not swallowed."""
    used.run("consent", "grant", subject(1), PURPOSE)
    done = sent(used, {"gpp": "DBABMA~CPSG_8APSG_8ANwAAAENDgCgAAAAAAAAAAAAAAAAAAAA.IAAA.YAAAAAAAAAAA"})
    stranger = sent(used, {"gpc": "1", "subject": subject(777)})

    assert parts_of(done) == {"accepted": 1}
    assert consents(used) == set()
    assert (parts_of(stranger), stranger["reasons"]) == ({"refused": 1}, {"subject_unknown": 1})
    assert used.run("subject", "show", subject(777)).code == 1


def test_the_refusal_of_a_session_reaches_its_person(used: Cli) -> None:
    """When a login of the same source shows who that was."""
    used.run("consent", "grant", subject(1), PURPOSE)
    refusal = {"choice": {"source": "banner", "performance": False}, "subject": None, "session": SESSION}
    waiting = sent(used, refusal, words=("--source", "openedx"))
    login = encoded(event("edx.user.login", context={"user_id": 1}, session=SESSION))
    done = used.ingest([login]).document

    assert parts_of(waiting) == {"unattributed": 1}
    assert (parts_of(done), done["linked"]) == ({"accepted": 1}, 2)
    assert consents(used) == set()


def test_nothing_that_is_no_signal_is_kept(used: Cli) -> None:
    """Malformed strings, other values, cards; no name of a cookie leaves the line."""
    done = sent(
        used, {"gpp": f"{COURSE}"}, {"gpc": "true"}, {"gpc": "1", "note": "4111111111111111"},
        {"choice": {"source": "banner", "performance": True}},
    )  # fmt: skip
    assert done["reasons"] == {
        "signal_invalid": 1, "unknown_event": 1, "card_number": 1, "schema_mismatch": 1,
    }  # fmt: skip
