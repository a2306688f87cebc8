"""Writes `schemas/` from the events, the rules and the topics; `--release` freezes what is new."""

import hashlib
import json
import sys
from pathlib import Path

from privacy_ledger.adapters import registry
from privacy_ledger.app import catalogue

SCHEMAS = Path(__file__).parents[2] / "schemas"
RELEASED = "released.json"


def generated() -> dict[str, bytes]:
    """Return every generated file of `schemas/`, by its path there."""
    return catalogue.documents(registry.seed())


def released() -> dict[str, str]:
    """Return the SHA-256 of every frozen file of `schemas/`, by its path there."""
    frozen: dict[str, str] = json.loads((SCHEMAS / RELEASED).read_bytes())
    return frozen


def digest(document: bytes) -> str:
    """Return the SHA-256 of a document in hex."""
    return hashlib.sha256(document).hexdigest()


def write(*, release: bool) -> None:
    """Write the generated files, remove those that are no more, and freeze new ones when asked.

    A frozen entry is never changed or dropped here: that a frozen file changed is for the tests to say.
    """
    files = generated()
    for path, document in files.items():
        (SCHEMAS / path).parent.mkdir(parents=True, exist_ok=True)
        (SCHEMAS / path).write_bytes(document)
    for stale in SCHEMAS.rglob("*"):
        name = stale.relative_to(SCHEMAS).as_posix()
        if stale.is_file() and name != RELEASED and name not in files:
            stale.unlink()
    if release:
        frozen = {path: digest(document) for path, document in files.items() if "/" in path}
        frozen |= released() if (SCHEMAS / RELEASED).exists() else {}
        text = json.dumps(dict(sorted(frozen.items())), indent=2)
        (SCHEMAS / RELEASED).write_text(f"{text}\n", encoding="utf-8")
    print(f"{len(files)} files written to {SCHEMAS.name}/")


if __name__ == "__main__":
    write(release="--release" in sys.argv[1:])
