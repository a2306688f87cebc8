import os

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from hypothesis import given
from hypothesis import strategies as st

from privacy_ledger.adapters import envelope
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import DataKey
from privacy_ledger.ports.log import Headers

REF = SubjectRef(b"r" * 16)
KEY = DataKey(REF, "usage", 0, b"k" * 32, b"s" * 32)
OTHER = DataKey(REF, "usage", 1, b"o" * 32, b"t" * 32)
PLAIN = b"made up by nobody"
BOUND = b"stream and key"

headers_of = st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), max_size=4).map(tuple)


@given(plain=st.binary(max_size=600), bound=st.binary(max_size=60))
def test_what_was_sealed_opens_to_the_same_bytes(plain: bytes, bound: bytes) -> None:
    """Any plaintext, the empty one too, survives sealing."""
    assert envelope.open_sealed(KEY, envelope.seal(KEY, plain, bound), bound) == plain


def test_a_sealed_value_has_its_documented_form() -> None:
    """Version, kid, nonce, ciphertext, tag."""
    sealed = envelope.seal(KEY, PLAIN, BOUND)
    assert (sealed[0], sealed[1:33], len(sealed)) == (1, KEY.kid, 61 + len(PLAIN))
    assert PLAIN not in sealed


def test_sealing_twice_gives_different_bytes() -> None:
    """Every seal draws its own nonce."""
    assert envelope.seal(KEY, PLAIN, BOUND) != envelope.seal(KEY, PLAIN, BOUND)


def test_every_flipped_bit_is_refused() -> None:
    """No single bit of a sealed value can change unnoticed."""
    sealed = envelope.seal(KEY, PLAIN, BOUND)
    opened = []
    for position in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[position // 8] ^= 1 << position % 8
        try:
            opened.append(envelope.open_sealed(KEY, bytes(changed), BOUND))
        except envelope.EnvelopeBroken:
            continue
    assert opened == []


def test_every_shorter_value_is_refused() -> None:
    """A value that was cut anywhere does not open."""
    sealed = envelope.seal(KEY, PLAIN, BOUND)
    for length in range(len(sealed)):
        with pytest.raises(envelope.EnvelopeBroken):
            envelope.open_sealed(KEY, sealed[:length], BOUND)


def test_a_value_bound_elsewhere_is_refused() -> None:
    """A record that was moved to another key does not open."""
    with pytest.raises(envelope.EnvelopeBroken):
        envelope.open_sealed(KEY, envelope.seal(KEY, PLAIN, BOUND), b"another key")


def test_the_key_of_another_record_is_refused() -> None:
    """The kid in front must be the given key's."""
    with pytest.raises(envelope.EnvelopeBroken):
        envelope.open_sealed(OTHER, envelope.seal(KEY, PLAIN, BOUND), BOUND)


def test_a_forged_key_does_not_find_another_keys_cipher() -> None:
    """A kid with other bytes behind it opens nothing, although the kid was used just before."""
    sealed = envelope.seal(KEY, PLAIN, BOUND)
    with pytest.raises(envelope.EnvelopeBroken):
        envelope.open_sealed(DataKey(REF, "usage", 0, KEY.kid, b"x" * 32), sealed, BOUND)
    assert envelope.open_sealed(KEY, sealed, BOUND) == PLAIN


def test_the_message_of_a_broken_envelope_holds_no_bytes_of_it() -> None:
    """An error names the rule and the next step only."""
    sealed = bytearray(envelope.seal(KEY, PLAIN, BOUND))
    sealed[-1] ^= 1
    with pytest.raises(envelope.EnvelopeBroken) as broken:
        envelope.open_sealed(KEY, bytes(sealed), BOUND)
    assert str(broken.value) == (
        "The sealed record or what it is bound to was changed. Send it to quarantine."
    )


def test_the_kid_is_read_without_a_key() -> None:
    """It tells which key to ask for."""
    assert envelope.kid_of(envelope.seal(KEY, PLAIN, BOUND)) == KEY.kid


@pytest.mark.parametrize("value", [b"", b"\x01", b"\x01" * 60, b"\x02" * 90, b"{}"])
def test_other_bytes_have_no_kid(value: bytes) -> None:
    """Too short or of another version means no envelope."""
    assert envelope.kid_of(value) is None


@given(
    first=st.tuples(st.text(max_size=5), st.binary(max_size=5), headers_of),
    second=st.tuples(st.text(max_size=5), st.binary(max_size=5), headers_of),
)
def test_different_records_are_bound_differently(
    first: tuple[str, bytes, Headers], second: tuple[str, bytes, Headers]
) -> None:
    """Stream, key, names, values and their order are all told apart."""
    assert (envelope.aad(*first) == envelope.aad(*second)) == (first == second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((("ab", b"c"),), (("a", b"bc"),)),
        ((("a", b"1"), ("b", b"2")), (("b", b"2"), ("a", b"1"))),
        ((("a", b""),), ()),
        ((("a", b"1b2"),), (("a", b"1"), ("b", b"2"))),
    ],
)
def test_bytes_do_not_slip_between_headers(first: Headers, second: Headers) -> None:
    """Moving a byte over a border changes what a record is bound to."""
    assert envelope.aad("stream", b"key", first) != envelope.aad("stream", b"key", second)


def test_skipped_headers_are_not_bound() -> None:
    """A header named in `skip` may change; the others may not."""
    with_mac: Headers = (("gen", b"1"), ("mac", b"x"))
    assert envelope.aad("stream", b"key", with_mac, {"mac"}) == envelope.aad("stream", b"key", with_mac[:1])


def test_a_foreign_header_name_does_not_stop_a_reader() -> None:
    """Names that are not even text are bound like any other."""
    assert envelope.aad("stream", b"key", (("\udc80", b""),)) != envelope.aad("stream", b"key", (("a", b""),))


def test_mac_is_hmac_sha256() -> None:
    """The same as another implementation of RFC 2104."""
    other = hmac.HMAC(KEY.secret, hashes.SHA256())
    other.update(PLAIN)
    assert envelope.mac(KEY.secret, PLAIN) == other.finalize()


def test_forgotten_keys_open_again_when_given_again() -> None:
    """Dropping ready ciphers loses nothing but time."""
    sealed = envelope.seal(KEY, PLAIN, BOUND)
    envelope.forget([KEY.kid])
    envelope.forget()
    assert envelope.open_sealed(KEY, sealed, BOUND) == PLAIN


def test_more_keys_than_the_bound_still_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cipher used longest ago is dropped and made again."""
    monkeypatch.setattr(envelope, "MAX_CIPHERS", 3)
    keys = [DataKey(REF, "usage", number, os.urandom(32), os.urandom(32)) for number in range(10)]
    sealed = [envelope.seal(key, PLAIN, BOUND) for key in keys]
    opened = [envelope.open_sealed(key, value, BOUND) for key, value in zip(keys, sealed, strict=True)]
    assert opened == [PLAIN] * 10
