"""Erasing one of many changes nothing of anybody else: not a byte of a view, an index or an export."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from privacy_ledger import bootstrap
from privacy_ledger.app._evidence import PersonRows
from privacy_ledger.app.export import MANIFEST, Export
from privacy_ledger.domain.topics import LEDGER_EVENTS, TOPICS
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import Identity
from tests.unit.home import TestHome, home, played, registered, viewed

PEOPLE: Final = 10_000
ONE: Final = 1370
SAMPLE: Final = slice(0, None, 500)
"""Whose export is also made as the command makes it, which reads the whole partition for each person."""
PURPOSE: Final = "improve.analyse"
KEPT: Final = tuple(topic.name for topic in TOPICS if topic.name.startswith(("view.", "state.")))
Manifest = dict[str, object]
Exported = tuple[dict[str, bytes], Manifest]
Bytes = Mapping[tuple[str, int, bytes], bytes]


def lines_of(who: int) -> list[bytes]:
    """Return what a person did."""
    return [
        registered(str(who), f"name{who}", event=f"r{who}", email=f"p{who}@example.com"),
        played(str(who), event=f"p{who}", video=f"v{who % 7}"),
        viewed(str(who), event=f"w{who}"),
    ]


async def rows_of(it: TestHome, refs: frozenset[bytes]) -> Bytes:
    """Return what views and states hold now of these people, as it stands in the topics."""
    found: dict[tuple[str, int, bytes], bytes] = {}
    for topic in KEPT:
        for partition in range(it.runtime.log.partitions(topic)):
            for key, value in await it.runtime.latest.scan(topic, partition, b""):
                if any(key[at : at + 16] in refs for at in (0, 1)) or key[-16:] in refs:
                    found[topic, partition, key] = value
    return found


async def ledger_of(it: TestHome, refs: frozenset[bytes]) -> list[tuple[int, int, bytes, bytes | None]]:
    """Return every record of these people in the ledger."""
    rows = await it.rows(LEDGER_EVENTS)
    return [(row.partition, row.offset, row.key, row.value) for row in rows if row.key[:16] in refs]


async def exports_of(it: TestHome, refs: Sequence[SubjectRef]) -> list[Exported]:
    """Return everybody's export; only the time at which it was made is left out."""
    r = it.runtime
    export = Export(rows=PersonRows(r.log), codec=r.codec, clock=r.clock)
    return [exported(await export.export((ref,))) for ref in refs]


def exported(files: dict[str, bytes]) -> Exported:
    """Return the files of an export, and its manifest without its time."""
    manifest: Manifest = json.loads(files.pop(MANIFEST))
    del manifest["exported_at"]
    return files, manifest


@pytest.mark.timeout(300)
async def test_erasing_one_of_many_leaves_everybody_else_as_they_were(tmp_path: Path) -> None:
    """Byte for byte, in the ledger, in every topic that a pass keeps, and in each export."""
    async with home(tmp_path) as it:
        await it.take([line for who in range(PEOPLE) for line in lines_of(who)], consents=(PURPOSE,))
        found = it.runtime.vault.find([Identity("openedx:user_id", str(who)) for who in range(PEOPLE)])
        refs = [row.ref for row in found if row is not None]
        erased = refs.pop(ONE)
        others = frozenset[bytes](refs)
        before = await rows_of(it, others), await ledger_of(it, others), await exports_of(it, refs)
        export = bootstrap.export_of(it.runtime)
        sample = [exported(await export.export((ref,))) for ref in refs[SAMPLE]]
        (done,) = await it.erasure().erase((erased,))
        await it.runtime.passes.settle()
        after = await rows_of(it, others), await ledger_of(it, others), await exports_of(it, refs)
        left = await rows_of(it, frozenset((bytes(erased),)))
    assert done.is_completed
    assert len(refs) == PEOPLE - 1
    assert len(before[0]) > 10 * PEOPLE
    assert {topic for topic, _, _ in before[0]} == set(KEPT)
    # Sets of what differs: nobody reads ten thousand rows of a failure.
    assert [
        key for key in before[0].keys() | after[0].keys() if before[0].get(key) != after[0].get(key)
    ] == []
    assert len(set(before[1]) ^ set(after[1])) == 0
    assert [n for n, pair in enumerate(zip(before[2], after[2], strict=True)) if pair[0] != pair[1]] == []
    assert sample == before[2][SAMPLE]
    assert len(sample) == PEOPLE // 500
    assert all(len(files) > 3 for files, _ in before[2])
    assert {topic for topic, _, _ in left} <= {"view.permissions.v1", "state.core.v1", "state.analytics.v1"}
