"""Keyed hashes: how the keystore and its journal name an identity without holding it."""

from privacy_ledger.domain.keyed_hash import KeyedHash
from privacy_ledger.ports.keys import Identity

__all__ = ["Marks"]


class Marks:
    """HMAC-SHA256 (RFC 2104) under the keystore's pepper; each kind has a prefix of its own.

    A namespace never starts with a zero byte, so the kinds do not meet.
    """

    def __init__(self, pepper: bytes) -> None:
        """Take the pepper, which is itself wrapped under the key-encryption key."""
        self._mark = KeyedHash(pepper)

    def __repr__(self) -> str:
        """Return the kind of thing that this is, and never the pepper."""
        return "Marks()"

    def store(self) -> str:
        """Return the name of this keystore in its journal."""
        return self._mark(b"\0store").hex()[:16]

    def identity(self, identity: Identity) -> bytes:
        """Return the row key of an identity: namespace, a zero byte, value."""
        return self._mark(f"{identity.namespace}\0{identity.value}".encode())

    def ref(self, ref: bytes) -> bytes:
        """Return the mark of a reference."""
        return self._mark(b"\0ref\0" + ref)

    def kid(self, kid: bytes) -> bytes:
        """Return the mark of a key's id."""
        return self._mark(b"\0kid\0" + kid)
