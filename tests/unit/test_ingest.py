from datetime import timedelta
from pathlib import Path

from privacy_ledger.app.ingest import LineReport
from privacy_ledger.domain.topics import DLQ, LEDGER_UNATTRIBUTED
from privacy_ledger.streams import progress, subject_view
from tests.unit.home import COURSE, NOW, RECENT, Said, home, line, played, registered, viewed


async def test_a_line_of_a_new_person_is_registered_accepted_and_seen(tmp_path: Path) -> None:
    async with home(tmp_path) as it:
        summary = await it.take([played("7", "ada", event="e1")])
        assert (summary.read, summary.accepted) == (1, 1)
        assert await it.types("ada") == ["subject.registered.v1", "video.played.v1"]
        state = await it.runtime.views.get(progress.TABLE, it.ref("7"))
        assert state is not None
        assert progress.merge(state)[COURSE].videos["v1"].plays == 1


async def test_the_same_file_again_is_all_duplicates(tmp_path: Path) -> None:
    lines = [played("7", "ada", event=f"e{n}") for n in range(20)]
    async with home(tmp_path) as it:
        await it.take(lines)
        again = await it.take(lines)
    assert (again.accepted, again.duplicates, again.read) == (0, 20, 20)
