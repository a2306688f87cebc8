"""The audit log on the real embedded log, and receipts checked by the program that a person runs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from privacy_ledger import receipt_verifier
from privacy_ledger.adapters.signer import Ed25519Signer
from privacy_ledger.app.audit import AuditLog
from privacy_ledger.domain.checkpoint import parse_note, verifier_key
from privacy_ledger.domain.errors import Fenced, InvariantViolation
from privacy_ledger.domain.merkle import has_grown, leaf_hash
from privacy_ledger.domain.topics import AUDIT_LEAVES
from privacy_ledger.ports.log import NewRecord
from privacy_ledger.receipt_verifier import Refused, verify
from tests.unit.home import TestHome, home, played, registered

LEAVES = [leaf_hash(bytes([number])) for number in range(5)]
OTHER = Ed25519Signer(bytes(range(32)))
VERIFIER = Path(receipt_verifier.__file__).read_bytes()


async def test_a_leaf_is_appended_once_and_proved(tmp_path: Path) -> None:
    """Asking again changes nothing; every leaf is proved under the newest checkpoint."""
    async with home(tmp_path) as it:
        audit = it.audit()
        indices = [await audit.append(leaf) for leaf in (*LEAVES, *LEAVES)]
        rows = len(await it.rows(AUDIT_LEAVES))
        proofs = [await it.audit().prove(leaf) for leaf in LEAVES]
        report = await it.audit().verify()
    assert indices == [0, 1, 2, 3, 4] * 2
    assert rows == 10
    assert [proof.index for proof in proofs if proof is not None] == [0, 1, 2, 3, 4]
    assert (report.leaves, report.checkpoints, report.faults) == (5, 5, ())


async def test_the_log_shows_that_it_only_grew(tmp_path: Path) -> None:
    """From each older checkpoint to the newest."""
    async with home(tmp_path) as it:
        audit, notes = it.audit(), []
        for leaf in LEAVES:
            await audit.append(leaf)
            notes.append(parse_note(await audit.checkpoint() or "").checkpoint)
        grown = [
            has_grown(
                first=note.size, second=notes[-1].size, first_root=note.root, second_root=notes[-1].root,
                proof=[bytes.fromhex(part) for part in await audit.consistency(note.size)],
            )
            for note in notes
        ]  # fmt: skip
    assert grown == [True] * 5


async def test_two_who_append_at_once_leave_one_line_of_leaves(tmp_path: Path) -> None:
    """The later one fences the earlier, who reads again and goes on."""
    async with home(tmp_path) as it:
        first, second = it.audit(), it.audit()
        await first.append(LEAVES[0])
        await second.append(LEAVES[1])
        await first.append(LEAVES[2])
        report = await it.audit().verify()
    assert (report.leaves, report.faults) == (3, ())


async def test_a_leaf_without_its_checkpoint_is_covered_by_the_next_append(tmp_path: Path) -> None:
    """As an older release wrote it."""
    async with home(tmp_path) as it:
        await it.runtime.log.append(AUDIT_LEAVES, (NewRecord(0, bytes(8), LEAVES[0]),))
        before = await it.audit().prove(LEAVES[0])
        index = await it.audit().append(LEAVES[0])
        after = await it.audit().prove(LEAVES[0])
        leaves = await it.leaves()
    assert (before, index, leaves) == (None, 0, [LEAVES[0]])
    assert after is not None


Tampered = tuple[bytes, bytes]
FOREIGN: dict[str, Tampered] = {
    "a leaf out of order": ((7).to_bytes(8, "big"), LEAVES[4]),
    "a leaf that is no hash": ((2).to_bytes(8, "big"), b"short"),
    "a foreign key": (b"else", LEAVES[4]),
    "a checkpoint that is none": (b"checkpoint", b"text"),
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_what_does_not_belong_is_found_and_nothing_is_appended_to_it(tmp_path: Path, name: str) -> None:
    """A damaged log is never carried on."""
    key, value = FOREIGN[name]
    async with home(tmp_path) as it:
        for leaf in LEAVES[:2]:
            await it.audit().append(leaf)
        await it.runtime.log.append(AUDIT_LEAVES, (NewRecord(0, key, value),))
        report = await it.audit().verify()
        with pytest.raises((InvariantViolation, ValueError)):
            await it.audit().append(LEAVES[3])
    assert len(report.faults) == 1


async def test_a_checkpoint_of_another_key_is_found(tmp_path: Path) -> None:
    """Somebody who writes the topic and does not have the key."""
    async with home(tmp_path) as it:
        await it.audit().append(LEAVES[0])
        await AuditLog(it.runtime.log, OTHER).append(LEAVES[1])
        report = await it.audit().verify()
    assert [fault.split(": ")[1] for fault in report.faults] == [
        "not signed by this log's key", "of another log",
    ]  # fmt: skip


async def test_a_rewritten_history_is_found(tmp_path: Path) -> None:
    """A smaller checkpoint after a larger one, signed by the right key, is a second history."""
    async with home(tmp_path) as it:
        audit = it.audit()
        await audit.append(LEAVES[0])
        old = await audit.checkpoint() or ""
        await audit.append(LEAVES[1])
        await it.runtime.log.append(AUDIT_LEAVES, (NewRecord(0, b"checkpoint", old.encode()),))
        report = await it.audit().verify()
    assert [fault.split(": ")[1] for fault in report.faults] == ["smaller than the checkpoint before"]


async def test_one_who_is_fenced_each_time_gives_up_and_says_so(tmp_path: Path) -> None:
    """Nothing is appended."""
    async with home(tmp_path) as it:
        log = it.runtime.log

        class Contested:
            """Another writer comes between each time."""

            def __getattr__(self, name: str) -> object:
                return getattr(log, name)

            async def append_atomically(self, *_: object, **__: object) -> None:
                raise Fenced("taken")

        with pytest.raises(Fenced, match="again"):
            await it.audit(log=Contested()).append(LEAVES[0])  # type: ignore[arg-type] # passes through
        assert await it.leaves() == []


# Receipts ---------------------------------------------------------------------------------------


async def bundle_of(it: TestHome) -> bytes:
    """Erase two people and return the second one's receipt file."""
    await it.take(
        [
            registered("7", "ada", event="r1", email="ada@example.com"),
            registered("8", "bob", event="r2", email="bob@example.com"),
            played("8", event="b1"),
        ]
    )
    await it.erasure().erase(it.subjects.find("openedx:username:ada").refs)
    (done,) = await it.erasure().erase(it.subjects.find("openedx:username:bob").refs)
    proof = await it.audit().prove(bytes.fromhex(done.leaf or ""))
    return msgspec.json.encode({"receipt": msgspec.Raw(done.receipt or b""), "proof": proof})


