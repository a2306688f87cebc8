"""Parked people at the command line: seen by nobody's name, planned before anything is done."""

import json

from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import SubjectRef
from tests.cli.cli import PURPOSE, Cli, played, ref_of, rows_about, subject, viewed
from tests.unit.home import unreadable

EMAIL = "ada.lovelace@example.com"


async def _park(cli: Cli, who: int) -> SubjectRef:
    """Append a record of a person that nobody can read, and one behind it."""
    cli.ingest([viewed(who, number=1)], "--default-consent", PURPOSE)
    async with cli.opened() as runtime:
        ref = ref_of(runtime, who)
        await runtime.log.append(
            LEDGER_EVENTS, (unreadable(await rows_about(runtime, ref), ref, runtime.ids),)
        )
    cli.ingest([played(who, number=2, name=EMAIL)])
    return ref


async def test_a_parked_person_is_listed_planned_and_goes_on(used: Cli) -> None:
    """By pass, offset and reason; a restriction says that it waits, and is in force when they go on."""
    await _park(used, 7)
    listed = used.run("dlq", "list")
    names = [one["entry"] for one in listed.document["parked"]]
    shown = used.run("dlq", "show", names[0])
    waits = used.run("restrict", subject(7), "--ground", "accuracy")
    withdrawn = used.run("consent", "withdraw", subject(7), PURPOSE)
    planned = used.run("dlq", "redrive", "--all")
    in_vain = used.run("dlq", "redrive", "--all", "--yes")
    kept = used.run("dlq", "discard", *names)
    gone = used.run("dlq", "discard", *names, "--yes")
    seen = used.run("subject", "show", subject(7)).document["references"]
    assert {one["pass_name"] for one in listed.document["parked"]} == {"core", "analytics"}
    assert {one["reason"] for one in listed.document["parked"]} == {"unknown_key"}
    assert (waits.code, waits.document) == (5, {"recorded": True, "in_force": False})
    assert withdrawn.code == 5
    assert (planned.code, planned.document["done"], in_vain.code) == (3, False, 5)
    assert (kept.code, gone.code) == (3, 0)
    assert [one["is_restricted"] for one in seen] == [True]
    assert used.run("dlq", "list").document["parked"] == []
    assert used.run("restrict", subject(7), "--ground", "accuracy").code == 0
    said = "".join(r.out + r.err for r in (listed, shown, waits, planned, in_vain, kept, gone))
    assert EMAIL not in said
    assert subject(7) not in said


async def test_what_names_nothing_is_a_usage_error(used: Cli) -> None:
    """Also both of the two ways to choose, and a refused line to be taken up again."""
    used.ingest([b"{not json"])
    (line,) = used.run("dlq", "list").document["entries"]
    assert used.run("dlq", "redrive").code == 2
    assert used.run("dlq", "redrive", "--all", "core/0/1").code == 2
    assert used.run("dlq", "redrive", line).code == 2
    unknown = used.run("dlq", "show", "core/0/4711")
    assert unknown.code != 0
    assert json.loads(unknown.out)["error"]
