"""Sealed bytes: AES-256-GCM under a person's own key, with the key's name in front.

`version (1) ‖ kid (32) ‖ nonce (12) ‖ ciphertext ‖ tag (16)`. Sources: NIST SP 800-38D for GCM with
96-bit random nonces, RFC 2104 for HMAC. GCM does not commit to its key; the kid does (RFC 5869's
HKDF-Expand of the key), and the keystore checks that commitment whenever it unwraps a key.

Arguments stand in the order of `AESGCM.encrypt` and of `hmac.digest`, which these wrap.
"""

import hmac
import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from struct import Struct as Packer
from struct import pack
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy_ledger.domain.errors import LedgerError
from privacy_ledger.ports.keys import DataKey
from privacy_ledger.ports.log import Headers

__all__ = [
    "KID_BYTES",
    "MAX_CIPHERS",
    "OVERHEAD_BYTES",
    "VERSION",
    "EnvelopeBroken",
    "aad",
    "aad_of",
    "forget",
    "kid_of",
    "mac",
    "open_sealed",
    "ready",
    "seal",
]

VERSION: Final = 1
"""The first byte of a sealed value."""
KID_BYTES: Final = 32
MAX_CIPHERS: Final = 50_000
"""How many ready ciphers are kept; the one used longest ago goes first."""

MAX_LAYOUTS: Final = 64
"""For how many lists of header names the invariable part of `aad` is kept."""

_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_VERSION_BYTE: Final = bytes([VERSION])
_NONCE_AT: Final = 1 + KID_BYTES
_BODY_AT: Final = _NONCE_AT + _NONCE_BYTES
OVERHEAD_BYTES: Final = _BODY_AT + _TAG_BYTES
"""How many bytes longer a sealed value is than its plaintext."""


class EnvelopeBroken(LedgerError):
    """Sealed bytes that are not what was sealed: cut, changed, moved, or of another version."""


def seal(key: DataKey, plaintext: bytes, aad: bytes) -> bytes:
    """Return the plaintext sealed under a key and bound to `aad`; each call draws a new nonce.

    A key seals at most 2**24 records (the keystore counts), far below the 2**32 messages to which
    NIST SP 800-38D limits random nonces.
    """
    nonce = os.urandom(_NONCE_BYTES)
    return _VERSION_BYTE + key.kid + nonce + _cipher(key).encrypt(nonce, plaintext, aad)


def open_sealed(key: DataKey, sealed: bytes, aad: bytes) -> bytes:
    """Return the plaintext of bytes sealed under this key and bound to this `aad`.

    Raises:
        EnvelopeBroken: the bytes, the key or the `aad` are not those of the sealing.
    """
    kid = kid_of(sealed)
    if kid is None:
        raise EnvelopeBroken("The value is no sealed record of version 1. Send it to quarantine.")
    if kid != key.kid:
        raise EnvelopeBroken("The record names another key than the given one. Ask for its own key.")
    try:
        return _cipher(key).decrypt(sealed[_NONCE_AT:_BODY_AT], sealed[_BODY_AT:], aad)
    except InvalidTag:
        raise EnvelopeBroken(
            "The sealed record or what it is bound to was changed. Send it to quarantine."
        ) from None


def kid_of(sealed: bytes) -> bytes | None:
    """Return the id of the key that sealed these bytes, or None when they are no envelope."""
    if len(sealed) < OVERHEAD_BYTES or sealed[0] != VERSION:
        return None
    return sealed[1:_NONCE_AT]


def aad(stream: str, key: bytes, headers: Headers, skip: Collection[str] = ()) -> bytes:
    """Return what a record is bound to: its logical stream, its key, and its headers in order.

    Headers named in `skip` are left out. All lengths come first and then all parts, so two
    different inputs never give the same bytes.
    """
    if skip:
        headers = tuple(pair for pair in headers if pair[0] not in skip)
    if not headers:
        return aad_of(stream, key, (), ())
    names, values = zip(*headers, strict=True)
    return aad_of(stream, key, names, values)


def aad_of(stream: str, key: bytes, names: tuple[str, ...], values: tuple[bytes, ...]) -> bytes:
    """Return the same as `aad`, of header names and values that stand apart already."""
    begin, lengths, joined = _layout(stream, names)
    return b"".join((begin, lengths(len(key), *map(len, values)), joined, key, *values))


@lru_cache(maxsize=MAX_LAYOUTS)
def _layout(stream: str, names: tuple[str, ...]) -> tuple[bytes, Callable[..., bytes], bytes]:
    """Return what is the same for all records with these header names: counts, and the names."""
    whole = (stream, *names)
    count = len(whole)
    # A foreign record's header name may hold lone surrogates; it must not stop the reader.
    joined = "".join(whole).encode("utf-8", "surrogatepass")
    return pack(f">{count + 1}I", count, *map(len, whole)), Packer(f">{count}I").pack, joined


def mac(secret: bytes, data: bytes) -> bytes:
    """Return HMAC-SHA256 (RFC 2104) of the data; compare with `hmac.compare_digest`."""
    return hmac.digest(secret, data, "sha256")


def forget(kids: Iterable[bytes] | None = None) -> None:
    """Drop the ready ciphers of these keys, or all of them; Python cannot promise zeroed memory."""
    if kids is None:
        _ciphers.clear()
        return
    for kid in kids:
        _ciphers.pop(kid, None)


def ready() -> int:
    """Return how many ciphers are ready."""
    return len(_ciphers)


_ciphers: OrderedDict[bytes, tuple[bytes, AESGCM]] = OrderedDict()
"""By kid, the one used longest ago first; with its secret, so that a forged key finds no other's."""


def _cipher(key: DataKey) -> AESGCM:
    kid = key.kid
    held = _ciphers.get(kid)
    if held is None or held[0] != key.secret:
        held = (key.secret, AESGCM(key.secret))
        _ciphers[kid] = held
        if len(_ciphers) > MAX_CIPHERS:
            _ciphers.popitem(last=False)
        return held[1]
    try:  # noqa: SIM105 - not `suppress`: this runs for every record
        _ciphers.move_to_end(kid)
    except KeyError:  # another thread dropped it meanwhile
        pass
    return held[1]