async def test_a_real_receipt_is_verified_by_the_single_file(tmp_path: Path) -> None:
    """Run apart, as a person does: a copy of one file, with the published key and without it."""
    async with home(tmp_path) as it:
        document, key = await bundle_of(it), it.audit().verifier_key
    program, file = tmp_path / "check.py", tmp_path / "receipt.json"
    program.write_bytes(VERIFIER)
    file.write_bytes(document)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(program), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with_key, without = run(str(file), key), run(str(file))
    assert (with_key.returncode, without.returncode) == (0, 0), with_key.stderr
    assert with_key.stdout.startswith("Verified: the receipt is in the log of privacy-ledger/")
    assert "compare it" in without.stdout
    assert "compare it" not in with_key.stdout
    assert run(str(file), verifier_key(OTHER.name, OTHER.public)).returncode == 1
    assert (run().returncode, run(str(tmp_path / "none.json")).returncode) == (2, 2)


Forge = Callable[[dict[str, dict[str, object]]], object]


def put(part: str, name: str, value: object) -> Forge:
    """Return a forgery that sets one member."""

    def forge(bundle: dict[str, dict[str, object]]) -> object:
        bundle[part][name] = value
        return bundle

    return forge


def of_note(change: Callable[[str], str]) -> Forge:
    """Return a forgery of the checkpoint's text."""

    def forge(bundle: dict[str, dict[str, object]]) -> object:
        bundle["proof"]["checkpoint"] = change(str(bundle["proof"]["checkpoint"]))
        return bundle

    return forge


