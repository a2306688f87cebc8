"""What webhooks are checked by: the partners' keys and secrets, in one file that only its owner reads."""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.adapters.formats.mapping import SOURCE_NAME
from privacy_ledger.adapters.formats.signatures import verify_postmark, verify_sendgrid, verify_stripe
from privacy_ledger.domain.errors import HomeUnusable
from privacy_ledger.domain.refusals import Refusal

__all__ = ["PARTNERS", "Webhooks", "read_webhooks"]

PARTNERS: Final = ("postmark", "sendgrid", "stripe")
FILE_BYTES_MAX: Final = 1 << 16
_OPEN_TO_OTHERS: Final = 0o077


class _Partner(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    source: str | None = None

    def __repr__(self) -> str:
        return "_Partner()"


class _Sendgrid(_Partner, frozen=True, forbid_unknown_fields=True, kw_only=True):
    public_key: str


class _Stripe(_Partner, frozen=True, forbid_unknown_fields=True, kw_only=True):
    secrets: tuple[str, ...]


class _Postmark(_Partner, frozen=True, forbid_unknown_fields=True, kw_only=True):
    username: str
    password: str


class Webhooks(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The partners whose webhooks are taken."""

    sendgrid: _Sendgrid | None = None
    stripe: _Stripe | None = None
    postmark: _Postmark | None = None

    def source(self, name: str) -> str | None:
        """Return the source of a partner's events, or None: that partner is not configured."""
        partner = self._partner(name)
        return None if partner is None else partner.source or name

    def refusal(self, name: str, headers: Mapping[str, str], body: bytes, *, now: datetime) -> Refusal | None:
        """Return why a partner's webhook is not to be believed, or None; `body` as it came."""
        match self._partner(name):
            case _Sendgrid(public_key=key):
                return verify_sendgrid(headers, body, public_key=key, now=now)
            case _Stripe(secrets=secrets):
                return verify_stripe(headers, body, secrets=secrets, now=now)
            case _Postmark(username=username, password=password):
                return verify_postmark(headers, username=username, password=password)
            case _:
                return Refusal.SIGNATURE_INVALID

    def _partner(self, name: str) -> _Partner | None:
        return {"sendgrid": self.sendgrid, "stripe": self.stripe, "postmark": self.postmark}.get(name)


def read_webhooks(path: Path | None) -> Webhooks:
    """Return what a file says, in TOML with a table per partner; without a file, nobody is configured.

    Raises:
        HomeUnusable: it cannot be read, says something else, or others can read it.
    """
    if path is None:
        return Webhooks()
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & _OPEN_TO_OTHERS:
                raise HomeUnusable("The file of PRIVACY_LEDGER_WEBHOOKS is open to others (chmod 600).")
            found = msgspec.toml.decode(file.read(FILE_BYTES_MAX), type=Webhooks)
    except OSError as error:
        raise HomeUnusable(
            f"The file of PRIVACY_LEDGER_WEBHOOKS cannot be read ({error.strerror})."
        ) from None
    except (msgspec.DecodeError, UnicodeError):
        raise HomeUnusable(
            "The file of PRIVACY_LEDGER_WEBHOOKS is none: [sendgrid] has public_key, [stripe] secrets, "
            "[postmark] username and password, and each may have source."
        ) from None
    for name in PARTNERS:
        source = found.source(name)
        if source is not None and SOURCE_NAME.fullmatch(source) is None:
            raise HomeUnusable("A source's name is lower-case letters, digits, dots and dashes.")
    return found
