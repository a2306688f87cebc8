"""The export of one person, against an own decryption of the ledger."""

import hashlib
import json
from pathlib import Path

from privacy_ledger.app.export import MANIFEST, RIGHTS
from privacy_ledger.domain.events import Fact
from tests.unit.home import COURSE, Said, TestHome, home, line, played, registered

ADA = "openedx:username:ada"
LINES = [
    registered("7", "ada", event="r1", email="ada@example.com"),
    registered("8", "bob", event="r2", email="bob@example.com"),
    *(played("7", event=f"a{n}") for n in range(3)),
    line(
        Said(
            id="j1",
            people=(("7",), ("8",)),
            facts=({"type": "course.enrolled.v1", "course": COURSE},),
        )
    ),
]


async def scanned(it: TestHome, name: str) -> int:
    """Return how many sealed facts of a person the ledger holds without a tombstone."""
    ref = it.ref(name)
    rows = [row for row in await it.rows() if row.key[:16] == ref]
    gone = {row.key for row in rows if row.value is None}
    found = it.runtime.codec.decode([row for row in rows if row.key not in gone])
    return sum(isinstance(record.body, Fact) for record in found)


async def test_an_export_equals_a_scan_and_its_manifest(tmp_path: Path) -> None:
    """Every file has the hash that the manifest says, and every record is in one of them."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        files = await it.export("7")
        expected = await scanned(it, "7")
    manifest = json.loads(files[MANIFEST])
    assert set(files) == {"account.json", "patterns.json", "coursework.json", RIGHTS, MANIFEST}
    assert manifest["records"] == expected == 5
    assert {f["path"]: f["sha256"] for f in manifest["files"]} == {
        path: hashlib.sha256(content).hexdigest() for path, content in files.items() if path != MANIFEST
    }
    assert (manifest["unreadable"], manifest["erased"]) == (0, 0)


async def test_an_export_says_what_when_from_whom_and_for_what(tmp_path: Path) -> None:
    """With the producer's own id."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        (account,) = json.loads((await it.export("7"))["account.json"])
    assert account["type"] == "account.registered.v1"
    assert (account["id"], account["source"]) == ("r1", "test")
    assert account["purposes"] == ["account.manage", "comm.service", "security.protect"]
    assert account["fact"]["email"] == "ada@example.com"


async def test_an_export_holds_nothing_of_another_person(tmp_path: Path) -> None:
    """Also where one event was about both."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        whole = b"".join((await it.export("7")).values())
        other = it.ref("8")
    assert [word for word in (b"bob", other.hex().encode()) if word in whole] == []


async def test_an_export_has_what_a_restriction_holds_back(tmp_path: Path) -> None:
    """And the restriction itself."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        await it.runtime.passes.settle(await it.subjects.restrict(ADA, ground="claims"))
        await it.take([played("7", event="held")])
        files = await it.export("7")
    assert "held" in [record["id"] for record in json.loads(files["patterns.json"])]
    assert "restriction.started.v1" in [right["type"] for right in json.loads(files[RIGHTS])]


async def test_an_erased_person_has_no_records_to_export(tmp_path: Path) -> None:
    """What remains is that the erasure was asked for and done."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        await it.erasure().erase(it.subjects.find(ADA).refs)
        files = await it.export("7")
    assert set(files) == {RIGHTS, MANIFEST}
    assert json.loads(files[MANIFEST])["records"] == 0
