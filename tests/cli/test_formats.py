"""Formats at the command line: begun, tried on a file, and ingested."""

import json
from datetime import timedelta

from tests.cli.cli import NOW, Cli

SECRET = "Ada Example lives in Example Street"


def _rows() -> list[bytes]:
    at = int((NOW - timedelta(hours=1)).timestamp())
    said = [
        {"id": 1, "eventname": "course_viewed", "userid": 901},
        {
            "id": 2,
            "eventname": "user_graded",
            "userid": 901,
            "relateduserid": 902,
            "other": {"finalgrade": 8.5},
        },
        {"id": 3, "eventname": "video_played", "userid": 901, "other": {"video": "v1", "position": 3}},
        {"id": 4, "eventname": "something_else", "userid": 901},
        {"id": 5, "eventname": "course_viewed", "userid": SECRET},
    ]
    return [json.dumps({"courseid": 7, "timecreated": at, "note": SECRET, **row}).encode() for row in said]


def test_a_mapping_is_begun_tried_and_used(cli: Cli) -> None:
    """What `check` says is what `ingest` does; nothing of a line is shown, and nothing else of it kept."""
    (cli.folder / "rows.ndjson").write_bytes(b"\n".join(_rows()) + b"\n")
    begun = cli.run("formats", "new", "our-lms")
    again = cli.run("formats", "new", "our-lms")
    tried = cli.run("formats", "check", "our-lms.toml", "rows.ndjson")
    done = cli.run(
        "ingest", "rows.ndjson", "--format", "our-lms.toml", "--default-consent", "improve.analyse"
    )
    twice = cli.run("ingest", "rows.ndjson", "--format", "our-lms.toml")
    shown = cli.run("subject", "show", "lms:user_id:902").document["references"][0]["counts"]
    assert (begun.code, begun.document) == (0, {"written": "our-lms.toml"})
    assert again.code == 2
    assert tried.code == 5
    assert (tried.document["read"], tried.document["refused"]) == (5, 2)
    assert tried.document["counts"] == {
        "usage.page_viewed.v1": 1, "usage.other.v1": 1, "course.graded.v1": 1, "video.played.v1": 1,
        "unknown_event": 1, "id_invalid": 1,
    }  # fmt: skip
    assert (done.code, done.document["accepted"], done.document["refused"]) == (5, 3, 2)
    assert twice.document["duplicates"] == 3
    assert shown["course.graded.v1"] == 1
    assert all(SECRET not in one.out + one.err for one in (tried, done, twice))


def test_a_mapping_that_is_wrong_says_where_and_one_that_is_not_there(cli: Cli) -> None:
    """Before anything is opened."""
    (cli.folder / "bad.toml").write_text("format = 1\n[[event]]\n")
    (cli.folder / "rows.ndjson").write_bytes(b"{}\n")
    bad = cli.run("ingest", "rows.ndjson", "--format", "bad.toml")
    missing = cli.run("formats", "check", "none.toml", "rows.ndjson")
    unknown = cli.run("ingest", "rows.ndjson", "--format", "lms")
    assert bad.code == 2
    assert bad.says("The mapping cannot be used", "formats check")
    assert missing.code == 2
    assert unknown.code == 2


def test_formats_and_types_are_listed(cli: Cli) -> None:
    """With what must be there, and what each may serve."""
    names = [one["name"] for one in cli.run("formats", "list").document["formats"]]
    types = {one["type"]: one for one in cli.run("formats", "types").document["types"]}
    assert names == sorted(names)
    assert {"openedx", "ledger"} <= set(names)
    assert types["course.graded.v1"]["members"][0] == "course*"
    assert types["usage.page_viewed.v1"]["purposes"] == ["improve.analyse"]
