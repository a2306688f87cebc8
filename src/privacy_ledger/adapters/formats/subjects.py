"""A person as one text names them, such as `openedx:user_id:42`, canonical as the formats make it."""

import re
import unicodedata
from typing import Final

from privacy_ledger.adapters.formats.openedx import USERNAME, user_id_identity, username_identity
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.keys import Identity

__all__ = ["subject_identity"]

SUBJECT_CHARS_MAX: Final = 512
_SUBJECT: Final = re.compile(
    r"((?!lane:|link:|ledger:|xapi:)[a-z][a-z0-9-]{0,30}):([a-z][a-z0-9_]{0,30}):(.+)", re.DOTALL
)


def subject_identity(subject: str) -> Identity | Refusal:
    """Return the one identity that a text names, or `ID_INVALID`; never raises.

    `SOURCE:user_id:NUMBER`, or `SOURCE:KIND:NAME` of Open edX or of a mapping. An address is no name:
    it may be that of somebody who was erased by another id. Only a username of Open edX may look like
    one: there it is the account's own.
    """
    match = _SUBJECT.fullmatch(subject) if len(subject) <= SUBJECT_CHARS_MAX else None
    if match is None:
        return Refusal.ID_INVALID
    source, kind, value = match.groups()
    found = user_id_identity(value) if kind == "user_id" else username_identity(value)
    if found is None or type(found) is Refusal:
        return Refusal.ID_INVALID
    namespace = f"{source}:{kind}"
    if namespace != USERNAME and _holds_address(found.value):
        return Refusal.ID_INVALID
    return Identity(namespace, found.value)


def _holds_address(value: str) -> bool:
    """Return whether a name may be an address, also one with a sign that only looks like `@`."""
    return "@" in unicodedata.normalize("NFKC", value)
