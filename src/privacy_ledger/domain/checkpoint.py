"""What the audit log says of itself: its size and root, as text that is signed.

Formats: C2SP `tlog-checkpoint` and `signed-note`, with Ed25519 keys (signature type 1).
"""

import binascii
import hashlib
from base64 import b64decode, b64encode
from typing import Final

from msgspec import Struct

from privacy_ledger.domain.merkle import HASH_BYTES

__all__ = ["Checkpoint", "Note", "Signature", "key_id", "parse_note", "signed_note", "verifier_key"]

_ED25519: Final = b"\x01"
_KEY_ID_BYTES: Final = 4
_DASH: Final = "— "
_LINES_MIN: Final = 3


class Checkpoint(Struct, frozen=True, kw_only=True):
    """The state of the log `origin` when it had `size` leaves."""

    origin: str
    size: int
    root: bytes

    def body(self) -> str:
        """Return the text that is signed; it ends with a newline."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"


class Signature(Struct, frozen=True, kw_only=True):
    """One signature line: the key's name, the first bytes of its hash, and the signature."""

    name: str
    key_id: bytes
    signature: bytes


class Note(Struct, frozen=True, kw_only=True):
    """A signed checkpoint; nothing is checked about its signatures yet."""

    checkpoint: Checkpoint
    body: str
    signatures: tuple[Signature, ...]


def key_id(name: str, public: bytes) -> bytes:
    """Return the four bytes by which a signature names an Ed25519 key."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:_KEY_ID_BYTES]


def verifier_key(name: str, public: bytes) -> str:
    """Return the key as it is published: name, key id, and the public key."""
    return f"{name}+{key_id(name, public).hex()}+{b64encode(_ED25519 + public).decode()}"


def signed_note(checkpoint: Checkpoint, signature: Signature) -> str:
    """Return the checkpoint with its signature."""
    line = b64encode(signature.key_id + signature.signature).decode()
    return f"{checkpoint.body()}\n{_DASH}{signature.name} {line}\n"


def parse_note(text: str) -> Note:
    """Return what a signed note says.

    Raises:
        ValueError: it is none; the text is not quoted.
    """
    body, gap, tail = text.partition("\n\n")
    lines = body.split("\n")
    if not gap or len(lines) < _LINES_MIN or not tail.endswith("\n"):
        raise ValueError("This is no signed checkpoint.")
    try:
        size, root = int(lines[1]), b64decode(lines[2], validate=True)
        signatures = tuple(_signature(line) for line in tail[:-1].split("\n"))
    except (ValueError, binascii.Error):
        raise ValueError("This is no signed checkpoint.") from None
    if str(size) != lines[1] or len(root) != HASH_BYTES or not lines[0]:
        raise ValueError("This is no signed checkpoint.")
    checkpoint = Checkpoint(origin=lines[0], size=size, root=root)
    return Note(checkpoint=checkpoint, body=body + "\n", signatures=signatures)


def _signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not name:
        raise ValueError
    raw = b64decode(encoded, validate=True)
    return Signature(name=name, key_id=raw[:_KEY_ID_BYTES], signature=raw[_KEY_ID_BYTES:])