FORGERIES: dict[str, Forge] = {
    "another receipt id": put("receipt", "receipt", "00" * 16),
    "another commitment": put("receipt", "commitment", "00" * 32),
    "another salt": put("receipt", "salt", "00" * 16),
    "an earlier completion": put("receipt", "completed_at", "2020-01-01T00:00:00Z"),
    "another cause": put("receipt", "cause", "retention"),
    "fewer records": put("receipt", "records", {}),
    "another store list": put("receipt", "stores", []),
    "another epoch": put("receipt", "epoch", 0),
    "an older version": put("receipt", "version", 1),
    "an earlier request": put("receipt", "requested_at", "2020-01-01T00:00:00Z"),
    "no keys": put("receipt", "keys", []),
    "everything reached": put("receipt", "not_reached", []),
    "another build": put("receipt", "build", "9.9"),
    "an added claim": put("receipt", "certified", "yes"),
    "a claim left out": lambda bundle: bundle["receipt"].pop("later") and bundle,
    "another index": put("proof", "index", 0),
    "a negative index": put("proof", "index", -1),
    "an index that is no number": put("proof", "index", 1.0),
    "an empty path": put("proof", "path", []),
    "a foreign path": put("proof", "path", ["00" * 32]),
    "a longer path": put("proof", "path", ["00" * 32, "00" * 32]),
    "another size": of_note(lambda note: note.replace("\n2\n", "\n3\n", 1)),
    "another root": of_note(lambda note: note.replace(note.split("\n")[2], "A" * 43 + "=", 1)),
    "another origin": of_note(lambda note: "else" + note),
    "another signature": of_note(lambda note: note[:-10] + "AAAAAAAA=\n"),
    "no signature": of_note(lambda note: note.split("\n\n")[0] + "\n\n"),
    "no checkpoint": put("proof", "checkpoint", ""),
    "no proof": lambda bundle: {"receipt": bundle["receipt"]},
    "no receipt": lambda bundle: {"proof": bundle["proof"]},
    "no object": lambda _: [],
}


async def test_no_forged_receipt_is_accepted(tmp_path: Path) -> None:
    """Each forgery changes one thing; the untouched file is accepted."""
    async with home(tmp_path) as it:
        document, key = await bundle_of(it), it.audit().verifier_key
    verify(document, key)
    accepted = []
    for name, forge in FORGERIES.items():
        for given in (key, None):
            try:
                verify(json.dumps(forge(json.loads(document))).encode(), given)
            except Refused:
                continue
            accepted.append((name, given is None))
    assert len(FORGERIES) >= 20
    assert accepted == []
    swapped = put("proof", "verifier_key", verifier_key(OTHER.name, OTHER.public))(json.loads(document))
    with pytest.raises(Refused, match="another log"):
        verify(json.dumps(swapped).encode())


async def test_a_log_of_ones_own_needs_a_key_of_ones_own(tmp_path: Path) -> None:
    """A perfect forgery verifies only where nobody compares the key: the file says so."""
    async with home(tmp_path) as it:
        real, key = await bundle_of(it), it.audit().verifier_key
        receipt = json.loads(real)["receipt"] | {"build": "forged"}
        text = json.dumps(receipt, sort_keys=True, separators=(",", ":")).encode()
        mine = AuditLog(it.runtime.log, OTHER)
        await mine.append(leaf_hash(text))
        proof = await mine.prove(leaf_hash(text))
    forged = msgspec.json.encode({"receipt": receipt, "proof": proof})
    assert verify(forged)[2] == OTHER.name
    with pytest.raises(Refused, match="another log"):
        verify(forged, key)
