"""The keyed hash is HMAC-SHA256, for every key and message."""

import hmac

from hypothesis import given
from hypothesis import strategies as st

from privacy_ledger.domain.keyed_hash import KeyedHash


@given(st.binary(max_size=200), st.lists(st.binary(max_size=200), max_size=3))
def test_it_is_the_hmac_of_each_message(key: bytes, messages: list[bytes]) -> None:
    """Keys shorter and longer than a block; one message leaves nothing for the next."""
    keyed = KeyedHash(key)
    assert [keyed(message) for message in messages] == [
        hmac.digest(key, message, "sha256") for message in messages
    ]


def test_it_shows_nothing_of_its_key() -> None:
    """Not in its text."""
    assert "Ada" not in repr(KeyedHash(b"Ada"))
