"""Yesterday's keystore and yesterday's log, restored after an erasure: nobody comes back."""

import shutil
from pathlib import Path

import pytest

from privacy_ledger import bootstrap
from privacy_ledger.app._evidence import PersonRows, remains_of
from privacy_ledger.domain.errors import HomeUnusable
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import IdentityStatus
from privacy_ledger.streams import progress, subject_view
from privacy_ledger.streams.states import PERMISSIONS
from tests.unit.home import TestHome, home, played, registered, settings

ADA = "openedx:username:ada"
EMAIL = "ada-who-is-made-up@example.com"
LINES = [
    registered("7", "ada", event="r1", email=EMAIL),
    *(played("7", event=f"a{n}") for n in range(5)),
    *(played("8", event=f"b{n}") for n in range(5)),
]


async def readable(it: TestHome, ref: SubjectRef) -> tuple[int, object, object]:
    """Return how many records of a person open, and what the views answer."""
    r = it.runtime
    remains = await remains_of(PersonRows(r.log), r.vault, ref)
    assert remains.unknown == 0
    return (
        remains.readable,
        await r.views.get(progress.TABLE, ref),
        await r.views.get(subject_view.TABLE, ref),
    )


async def erased_after_a_backup(folder: Path) -> tuple[SubjectRef, SubjectRef, Path]:
    """Let a person be erased after home and keystore were backed up; restore the home's log."""
    async with home(folder) as it:
        await it.take(LINES)
        ada, other = it.ref("7"), it.ref("8")
        care = bootstrap.care_of(it.runtime.keystore, it.runtime.clock)
        backup = it.runtime.keystore.places.backups / care.back_up().name
        assert (await readable(it, ada))[0] == len(LINES) - 5
    kept = folder / "yesterday"
    shutil.copytree(folder / "home", kept)
    async with home(folder) as it:
        (done,) = await it.erasure().erase(it.subjects.find(ADA).refs)
        assert done.is_completed
    for path in (folder / "home").glob("ledger.db*"):
        path.unlink()
    for path in kept.glob("ledger.db*"):
        shutil.copy2(path, folder / "home" / path.name)
    return ada, other, backup


@pytest.mark.parametrize("means", ["command", "copy"])
async def test_a_restored_keystore_and_log_read_nobody_who_was_erased(tmp_path: Path, means: str) -> None:
    """Restored by the command, or by hand as a copied file: 0 readable, and the others are whole."""
    ada, other, backup = await erased_after_a_backup(tmp_path)
    if means == "command":
        restored = bootstrap.restorer_for(settings(tmp_path)).restore(backup)
        assert restored.applied > 0
    else:
        for path in (tmp_path / "home").glob("keystore.db*"):
            path.unlink()
        for path in (tmp_path / "yesterday").glob("keystore.db*"):
            shutil.copy2(path, tmp_path / "home" / path.name)
    async with home(tmp_path) as it:
        assert await readable(it, ada) == (0, None, None)
        assert (await readable(it, other))[0] == 5
        assert it.subjects.find(ADA).status is IdentityStatus.ERASED
        again = await it.take(LINES)
        assert again.reasons["subject_erased"] == 6


async def test_a_restored_log_learns_again_who_was_erased(tmp_path: Path) -> None:
    """The request is appended anew, carried out and proved; asked once more, nobody is missing."""
    ada, _, backup = await erased_after_a_backup(tmp_path)
    bootstrap.restorer_for(settings(tmp_path)).restore(backup)
    async with home(tmp_path) as it:
        (done,) = await it.erasure().reconcile()
        permissions = await it.runtime.views.get(PERMISSIONS, ada)
        remains = await remains_of(PersonRows(it.runtime.log), it.runtime.vault, ada)
        assert (done.ref, done.is_completed) == (ada, True)
        assert permissions is not None
        assert permissions.is_ended
        assert (remains.live, remains.readable) == (0, 0)
        assert await it.erasure().reconcile() == ()


async def test_an_erasure_of_less_is_no_request_for_the_person(tmp_path: Path) -> None:
    """A restored log that knows of an erased category alone learns again who was erased."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        ada = it.ref("7")
        less = bootstrap.scope_erasure_of(it.runtime, wait_s=5.0)
        await less.erase_scope(it.subjects.scopes(ADA, "category", "patterns"))
        it.runtime.vault.end(ada, now=it.runtime.clock.now())
        (done,) = await it.erasure().reconcile()
        assert (done.ref, done.is_completed) == (ada, True)


async def test_a_keystore_is_not_restored_while_somebody_holds_keys(tmp_path: Path) -> None:
    """What a running process seals under a key that is lost could be read by nobody."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        backup = bootstrap.care_of(it.runtime.keystore, it.runtime.clock).back_up()
        path = it.runtime.keystore.places.backups / backup.name
        with pytest.raises(HomeUnusable, match="processes hold keys"):
            bootstrap.restorer_for(settings(tmp_path)).restore(path)
        assert (await readable(it, it.ref("7")))[0] == 6


async def test_no_file_of_backups_and_keys_holds_a_value(tmp_path: Path) -> None:
    """Neither backup nor record nor journal names anybody."""
    async with home(tmp_path) as it:
        await it.take(LINES)
        ref = it.ref("7")
        care = bootstrap.care_of(it.runtime.keystore, it.runtime.clock)
        care.roll(is_final=True)
        folders = (it.runtime.keystore.places.backups, it.runtime.keystore.places.keys)
    content = b"".join(path.read_bytes() for folder in folders for path in folder.iterdir())
    record = (folders[1] / "keyring.ndjson").read_bytes()
    assert EMAIL.encode() not in content
    assert [name for name in (bytes(ref), ref.hex().encode()) if name in record] == []
