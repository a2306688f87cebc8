"""How xAPI and Caliper name a person, in the one form in which two spellings of one name are equal.

Rules: xAPI 1.0.3, Part Two (Data), 2.4.2.3 and 2.4.2.4. An address is known by its hash only, so
that `mbox`, `mbox_sha1sum` and an operator's own spelling find the same person. What this cannot
see: a hash that was made of an address whose domain was not in lower case.
"""

import hashlib
import re
import unicodedata
from typing import Final, Literal

__all__ = [
    "ADDRESSES",
    "XapiName",
    "account_of",
    "has_control",
    "mbox_sha1sum_of",
    "openid_of",
    "person_of",
    "xapi_name",
]

NAME_CHARS_MAX: Final = 255
IRI_CHARS_MAX: Final = 1024
ADDRESS_CHARS_MAX: Final = 320

ADDRESSES: Final = frozenset({"xapi:mbox_sha1sum"})
"""Namespaces of addresses. Anybody may state one, and who was erased by another id may have had it."""
XapiName = tuple[Literal["account", "mbox_sha1sum", "openid"], str]
"""The kind of an identifier, and its canonical value."""

_ADDRESS: Final = re.compile(r'[^\s@<>"\\]{1,64}@[^\s@<>"\\]{1,255}')
_SHA1: Final = re.compile(r"[0-9a-f]{40}")
_SCHEME_AND_HOST: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*:)(//[^/?#]*)?")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9\-._~]")
_CONTROL: Final = frozenset(("Cc", "Cs", "Cn", "Zl", "Zp"))


def has_control(text: str) -> bool:
    """Return whether a control character, a surrogate or an unassigned code is in the text."""
    return not text.isprintable() and any(unicodedata.category(char) in _CONTROL for char in text)


def mbox_sha1sum_of(address: str) -> str | None:
    """Return the SHA-1 of an address as a `mailto:` IRI, in hex; None when it is no address.

    Only the domain is put in lower case: a local part may tell cases apart (RFC 5321, 2.4).
    """
    address = unicodedata.normalize("NFC", address.removeprefix("mailto:"))
    is_one = len(address) <= ADDRESS_CHARS_MAX and _ADDRESS.fullmatch(address) is not None
    if not is_one or has_control(address):
        return None
    local, _, host = address.rpartition("@")
    iri = f"mailto:{local}@{host.lower()}"
    return hashlib.sha1(iri.encode(), usedforsecurity=False).hexdigest()


def account_of(home_page: str, name: str) -> str | None:
    """Return the account of a system as home page, one space, and name; None beyond the bounds.

    The home page holds no space, so that no two accounts give one text. Names tell cases apart.
    """
    page = _plain_iri(home_page)
    name = unicodedata.normalize("NFC", name)
    if page is None or not name.strip() or len(name) > NAME_CHARS_MAX or has_control(name):
        return None
    return f"{page} {name}"


def openid_of(uri: str) -> str | None:
    """Return an OpenID with scheme and host in lower case; None beyond the bounds."""
    return _plain_iri(uri)


def person_of(iri: str) -> tuple[str, str] | None:
    """Return namespace and value of a person whom Caliper names by an IRI; None beyond the bounds.

    An address is known by its hash, as in xAPI, so that the rules for addresses hold for it, too. Characters
    that need no percent sign have none (RFC 3986, 6.2.2): nobody comes back under another spelling.
    """
    iri = _ESCAPE.sub(_plain_escape, iri)
    if iri[:7].lower() == "mailto:":
        found = mbox_sha1sum_of(iri[7:])
        return None if found is None else ("xapi:mbox_sha1sum", found)
    plain = _plain_iri(iri.lower() if iri[:9].lower() == "urn:uuid:" else iri)
    return None if plain is None else ("caliper:person", plain)


def xapi_name(kind: str, value: str) -> XapiName | None:
    """Return the identifier that an operator wrote, canonical; None when it is none.

    `mbox` is an address, `account` a home page, a space and a name.
    """
    match kind:
        case "mbox":
            found = mbox_sha1sum_of(value)
            return None if found is None else ("mbox_sha1sum", found)
        case "mbox_sha1sum":
            found = value.lower()
            return None if _SHA1.fullmatch(found) is None else ("mbox_sha1sum", found)
        case "account":
            home_page, _, name = value.partition(" ")
            found = account_of(home_page, name)
            return None if found is None else ("account", found)
        case "openid":
            found = openid_of(value)
            return None if found is None else ("openid", found)
        case _:
            return None


def _plain_escape(match: re.Match[str]) -> str:
    """Return the character of an escape that needs none, else the escape in capitals."""
    char = chr(int(match.group(1), 16))
    return char if _UNRESERVED.fullmatch(char) else match.group().upper()


def _plain_iri(iri: str) -> str | None:
    """Return an IRI with scheme and host in lower case and without a lone slash (RFC 3986, 6.2)."""
    match = _SCHEME_AND_HOST.match(iri)
    if match is None or len(iri) > IRI_CHARS_MAX or " " in iri or has_control(iri):
        return None
    scheme, authority = match.group(1).lower(), match.group(2) or ""
    user, mark, host = authority.rpartition("@")
    rest = iri[match.end() :]
    rest = "" if rest == "/" and authority else rest
    return unicodedata.normalize("NFC", f"{scheme}{user}{mark}{host.lower()}{rest}")
