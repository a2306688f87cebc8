"""HMAC-SHA256 under one key for many messages, at a third of the price of a call for each."""

from hashlib import sha256
from typing import Final

__all__ = ["INNER", "OUTER", "KeyedHash"]

_BLOCK_BYTES: Final = 64
INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))
"""What RFC 2104 makes of each byte of a key, for `bytes.translate`; of the padding it makes the first."""


class KeyedHash:
    """`hmac.digest(key, message, "sha256")` with the key taken in once, as RFC 2104 tells in section 4.

    It holds what the key was hashed to, which is as secret as the key. To check a mac of somebody
    else, use `hmac.compare_digest`.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        """Take the key, of any length."""
        block = (key if len(key) <= _BLOCK_BYTES else sha256(key).digest()).ljust(_BLOCK_BYTES, b"\0")
        self._inner = sha256(block.translate(INNER))
        self._outer = sha256(block.translate(OUTER))

    def __call__(self, message: bytes) -> bytes:
        """Return the 32 bytes of the message's HMAC."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()
