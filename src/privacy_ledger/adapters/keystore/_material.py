"""Wrapped key material: AES-256-GCM under a key-encryption key, with a commitment to the key.

Sources: NIST SP 800-38D (GCM, 96-bit random nonce), RFC 5869 (HKDF-Expand; for 32 bytes it is
one HMAC-SHA256 of `info ‖ 0x01`).
"""

import hmac
from collections.abc import Sequence
from hashlib import sha256
from struct import Struct as Packer
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy_ledger.adapters.keystore.kek import Keks
from privacy_ledger.domain.errors import InvariantViolation
from privacy_ledger.domain.keyed_hash import INNER, OUTER
from privacy_ledger.ports.runtime import Ids

__all__ = [
    "PEPPER_PLACE",
    "SECRET_BYTES",
    "WRAPPED_BYTES",
    "Wrapper",
    "commitment",
    "key_place",
    "secret_place",
]

SECRET_BYTES: Final = 32
WRAPPED_BYTES: Final = 60
"""Nonce, key and tag: every wrapped key has this length, so that zeros overwrite it in place."""

_INNER_END: Final = INNER[:1] * 32 + b"kid/v1\x01"
_OUTER_END: Final = OUTER[:1] * 32
_LENGTH: Final = Packer(">H").pack
_NUMBER: Final = Packer(">q").pack
_NONCE_BYTES: Final = 12
_DRAW_BYTES: Final = SECRET_BYTES + _NONCE_BYTES


def commitment(secret: bytes) -> bytes:
    """Return the kid of a key of 32 bytes: HKDF-Expand(SHA-256, key, "kid/v1", 32) of RFC 5869.

    HMAC is written out as RFC 2104 defines it: `hmac.digest` sets a context up for each key, and here
    every call has another one (measured: twice the time).
    """
    inner = sha256(secret.translate(INNER) + _INNER_END).digest()
    return sha256(secret.translate(OUTER) + _OUTER_END + inner).digest()


def key_place(ref: bytes, group: str, generation: int) -> bytes:
    """Return what a wrapped data key is bound to; a row's material opens in no other row."""
    return b"dek\0" + _LENGTH(len(ref)) + ref + group.encode() + _NUMBER(generation)


def secret_place(name: str) -> bytes:
    """Return what a wrapped ledger-wide secret is bound to."""
    return b"secret\0" + name.encode()


PEPPER_PLACE: Final = secret_place("\0identity-pepper")
"""Where the pepper is bound to; no caller asks for a secret of that name."""


class Wrapper:
    """Draws, wraps and unwraps 32-byte keys."""

    def __init__(self, keks: Keks, ids: Ids) -> None:
        """Take the key-encryption keys and the source of randomness."""
        self._keks = keks
        self._ids = ids
        self._ciphers: dict[int, AESGCM] = {}

    def current_epoch(self) -> int:
        """Return the epoch under which new material is wrapped."""
        return self._keks.current()[0]

    def draw(self, epoch: int, places: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Return a new random key and its wrapped form for each place, in order."""
        cipher = self._cipher(epoch)
        random = self._ids.token(_DRAW_BYTES * len(places))
        drawn: list[tuple[bytes, bytes]] = []
        for number, place in enumerate(places):
            start = number * _DRAW_BYTES
            nonce = random[start : start + _NONCE_BYTES]
            secret = random[start + _NONCE_BYTES : start + _DRAW_BYTES]
            drawn.append((secret, nonce + cipher.encrypt(nonce, secret, place)))
        return drawn

    def rewrap(self, epoch: int, held: Sequence[tuple[int, bytes, bytes]]) -> list[bytes]:
        """Return the keys of these (epoch, wrapped form, place) as wrapped under another epoch.

        Raises what `unwrap` raises.
        """
        encrypt = self._cipher(epoch).encrypt
        nonces = self._ids.token(_NONCE_BYTES * len(held))
        forms: list[bytes] = []
        at = 0
        for secret, (_, _, place) in zip(self.unwrap_all(held), held, strict=True):
            nonce = nonces[at : at + _NONCE_BYTES]
            at += _NONCE_BYTES
            forms.append(nonce + encrypt(nonce, secret, place))
        return forms

    def unwrap_all(self, held: Sequence[tuple[int, bytes, bytes]]) -> list[bytes]:
        """Return the keys of these (epoch, wrapped form, place), in order.

        Raises what `unwrap` raises.
        """
        ciphers = {epoch: self._cipher(epoch).decrypt for epoch in {epoch for epoch, _, _ in held}}
        try:
            return [
                ciphers[epoch](wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], place)
                for epoch, wrapped, place in held
            ]
        except (InvalidTag, ValueError):
            for epoch, wrapped, place in held:
                self.unwrap(epoch, wrapped, place)
            raise

    def forget_destroyed(self) -> None:
        """Forget the key-encryption keys that are not there any more."""
        held = set(self._keks.epochs())
        for epoch in [epoch for epoch in self._ciphers if epoch not in held]:
            del self._ciphers[epoch]

    def unwrap(self, epoch: int, wrapped: bytes, place: bytes) -> bytes:
        """Return the key in a wrapped form.

        Raises:
            InvariantViolation: it was not wrapped for this place under this epoch.
            KeyUnavailable: the epoch's key cannot be had.
        """
        try:
            return self._cipher(epoch).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], place)
        except (InvalidTag, ValueError):
            raise InvariantViolation(
                f"A wrapped key of epoch {epoch} does not open in its row: the keystore was changed by "
                "another program. Stop, and compare it with its backup."
            ) from None

    def unwrap_committed(self, epoch: int, wrapped: bytes, place: bytes, *, kid: bytes) -> bytes:
        """Return the key in a wrapped form, after checking that it is the key of this kid."""
        secret = self.unwrap(epoch, wrapped, place)
        if not hmac.compare_digest(commitment(secret), kid):
            raise InvariantViolation(
                "A key does not match its own id: the keystore was changed by another program. "
                "Stop, and compare it with its backup."
            )
        return secret

    def _cipher(self, epoch: int) -> AESGCM:
        cipher = self._ciphers.get(epoch)
        if cipher is None:
            cipher = self._ciphers[epoch] = AESGCM(self._keks.get(epoch))
        return cipher
