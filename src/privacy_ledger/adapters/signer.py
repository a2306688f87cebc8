"""The signing key of the audit log."""

import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["SEED_NAME", "Ed25519Signer"]

SEED_NAME: Final = "audit-signing"
"""The ledger-wide secret that is the private key."""


class Ed25519Signer:
    """`Signer` over a seed of 32 bytes that the keystore keeps; the name follows from the public key."""

    def __init__(self, seed: bytes) -> None:
        """Take the seed."""
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()
        self.name = f"privacy-ledger/{hashlib.sha256(self.public).hexdigest()[:16]}"

    def __repr__(self) -> str:
        """Return the name and nothing secret."""
        return f"Ed25519Signer({self.name})"

    def sign(self, text: bytes) -> bytes:
        """Return the signature."""
        return self._key.sign(text)

    def is_signed(self, text: bytes, signature: bytes) -> bool:
        """Return whether this key made the signature."""
        try:
            self._key.public_key().verify(signature, text)
        except InvalidSignature:
            return False
        return True
