"""Less than a person, at the command line: a category or a field is erased, a value is corrected."""

import json
from typing import Final

import pytest

from tests.cli.cli import Cli, played, registered, subject

WRONG: Final = "ada.wrong@example.com"
RIGHT: Final = "ada.right@example.com"


def _account(cli: Cli, who: int) -> dict[str, str]:
    words = ("subject", "show", subject(who), "--reveal", "--reason", "a test")
    found: dict[str, str] = cli.run(*words).document["references"][0]["account"]
    return found


def test_a_category_is_planned_erased_and_proved(used: Cli) -> None:
    """Exit 3 with a plan, 0 with a receipt that verifies; other records stay, and so does the rest."""
    used.ingest([played(1, number=n) for n in range(3)])
    plan = used.run("erase", subject(1), "--only", "category:patterns", "--plan")
    done = used.run("erase", subject(1), "--only", "category:patterns", "--yes", "-o", "receipts")
    shown = used.run("subject", "show", subject(1)).document["references"][0]["counts"]
    again = used.ingest([played(1, number=n) for n in range(3)])
    (file,) = (used.folder / "receipts").iterdir()
    verified = used.run("receipt", "verify", file)
    status = used.run("erase", subject(1), "--status").document["erasures"]
    assert (plan.code, plan.document["records"]) == (3, {"patterns": 3})
    assert (done.code, done.document["completed"]) == (0, True)
    assert "video.played.v1" not in shown
    assert shown["course.enrolled.v1"] == 1
    assert again.document["reasons"] == {"scope_erased": 3}
    assert verified.document["receipt"]["scope"] == "category:patterns"
    assert verified.document["receipt"]["article"].startswith("GDPR Art. 17(1)")
    assert [(one["scope"], one["state"]) for one in status] == [("category:patterns", "completed")]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--only", "category:shoes", "--yes"), 4),
        (("--only", "category:evidence", "--yes"), 4),
        (("--only", "purpose:rights.fulfil", "--yes"), 4),
        (("--only", "shoes", "--yes"), 2),
        (("--only", "category:", "--yes"), 2),
        (("--only", "category:usage", "--status"), 2),
        (("--only", "category:usage"), 3),
    ],
)
def test_what_cannot_be_erased_apart_is_said(used: Cli, words: tuple[str, ...], code: int) -> None:
    """Unknown or unnamed scopes; and without a terminal or --yes there is a plan only."""
    before = used.run("subject", "show", subject(1)).document
    result = used.run("erase", subject(1), *words)
    assert result.code == code
    assert "Traceback" not in result.err
    assert used.run("subject", "show", subject(1)).document == before


def test_a_value_is_corrected_and_the_wrong_one_is_in_no_answer(used: Cli) -> None:
    """It is read from standard input; the plan changes nothing; the export tells the right one."""
    used.ingest([registered(7, name="ada", email=WRONG)])
    before = _account(used, 7)
    plan = used.run("rectify", subject(7), "account.email", "--plan")
    asked = used.run("rectify", subject(7), "account.email", "--value-file", "-", stdin=RIGHT.encode())
    same = _account(used, 7)
    done = used.run(
        "rectify", subject(7), "account.email", "--value-file", "-", "--yes", stdin=f"{RIGHT}\n".encode()
    )
    after = _account(used, 7)
    again = used.ingest([registered(7, name="ada", email=WRONG)])
    used.run("export", subject(7), "-o", "export")
    exported = b"".join(file.read_bytes() for file in (used.folder / "export").iterdir())
    assert (plan.code, plan.document) == (3, {"affected": 1, "restated": 1})
    assert (asked.code, same) == (3, before)
    assert (done.code, done.document["in_force"], done.document["readable"]) == (0, True, 0)
    assert after == {**before, "email": RIGHT}
    assert (again.document["accepted"], again.document["duplicates"]) == (0, 1)
    assert RIGHT.encode() in exported
    assert WRONG.encode() not in exported
    assert not any(value in text for value in (WRONG, RIGHT) for text in (done.out, done.err, plan.out))


def test_one_record_is_corrected_by_the_name_that_the_export_gives(used: Cli) -> None:
    """A member of another type, or one that is not there, is refused and told what there is."""
    used.run("export", subject(1), "-o", "first")
    (record,) = json.loads((used.folder / "first" / "coursework.json").read_text())
    words = ("rectify", subject(1), "coursework.mode", "--record", record["record"])
    done = used.run(*words, "--value-file", "-", "--yes", stdin=b"verified")
    used.run("export", subject(1), "-o", "second")
    (after,) = json.loads((used.folder / "second" / "coursework.json").read_text())
    gone = used.run(*words, "--value-file", "-", "--yes", stdin=b"honor")
    wrong = used.run(
        "rectify", subject(1), "coursework.shoe", "--record", after["record"], "--value-file", "-", "--yes",
        stdin=b"40",
    )  # fmt: skip
    assert (done.code, done.document["restated"]) == (0, 1)
    assert (record["fact"]["mode"], after["fact"]["mode"]) == ("audit", "verified")
    assert after["id"] == record["id"]
    assert (gone.code, wrong.code) == (2, 2)
    assert wrong.says("mode")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("account.shoe", "--clear", "--yes"), 2),
        (("coursework.mode", "--clear", "--yes"), 2),
        (("shoes", "--clear", "--yes"), 2),
        (("account.email", "--yes"), 2),
        (("account.email", "--clear", "--value-file", "-", "--yes"), 2),
        (("account.email", "--record", "xyz", "--clear", "--yes"), 2),
        (("account.email", "--clear", "--yes"), 2),
    ],
)
def test_a_correction_that_cannot_be_meant_is_refused(used: Cli, words: tuple[str, ...], code: int) -> None:
    """Nothing is written, and the message says what there is."""
    result = used.run("rectify", subject(1), *words)
    assert result.code == code
    assert "Traceback" not in result.err


def test_a_profile_field_is_erased_with_its_history(used: Cli) -> None:
    """By a command; the name of the field stands in no receipt."""
    words = ("rectify", subject(1), "profile.bio", "--value-file", "-", "--yes")
    set_ = [used.run(*words, stdin=value) for value in (b"sailor", b"sailor of seven seas")]
    done = used.run("erase", subject(1), "--only", "field:bio", "--yes")
    used.run("export", subject(1), "-o", "export")
    assert [one.code for one in set_] == [0, 0]
    assert (done.code, done.document["receipts"][0]["records"]) == (0, {"profile": 1})
    assert "bio" not in done.out
    assert not (used.folder / "export" / "profile.json").exists()


def test_a_study_is_opened_joined_and_left(used: Cli) -> None:
    """A name that is none, or no approval, is refused."""
    opened = used.run("study", "open", "study.reading", "--source", "ethics board, case 12")
    again = used.run("study", "open", "study.reading", "--source", "ethics board, case 12")
    listed = used.run("study", "list")
    joined = used.run("consent", "grant", subject(1), "study.reading")
    left = used.run("consent", "withdraw", subject(1), "study.reading")
    wrong = used.run("study", "open", "Reading", "--source", "ethics board, case 12")
    unknown = used.run("consent", "grant", subject(1), "study.listening")
    assert (opened.document["opened"], again.document["opened"]) == (True, False)
    assert listed.document == {"programmes": ["study.reading"]}
    assert (joined.code, left.code) == (0, 0)
    assert (wrong.code, unknown.code) == (2, 4)
