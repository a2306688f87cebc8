"""Checks the receipt of an erasure, offline. This one file is all that is needed.

    python receipt_verifier.py RECEIPT.json [VERIFIER_KEY]

It needs Python 3.9 or later and the package `cryptography`. It checks three things: that the
receipt is the one whose hash lies in the ledger's audit log; that the log which contains it has
the size and root that its checkpoint says; and that the checkpoint was signed by the ledger's key.
Give the ledger's published VERIFIER_KEY: without it the key inside the file is used, and the file
could have been made by anybody.

What it cannot show: that no other copy of a key or of data exists. It proves what the ledger
claimed, and that the claim cannot be withdrawn or changed unseen (RFC 9162; C2SP signed-note).
"""

from __future__ import annotations

import hashlib
import json
import sys
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["Refused", "main", "verify"]


class Refused(Exception):
    """The file does not prove what it claims; the text says which check failed."""


def verify(document: bytes, key: str | None = None) -> tuple[dict[str, Any], int, str]:
    """Return (receipt, log size, name of the signing key), or raise `Refused`.

    `document`: the bytes of a receipt file; `key`: the ledger's published verifier key.
    """
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - said plainly where it is missing
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        bundle = json.loads(document)
        receipt, proof = bundle["receipt"], bundle["proof"]
        index, note = proof["index"], proof["checkpoint"]
        path = [bytes.fromhex(part) for part in proof["path"]]
        body, _, signatures = note.partition("\n\n")
        origin, size_text, root_text = body.split("\n")
        size, root = int(size_text), b64decode(root_text, validate=True)
        name, key_id, public = _key(proof["verifier_key"] if key is None else key)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Refused("This is no receipt file.") from None
    leaf = _hash(b"\x00", json.dumps(
        receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode())  # fmt: skip
    if type(index) is not int or _root(leaf, index, size, path) != root:
        raise Refused("The receipt is not in the log that the checkpoint describes.")
    if origin != name:
        raise Refused("The checkpoint is of another log than the key.")
    for line in signatures.split("\n"):
        sign, _, encoded = line.removeprefix("\u2014 ").partition(" ")
        try:
            raw = b64decode(encoded, validate=True)
            if sign != name or raw[:4] != key_id:
                continue
            Ed25519PublicKey.from_public_bytes(public).verify(raw[4:], (body + "\n").encode())
        except (ValueError, InvalidSignature):
            continue
        return receipt, size, name
    raise Refused("The checkpoint is not signed by this key.")


def _key(text: str) -> tuple[str, bytes, bytes]:
    """Return name, key id and public key of a published verifier key."""
    name, key_id, encoded = text.split("+", 2)
    raw = b64decode(encoded, validate=True)
    wanted = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
    if raw[:1] != b"\x01" or len(raw) != 33 or bytes.fromhex(key_id) != wanted:  # noqa: PLR2004 - Ed25519
        raise ValueError("no key")
    return name, wanted, raw[1:]


def _root(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that the path leads to (RFC 9162, section 2.1.3.2), or None."""
    if not 0 <= index < size:
        return None
    here, last, found = index, size - 1, leaf
    for part in path:
        if last == 0 or len(part) != 32:  # noqa: PLR2004 - SHA-256
            return None
        if here & 1 or here == last:
            found = _hash(b"\x01", part + found)
            while here and not here & 1:
                here, last = here >> 1, last >> 1
        else:
            found = _hash(b"\x01", found + part)
        here, last = here >> 1, last >> 1
    return found if last == 0 else None


def _hash(prefix: bytes, content: bytes) -> bytes:
    return hashlib.sha256(prefix + content).digest()


def main(arguments: Sequence[str]) -> int:
    """Print what was found; return 0 when everything holds, 1 when not, 2 for wrong usage."""
    if len(arguments) not in {1, 2}:
        sys.stderr.write(__doc__)
        return 2
    key = arguments[1] if len(arguments) > 1 else None
    try:
        receipt, size, name = verify(Path(arguments[0]).read_bytes(), key)
    except OSError:
        sys.stderr.write("The file cannot be read.\n")
        return 2
    except Refused as refusal:
        sys.stdout.write("NOT VERIFIED: " + str(refusal) + "\n")
        return 1
    sys.stdout.write(
        "Verified: the receipt is in the log of " + name + ", which has " + str(size) + " leaves.\n"
    )
    if key is None:
        sys.stdout.write("The key came with the file: compare it with the one that the ledger publishes.\n")
    for store in receipt["stores"]:
        count = "not counted" if store["count"] is None else store["count"]
        sys.stdout.write("  {:>11}  {outcome:<14} {store}\n".format(count, **store))
        if store["outcome"] == "retained":
            until = str(store.get("until") or "a hold is lifted")
            sys.stdout.write("            kept: " + store.get("ground", "by law") + ", until " + until + "\n")
        elif "ground" in store:
            sys.stdout.write("            " + store["ground"] + "\n")
    for item in receipt.get("retained", ()):
        until = str(item.get("until") or "a hold is lifted")
        sys.stdout.write(
            "   NOT ERASED: {records} {category} ({ground}), until ".format(**item) + until + "\n"
        )
    for item in receipt.get("due", ()):
        why = ": " + item["why"] if "why" in item else ""
        sys.stdout.write("  {outcome:<14} {category}, before {until}".format(**item) + why + "\n")
    for line in (*receipt["later"], *receipt["not_reached"]):
        sys.stdout.write("  note: " + line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
