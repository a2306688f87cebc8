"""Webhook signatures: what the partner signed is believed, and nothing else."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from privacy_ledger.adapters.formats.signatures import (
    BODY_BYTES_MAX,
    HEADER_CHARS_MAX,
    SIGNATURES_MAX,
    TOLERANCE,
    verify_postmark,
    verify_sendgrid,
    verify_stripe,
)
from privacy_ledger.domain.refusals import Refusal

NOW: Final = datetime(2026, 3, 2, 9, tzinfo=UTC)
SECONDS: Final = str(int(NOW.timestamp()))
BODY: Final = b'{"id":"evt_1"}'
SECRET: Final = "whsec_of_a_test"
BLANK: Final = " \n"
"""What is read of a file for a secret that nobody put into it."""
OTHER: Final = "whsec_of_another"
CURVE: Final = ec.derive_private_key(7, ec.SECP256R1())
SIGNATURE: Final = "X-Twilio-Email-Event-Webhook-Signature"
TIME: Final = "X-Twilio-Email-Event-Webhook-Timestamp"
ONE_SECOND: Final = timedelta(seconds=1)
HEADERS = st.dictionaries(
    st.sampled_from((SIGNATURE, TIME, "Stripe-Signature", "Authorization", "x")), st.text(), max_size=5
)


def public(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> str:
    """Return a key as a provider shows it."""
    return base64.b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


KEY: Final = public(CURVE.public_key())
ANOTHER: Final = public(ec.derive_private_key(8, ec.SECP256R1()).public_key())
LONGER: Final = public(ec.derive_private_key(7, ec.SECP384R1()).public_key())


def signed(body: bytes = BODY, *, seconds: str = SECONDS) -> dict[str, str]:
    """Return the headers of a signed SendGrid webhook."""
    signature = CURVE.sign(seconds.encode() + body, ec.ECDSA(SHA256()))
    return {SIGNATURE: base64.b64encode(signature).decode(), TIME: seconds}


def stamped(body: bytes = BODY, *, secret: str = SECRET, seconds: str = SECONDS) -> str:
    """Return one `v1` of a Stripe webhook."""
    return hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()


def of_stripe(*parts: str) -> dict[str, str]:
    """Return the header of a Stripe webhook."""
    return {"Stripe-Signature": ",".join(parts)}


# SendGrid ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "body", "key", "found"),
    [
        (signed(), BODY, KEY, None),
        ({name.lower(): value for name, value in signed().items()}, BODY, KEY, None),
        (signed(), BODY, f"\n{KEY[:40]}\n{KEY[40:]}\n", None),
        ({}, BODY, KEY, Refusal.SIGNATURE_MISSING),
        ({SIGNATURE: signed()[SIGNATURE]}, BODY, KEY, Refusal.SIGNATURE_MISSING),
        ({TIME: SECONDS}, BODY, KEY, Refusal.SIGNATURE_MISSING),
        ({**signed(), TIME.lower(): SECONDS}, BODY, KEY, Refusal.SIGNATURE_MISSING),
        ({**signed(), SIGNATURE: "A" * (HEADER_CHARS_MAX + 1)}, BODY, KEY, Refusal.SIGNATURE_MISSING),
        (signed(), BODY + b" ", KEY, Refusal.SIGNATURE_INVALID),
        ({**signed(), TIME: str(int(SECONDS) + 1)}, BODY, KEY, Refusal.SIGNATURE_INVALID),
        ({**signed(), TIME: "now"}, BODY, KEY, Refusal.SIGNATURE_INVALID),
        ({**signed(), SIGNATURE: "no base64!"}, BODY, KEY, Refusal.SIGNATURE_INVALID),
        ({**signed(), SIGNATURE: "AAAA"}, BODY, KEY, Refusal.SIGNATURE_INVALID),
        (signed(), BODY, "", Refusal.SIGNATURE_INVALID),
        (signed(), BODY, "no base64!", Refusal.SIGNATURE_INVALID),
        (signed(), BODY, "AAAA", Refusal.SIGNATURE_INVALID),
        (signed(), BODY, ANOTHER, Refusal.SIGNATURE_INVALID),
        (signed(), BODY, LONGER, Refusal.SIGNATURE_INVALID),
        (signed(), b" " * (BODY_BYTES_MAX + 1), KEY, Refusal.SIGNATURE_INVALID),
    ],
)  # fmt: skip
def test_sendgrid_is_believed_by_its_public_key_alone(
    headers: Mapping[str, str], body: bytes, key: str, found: Refusal | None
) -> None:
    """Over the header's time and the body as it came."""
    assert verify_sendgrid(headers, body, public_key=key, now=NOW) is found


def test_a_key_of_another_kind_is_none() -> None:
    """However well formed."""
    key = public(rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key())
    assert verify_sendgrid(signed(), BODY, public_key=key, now=NOW) is Refusal.SIGNATURE_INVALID


@pytest.mark.parametrize(
    ("away", "found"),
    [
        (TOLERANCE, None),
        (-TOLERANCE, None),
        (TOLERANCE + ONE_SECOND, Refusal.SIGNATURE_STALE),
        (-TOLERANCE - ONE_SECOND, Refusal.SIGNATURE_STALE),
    ],
)
def test_what_was_signed_too_long_ago_or_ahead_is_a_replay(away: timedelta, found: Refusal | None) -> None:
    """Of both providers that sign a time."""
    now = NOW + away
    headers = of_stripe(f"t={SECONDS}", f"v1={stamped()}")
    assert verify_sendgrid(signed(), BODY, public_key=KEY, now=now) is found
    assert verify_stripe(headers, BODY, secrets=[SECRET], now=now) is found


