"""The rights of a person, at the command line: consent, access, restriction, export."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from privacy_ledger.domain.events import Fact
from tests.cli.cli import (
    COURSE,
    NOW,
    PURPOSE,
    RECENT,
    Cli,
    Document,
    enrolled,
    played,
    ref_of,
    registered,
    rows_about,
    subject,
    viewed,
)

TOLD: Final = (NOW - timedelta(minutes=1)).isoformat()
EMAIL: Final = "ada.lovelace@example.com"


def _shown(cli: Cli, who: int, *words: str) -> Document:
    """Return what is projected of the one reference of a person."""
    (reference,) = cli.run("subject", "show", subject(who), *words).document["references"]
    found: Document = reference
    return found


def test_a_consent_counts_until_it_is_withdrawn_and_what_only_it_allowed_goes(used: Cli) -> None:
    """A page view is refused before, taken after, and gone with the withdrawal."""
    later = (datetime.now(UTC) + timedelta(seconds=200)).isoformat()  # after the grant, whenever it is
    view = viewed(1, number=1).replace(RECENT.isoformat().encode(), later.encode())
    before = used.ingest([view])
    used.run("consent", "grant", subject(1), PURPOSE)
    after = used.ingest([view])
    counted = _shown(used, 1)["counts"]
    used.run("consent", "withdraw", subject(1), PURPOSE)
    left = _shown(used, 1)
    again = used.ingest([viewed(1, number=2).replace(RECENT.isoformat().encode(), later.encode())])
    assert before.document["reasons"] == {"consent_missing": 1}
    assert (after.code, counted["usage.page_viewed.v1"]) == (0, 1)
    assert (left["consents"], "usage.page_viewed.v1" in left["counts"]) == ({}, False)
    assert left["counts"]["course.enrolled.v1"] == 1
    assert again.document["reasons"] == {"consent_missing": 1}


def test_values_are_masked_until_they_are_revealed_for_a_reason_on_record(used: Cli) -> None:
    """The reveal itself stands in the person's export."""
    used.ingest([registered(7, name="ada-lovelace", email=EMAIL)])
    masked = used.run("subject", "show", subject(7))
    revealed = used.run("subject", "show", subject(7), "--reveal", "--reason", "ticket 4711 of the desk")
    used.run("export", subject(7), "-o", "export")
    evidence = (used.folder / "export" / "evidence.json").read_text()
    assert masked.document["references"][0]["account"] == {
        "email": "a…", "name": "a…", "username": "a…",
    }  # fmt: skip
    assert EMAIL not in masked.out + masked.err
    assert revealed.document["references"][0]["account"]["email"] == EMAIL
    assert "audit.revealed.v1" in evidence
    assert "ticket 4711 of the desk" in evidence


def test_a_lifted_restriction_leaves_the_views_as_if_there_had_been_none(used: Cli, tmp_path: Path) -> None:
    """Events are taken and unseen while it lasts; then both homes show the same."""
    lines = [played(1, number=n) for n in range(5)]
    other = used.copied(tmp_path / "other")
    other.ingest(lines)
    before = _shown(used, 1)
    used.run("restrict", subject(1), "--ground", "accuracy")
    taken = used.ingest(lines)
    held = _shown(used, 1)
    early = used.run("unrestrict", subject(1))
    lifted = used.run("unrestrict", subject(1), "--notified-at", TOLD)
    verified = used.run("replay", "verify")
    assert (taken.code, taken.document["accepted"]) == (0, 5)
    assert held == {**before, "is_restricted": True, "ground": "accuracy"}
    assert (early.code, lifted.code) == (4, 0)
    assert _shown(used, 1) == _shown(other, 1)
    assert verified.document["equal"]


async def _facts(cli: Cli, who: int) -> set[tuple[str, str]]:
    """Return what the ledger holds of a person, by a scan and the library's codec alone."""
    async with cli.opened() as runtime:
        rows = [row for row in await rows_about(runtime, ref_of(runtime, who)) if row.value is not None]
        gone = {row.key for row in await rows_about(runtime, ref_of(runtime, who)) if row.value is None}
        records = runtime.codec.decode([row for row in rows if row.key not in gone])
        facts = [record for record in records if isinstance(record.body, Fact)]
        return {(fact.type, fact.occurred_at.isoformat()) for fact in facts}


async def test_an_export_equals_an_independent_scan_and_its_manifest(used: Cli) -> None:
    """The same facts, every file as the manifest says, and nothing of anybody else."""
    mine = [registered(7, name="ada-lovelace", email=EMAIL), *(played(7, number=n) for n in range(20))]
    used.ingest([*mine, viewed(7), *(played(8, number=n) for n in range(5))], "--default-consent", PURPOSE)
    used.run("restrict", subject(7), "--ground", "claims")
    used.ingest([played(7, number=99, at=RECENT - timedelta(hours=3))])
    result = used.run("export", subject(7), "-o", "export")
    folder = used.folder / "export"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    found = [
        record
        for file in manifest["files"]
        if file["path"] != "rights.json"
        for record in json.loads((folder / file["path"]).read_bytes())
    ]
    scanned = await _facts(used, 7)
    assert {(record["type"], record["occurred_at"].replace("Z", "+00:00")) for record in found} == scanned
    assert (result.code, len(found), manifest["unreadable"]) == (0, manifest["records"], 0)
    assert result.document["manifest"] == manifest
    for file in manifest["files"]:
        content = (folder / file["path"]).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (file["sha256"], file["bytes"])
        assert (folder / file["path"]).stat().st_mode & 0o077 == 0
    assert "video_99" in (folder / "patterns.json").read_text()


def test_an_export_goes_to_an_empty_folder_only(used: Cli) -> None:
    """What lies there stays as it is."""
    folder = used.folder / "mine"
    folder.mkdir()
    (folder / "letter.txt").write_text("mine")
    refused = used.run("export", subject(1), "-o", folder)
    assert (refused.code, refused.says("not empty", "-o")) == (1, True)
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]


def test_a_person_of_two_ids_is_one_person(used: Cli) -> None:
    """A line that holds both joins them: each id shows the same, and one request reaches both."""
    used.ingest([enrolled(5, name="eve-example")])
    by_name = used.run("subject", "show", "openedx:username:eve-example")
    by_number = used.run("subject", "show", subject(5))
    erased = used.run("erase", "openedx:username:eve-example", "--yes")
    assert by_name.document == by_number.document
    assert COURSE in by_name.document["references"][0]["courses"]
    assert (erased.code, used.run("subject", "show", subject(5)).document["status"]) == (0, "erased")
