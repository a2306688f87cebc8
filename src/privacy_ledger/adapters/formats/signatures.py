"""Who sent a webhook: signatures and credentials of partner services, checked over the raw body.

Pure and total: headers, body and key in, None or the reason out. Field names have no case (RFC 9110,
5.1); one that is there twice is refused. A key or secret that is empty, or blank as that of an empty file,
lets nobody in. What is compared with a secret is compared in constant time. The body must be the bytes as
they came, before any decoding.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from privacy_ledger.domain.refusals import Refusal

__all__ = [
    "BODY_BYTES_MAX",
    "HEADER_CHARS_MAX",
    "SIGNATURES_MAX",
    "TOLERANCE",
    "verify_postmark",
    "verify_sendgrid",
    "verify_stripe",
]

TOLERANCE: Final = timedelta(minutes=5)
"""How far a signature's time may lie from now, before or after: what is older may be a replay."""
BODY_BYTES_MAX: Final = 1 << 22
HEADER_CHARS_MAX: Final = 4096
SIGNATURES_MAX: Final = 16
"""A sender states one signature per secret in use; a header with more is refused."""
_SENDGRID_SIGNATURE: Final = "x-twilio-email-event-webhook-signature"
_SENDGRID_TIME: Final = "x-twilio-email-event-webhook-timestamp"
_STRIPE_SIGNATURE: Final = "stripe-signature"
_SECONDS: Final = re.compile(r"[0-9]{1,12}")
_HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_BASIC: Final = re.compile(r"basic +([A-Za-z0-9+/]+={0,2})", re.IGNORECASE)


def verify_sendgrid(
    headers: Mapping[str, str],
    body: bytes,
    *,
    public_key: str,
    now: datetime,
    tolerance: timedelta = TOLERANCE,
) -> Refusal | None:
    """Return why a SendGrid event webhook is not to be believed, or None; never raises.

    ECDSA on P-256 with SHA-256, in DER and base64, over the header's timestamp and the body. `public_key`
    is the verification key as the provider shows it: base64 of its DER form. The provider names no bound
    for the timestamp; ours is `tolerance`. Order: missing, invalid, stale.

    Source: SendGrid, "Event Webhook security features", the signed event webhook.
    """
    said, seconds = _field(headers, _SENDGRID_SIGNATURE), _field(headers, _SENDGRID_TIME)
    if said is None or seconds is None:
        return Refusal.SIGNATURE_MISSING
    signature, key = _decoded(said), _p256(public_key)
    if signature is None or key is None or len(body) > BODY_BYTES_MAX or not _SECONDS.fullmatch(seconds):
        return Refusal.SIGNATURE_INVALID
    try:
        key.verify(signature, seconds.encode() + body, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return Refusal.SIGNATURE_INVALID
    return _stale(seconds, now=now, tolerance=tolerance)


def verify_stripe(
    headers: Mapping[str, str],
    body: bytes,
    *,
    secrets: Sequence[str],
    now: datetime,
    tolerance: timedelta = TOLERANCE,
) -> Refusal | None:
    """Return why a Stripe webhook is not to be believed, or None; never raises.

    HMAC with SHA-256 over timestamp, a dot and the body, as `t` and `v1` of the header say. While a secret
    is rolled there are two of `secrets`, and several `v1`: one match is enough. Other schemes, such as
    `v0`, are ignored. Order: missing, invalid, stale.

    Source: Stripe, "Verify webhook signatures manually".
    """
    said = _field(headers, _STRIPE_SIGNATURE)
    if said is None:
        return Refusal.SIGNATURE_MISSING
    pairs = [part.strip().partition("=") for part in said.split(",", SIGNATURES_MAX + 1)]
    times = [value for name, _, value in pairs if name == "t"]
    stated = [value for name, _, value in pairs if name == "v1" and _HEX_DIGEST.fullmatch(value)]
    is_unfit = len(pairs) > SIGNATURES_MAX or len(times) != 1 or len(body) > BODY_BYTES_MAX
    if is_unfit or not _SECONDS.fullmatch(times[0]):
        return Refusal.SIGNATURE_INVALID
    is_match = False
    for secret in filter(str.strip, secrets):
        message = times[0].encode() + b"." + body
        expected = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
        for one in stated:
            is_match |= hmac.compare_digest(one, expected)
    return _stale(times[0], now=now, tolerance=tolerance) if is_match else Refusal.SIGNATURE_INVALID


def verify_postmark(headers: Mapping[str, str], *, username: str, password: str) -> Refusal | None:
    """Return why a Postmark webhook is not to be believed, or None; never raises.

    Postmark signs nothing: it sends the credentials that the operator put into the webhook's address
    (HTTP Basic, RFC 7617). So nothing proves the body or its age; copies are told by the events' ids.
    Order: missing, invalid.

    Source: Postmark, "Webhooks overview", protecting your webhook.
    """
    said = _field(headers, "authorization")
    if said is None:
        return Refusal.SIGNATURE_MISSING
    match = _BASIC.fullmatch(said)
    given = None if match is None else _decoded(match.group(1))
    if given is None or not username.strip() or not password.strip() or ":" in username:
        return Refusal.SIGNATURE_INVALID
    is_match = hmac.compare_digest(given, f"{username}:{password}".encode())
    return None if is_match else Refusal.SIGNATURE_INVALID


def _field(headers: Mapping[str, str], name: str) -> str | None:
    """Return the one value of a field, or None: absent, there twice, or beyond the bound."""
    found = [value for key, value in headers.items() if key.lower() == name]
    return found[0].strip() if len(found) == 1 and 0 < len(found[0]) <= HEADER_CHARS_MAX else None


def _decoded(text: str) -> bytes | None:
    """Return what base64 says, strictly."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _p256(text: str) -> ec.EllipticCurvePublicKey | None:
    """Return a public key of the one curve that is used, or None."""
    document = _decoded("".join(text.split()))
    if not document:
        return None
    try:
        key = load_der_public_key(document)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    is_one = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    return key if is_one and isinstance(key, ec.EllipticCurvePublicKey) else None


def _stale(seconds: str, *, now: datetime, tolerance: timedelta) -> Refusal | None:
    """Return whether a time, which was signed, lies too far from now."""
    try:
        signed_at = datetime.fromtimestamp(int(seconds), UTC)
    except (OverflowError, ValueError, OSError):
        return Refusal.SIGNATURE_STALE
    return None if abs(now - signed_at) <= tolerance else Refusal.SIGNATURE_STALE
