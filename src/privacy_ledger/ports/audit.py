"""Signing what the audit log says of itself."""

from typing import Protocol

__all__ = ["Signer"]


class Signer(Protocol):
    """The key of one audit log (Ed25519, RFC 8032)."""

    @property
    def name(self) -> str:
        """The name of the key, which is also the log's origin."""
        ...

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        ...

    def sign(self, text: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        ...

    def is_signed(self, text: bytes, signature: bytes) -> bool:
        """Return whether this key made the signature."""
        ...