# Stripe -----------------------------------------------------------------------------------------

V1: Final = f"v1={stamped()}"
T: Final = f"t={SECONDS}"


@pytest.mark.parametrize(
    ("headers", "secrets", "found"),
    [
        (of_stripe(T, V1), [SECRET], None),
        (of_stripe(V1, f" {T}"), [SECRET], None),
        (of_stripe(T, f"v1={stamped(secret=OTHER)}", V1), [SECRET], None),
        (of_stripe(T, f"v1={stamped(secret=OTHER)}"), [SECRET, OTHER], None),
        (of_stripe(T, "v0=" + "0" * 64, V1), [SECRET], None),
        ({"stripe-signature": f"{T},{V1}"}, [SECRET], None),
        ({}, [SECRET], Refusal.SIGNATURE_MISSING),
        ({"Stripe-Signature": ""}, [SECRET], Refusal.SIGNATURE_MISSING),
        (of_stripe(T), [SECRET], Refusal.SIGNATURE_INVALID),
        (of_stripe(V1), [SECRET], Refusal.SIGNATURE_INVALID),
        (of_stripe(T, T, V1), [SECRET], Refusal.SIGNATURE_INVALID),
        (of_stripe(T, f"v0={stamped()}"), [SECRET], Refusal.SIGNATURE_INVALID),
        (of_stripe(T, V1.upper().replace("V1", "v1")), [SECRET], Refusal.SIGNATURE_INVALID),
        (of_stripe("t=-1", V1), [SECRET], Refusal.SIGNATURE_INVALID),
        (of_stripe(f"t={int(SECONDS) + 1}", V1), [SECRET], Refusal.SIGNATURE_INVALID),
        (of_stripe(T, V1), [OTHER], Refusal.SIGNATURE_INVALID),
        (of_stripe(T, V1), [], Refusal.SIGNATURE_INVALID),
        (of_stripe(T, f"v1={stamped(secret='')}"), [""], Refusal.SIGNATURE_INVALID),
        (of_stripe(T, f"v1={stamped(secret=BLANK)}"), [BLANK], Refusal.SIGNATURE_INVALID),
        (of_stripe(T, *[V1] * SIGNATURES_MAX), [SECRET], Refusal.SIGNATURE_INVALID),
    ],
)  # fmt: skip
def test_stripe_is_believed_by_a_shared_secret(
    headers: Mapping[str, str], secrets: list[str], found: Refusal | None
) -> None:
    """One match among those in use is enough; an empty or blank secret is none."""
    assert verify_stripe(headers, BODY, secrets=secrets, now=NOW) is found


def test_a_body_that_was_decoded_and_written_again_is_another() -> None:
    """The bytes are signed, not what they say."""
    headers = of_stripe(T, V1)
    assert verify_stripe(headers, b'{"id": "evt_1"}', secrets=[SECRET], now=NOW) is Refusal.SIGNATURE_INVALID


# Postmark ---------------------------------------------------------------------------------------


def basic(text: str) -> dict[str, str]:
    """Return the header of a request with credentials."""
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


@pytest.mark.parametrize(
    ("headers", "username", "password", "found"),
    [
        (basic("hook:pass:word"), "hook", "pass:word", None),
        ({"authorization": basic("hook:p")["Authorization"].replace("Basic", "BASIC")}, "hook", "p", None),
        ({}, "hook", "p", Refusal.SIGNATURE_MISSING),
        (basic("hook:q"), "hook", "p", Refusal.SIGNATURE_INVALID),
        (basic("hook"), "hook", "p", Refusal.SIGNATURE_INVALID),
        (basic(":"), "", "", Refusal.SIGNATURE_INVALID),
        (basic(f"hook:{BLANK}"), "hook", BLANK, Refusal.SIGNATURE_INVALID),
        (basic(f"{BLANK}:p"), BLANK, "p", Refusal.SIGNATURE_INVALID),
        (basic("a:b:c"), "a:b", "c", Refusal.SIGNATURE_INVALID),
        ({"Authorization": "Bearer abc"}, "hook", "p", Refusal.SIGNATURE_INVALID),
        ({"Authorization": "Basic abc"}, "hook", "p", Refusal.SIGNATURE_INVALID),
    ],
)
def test_postmark_is_believed_by_the_credentials_of_its_address(
    headers: Mapping[str, str], username: str, password: str, found: Refusal | None
) -> None:
    """It signs nothing; credentials that are empty let nobody in."""
    assert verify_postmark(headers, username=username, password=password) is found


@given(HEADERS, st.binary(max_size=64), st.text(max_size=64))
def test_anything_has_an_answer(headers: dict[str, str], body: bytes, key: str) -> None:
    """And nothing that was not signed is believed."""
    assert verify_sendgrid(headers, body, public_key=key, now=NOW) is not None
    assert verify_stripe(headers, body, secrets=[SECRET], now=NOW) is not None
    assert verify_postmark(headers, username="hook", password=SECRET) is not None
