"""`audit` and `receipt`: what the ledger claimed about erasures, and how anyone checks it."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import click
import msgspec

from privacy_ledger import receipt_verifier
from privacy_ledger.app.erasure import ErasureOutcome
from privacy_ledger.bootstrap import Runtime, audit_of, erasure_care_of
from privacy_ledger.domain.errors import HomeUnusable
from privacy_ledger.interfaces.cli.shell import Exit, Shell, command

__all__ = [
    "audit",
    "audit_checkpoint",
    "audit_key",
    "audit_verify",
    "receipt",
    "receipt_files",
    "receipt_handed",
    "receipt_show",
    "receipt_status",
    "receipt_verifier_file",
    "receipt_verify",
    "register",
]

_FILE = click.Path(path_type=Path, dir_okay=False)


def register(group: click.Group) -> None:
    """Add the commands."""
    group.add_command(audit)
    group.add_command(receipt)


async def receipt_files(runtime: Runtime, outcomes: Sequence[ErasureOutcome]) -> dict[str, bytes]:
    """Return, by file name, each receipt with the proof that its hash is in the audit log."""
    log = audit_of(runtime)
    found: dict[str, bytes] = {}
    for outcome in outcomes:
        if outcome.receipt is None or outcome.leaf is None:
            continue
        proof = await log.prove(bytes.fromhex(outcome.leaf))
        bundle = {"receipt": msgspec.Raw(outcome.receipt), "proof": proof}
        found[f"receipt-{outcome.leaf[:16]}.json"] = msgspec.json.encode(bundle)
    return found


@click.group()
def audit() -> None:
    """The audit log of erasures: hashes and signed checkpoints, no personal data."""


@audit.command("verify")
@command
async def audit_verify(shell: Shell) -> int:
    """Read the whole log anew and check every leaf, signature, root and growth."""
    async with shell.open() as runtime:
        shell.announce(runtime)
        report = await audit_of(runtime).verify()
    text = f"{report.leaves} leaves under {report.checkpoints} checkpoints: "
    text += "all hold." if not report.faults else "\n".join(("NOT as it should be.", *report.faults))
    shell.result(msgspec.to_builtins(report), text)
    return Exit.FAILED if report.faults else Exit.DONE


@audit.command("key")
@command
async def audit_key(shell: Shell) -> None:
    """Print the public key under which receipts are checked: publish it where people can find it."""
    async with shell.open() as runtime:
        key = audit_of(runtime).verifier_key
    shell.result({"verifier_key": key}, key)


@audit.command("checkpoint")
@click.option("--from", "first", type=click.IntRange(min=1), metavar="SIZE", help="Prove growth from there.")
@command
async def audit_checkpoint(shell: Shell, first: int | None) -> int:
    """Print the newest signed checkpoint; --from proves that an older one is its beginning."""
    async with shell.open() as runtime:
        log = audit_of(runtime)
        note = await log.checkpoint()
        if note is None:
            raise HomeUnusable("The audit log has no leaf yet. It gets one with the first erasure.")
        try:
            proof = () if first is None else await log.consistency(first)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    shell.result({"checkpoint": note, "consistency": proof}, "\n".join((note.rstrip("\n"), *proof)))
    return Exit.DONE


@click.group()
def receipt() -> None:
    """Receipts of erasures, as the person got them."""


@receipt.command("verify")
@click.argument("file", type=_FILE)
@click.option("--key", metavar="VERIFIER_KEY", help="The key that the ledger publishes (`audit key`).")
@command
async def receipt_verify(shell: Shell, file: Path, key: str | None) -> int:
    """Check FILE offline, as the person would: no home and no broker is asked."""
    try:
        found, size, name = receipt_verifier.verify(_read(file), key)
    except receipt_verifier.Refused as refusal:
        shell.result({"verified": False, "why": str(refusal)}, f"NOT verified: {refusal}")
        return Exit.FAILED
    document = {"verified": True, "log": name, "leaves": size, "key_given": key is not None, "receipt": found}
    shell.result(document, _story(found, size, name))
    if key is None:
        shell.talk.print("The key came with the file. Compare it with the published one: --key VERIFIER_KEY.")
    return Exit.DONE


@receipt.command("show")
@click.argument("file", type=_FILE)
@command
async def receipt_show(shell: Shell, file: Path) -> None:
    """Show what FILE says; nothing is checked."""
    try:
        found = msgspec.json.decode(_read(file), type=dict[str, dict[str, object]])["receipt"]
    except (msgspec.DecodeError, KeyError):
        raise HomeUnusable(
            "This is no receipt file. Receipts are written by `erase SUBJECT -o DIR`."
        ) from None
    lines = [f"{name}: {value}" for name, value in found.items() if not isinstance(value, list | dict)]
    shell.result(found, "\n".join(lines))


@receipt.command("status")
@click.argument("file", type=_FILE)
@command
async def receipt_status(shell: Shell, file: Path) -> None:
    """Ask the ledger about the erasure of FILE: completed, or final, when no copy of a key opens."""
    async with shell.open(prepare=False) as runtime:
        shell.announce(runtime)
        found = await erasure_care_of(runtime).of_file(_read(file))
    until = f", final when epoch {found.epoch} of the keystore is destroyed" if found.final_at is None else ""
    shell.result(found, f"{found.state}{until}")


@receipt.command("handed")
@click.argument("file", type=_FILE)
@command
async def receipt_handed(shell: Shell, file: Path) -> None:
    """Say that the person has FILE: its salt is destroyed here, and its commitment opens no more.

    The ledger gives no receipt of that erasure again. It still knows which random reference has
    which leaf. Said twice, it changes nothing.
    """
    async with shell.open() as runtime:
        shell.announce(runtime)
        found = await erasure_care_of(runtime).hand_over(_read(file))
    shell.result(found, "The person has the receipt; its salt is destroyed here.")


@receipt.command("verifier")
@click.option("-o", "--output", type=_FILE, required=True, help="A new file.")
@command
async def receipt_verifier_file(shell: Shell, output: Path) -> None:
    """Write the program with which a person checks a receipt: one file, for any computer."""
    source = files("privacy_ledger").joinpath("receipt_verifier.py").read_bytes()
    try:
        with output.open("xb") as out:
            out.write(source)
    except OSError:
        raise HomeUnusable("The file cannot be written there. Choose a new file with -o.") from None
    shell.result({"written": str(output)}, f"Wrote {output}: python {output} RECEIPT.json VERIFIER_KEY")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        raise HomeUnusable("The receipt file cannot be read. Give the path of a file.") from None


def _story(found: dict[str, object], size: int, name: str) -> str:
    lines = [f"Verified: the receipt is in the log of {name}, which has {size} leaves."]
    stores = found.get("stores")
    if isinstance(stores, list):
        lines += [f"  {_counted(store):>11}  {store['outcome']:<14} {store['store']}" for store in stores]
    due = found.get("due")
    if isinstance(due, list):
        lines += [f"  {item['outcome']:<14} {item['category']}, before {item['until'][:7]}" for item in due]
    return "\n".join(lines)


def _counted(store: dict[str, object]) -> str:
    return "not counted" if store["count"] is None else str(store["count"])
