"""Secrets in plain text: passwords, bearer tokens, private keys and the keys of well-known services.

They stand where programs log too much: in forms, headers, links and error texts. Whoever reads a
log could use them, so none may be kept (CWE-532). A value that is masked is none. Pure and total.
"""

import binascii
import re
from typing import Final

from privacy_ledger.adapters.formats.card_numbers import words_of

__all__ = ["TRIGGERS", "TRIGGER_PATTERNS", "holds_secret", "is_secret_field"]

TRIGGERS: Final = ("authoriz", "token", "eyj")
TRIGGER_PATTERNS: Final = (
    re.compile(rb"p(?:ass|wd)"),
    re.compile(rb"secret"),
    re.compile(rb"b(?:asic|earer)"),
    re.compile(rb"key(?:(?<=apikey)|(?<=accesskey)|(?<=privatekey))"),
)
KEY_STARTS: Final = (
    re.compile(rb"A(?:KIA|SIA|Iza)"),
    re.compile(rb"k_(?:live|test)_"),
    re.compile(rb"g(?:h[pousr]_|ithub_pat_|lpat-)"),
    re.compile(rb"xox[abeoprs]-"),
    re.compile(rb"://[^/\s:@?#\"']{1,256}:[^/\s@?#\"']{1,256}@"),
)
"""Wherever there is something to find, a trigger or a match of their patterns stands among the letters, in
lower case and nothing between them, or one of the starts matches."""

_PASSWORDS: Final = frozenset(
    (
        "password", "passwords", "passwd", "pwd", "passphrase", "passcode", "newpassword", "oldpassword",
        "userpassword",
    )
)  # fmt: skip
_SECRETS: Final = frozenset(("secret", "apikey", "secretkey", "clientsecret", "accesstoken", "privatekey"))
_SECRET_PAIRS: Final = (
    frozenset(("api", "key")), frozenset(("secret", "key")), frozenset(("private", "key")),
    frozenset(("access", "key")), frozenset(("access", "token")), frozenset(("refresh", "token")),
    frozenset(("auth", "token")), frozenset(("api", "token")), frozenset(("bearer", "token")),
    frozenset(("id", "token")),
)  # fmt: skip
_ONLY_ABOUT: Final = frozenset(
    (
        "at", "changed", "count", "error", "errors", "expires", "expiry", "has", "hint", "is", "length",
        "method", "name", "reset", "score", "strength", "type", "updated", "url", "uri", "version",
    )
)  # fmt: skip
_SECRET_CHARS_MIN: Final = 8
_MASK: Final = re.compile(
    r"[\s*•x.#\-_?]*|[\[<({]*(?:redacted|filtered|masked|hidden|removed|none|null|true|false)[\])>}]*",
    re.IGNORECASE,
)
# A payment's own secret goes to the payer's browser and comes with every message about the payment.
_FOR_BROWSERS: Final = re.compile(r"(?:pi|seti)_[A-Za-z0-9]{8,64}_secret_[A-Za-z0-9]{8,64}")
_SERVICE_KEY: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])"
    r"|(?:sk|rk)_(?:live|test)_[0-9A-Za-z]{10}|gh[pousr]_[0-9A-Za-z]{30}|github_pat_[0-9A-Za-z_]{22}"
    r"|glpat-[0-9A-Za-z_\-]{20}|xox[abeoprs]-[0-9A-Za-z\-]{10}|AIza[0-9A-Za-z_\-]{35})"
)
_JWT: Final = re.compile(
    r"(?<![A-Za-z0-9])eyJ[A-Za-z0-9_\-]{8,4096}\.[A-Za-z0-9_\-]{4,65536}\.[A-Za-z0-9_\-]{8}"
)
_PEM: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY")
_BEARER: Final = re.compile(
    r"\bbearer[ +:]{1,3}(?=[A-Za-z._\-]{0,256}[0-9])[A-Za-z0-9._~+/=\-]{16}", re.IGNORECASE
)
_BASIC: Final = re.compile(r"\bbasic[ +:]{1,3}([A-Za-z0-9+/]{8,1024}={0,2})", re.IGNORECASE)
_IN_FORM: Final = re.compile(
    r"(password|passwd|pwd|passphrase|secret|api[_\-]?key|secret[_\-]?key|(?:access|refresh|auth)[_\-]?token)"
    r"[0-9]?(?:\]|\[\])?"
    r"(?:=|[\"']{1,2}\s{0,2}:\s{0,2}\[?[\"'])([^&\s\"'<>,;]{1,256})",
    re.IGNORECASE,
)
_IN_ADDRESS: Final = re.compile(r"[A-Za-z]://[^/\s:@?#\"']{1,256}:([^/\s:@?#\"']{1,256})@")


def is_secret_field(name: str, value: str) -> bool:
    """Return whether a field is named as one that holds a secret, and its value is one and no mask."""
    words = words_of(name)
    if not words or not value or words & _ONLY_ABOUT or _MASK.fullmatch(value) is not None:
        return False
    if value == name or _FOR_BROWSERS.fullmatch(value) is not None:
        return False
    if words & _PASSWORDS:
        return True
    if "authorization" in words:
        return len(value) >= _SECRET_CHARS_MIN
    is_named = bool(words & _SECRETS) or any(pair <= words for pair in _SECRET_PAIRS)
    return is_named and len(value) >= _SECRET_CHARS_MIN


def holds_secret(text: str) -> bool:
    """Return whether a secret stands in plain text; linear in the text."""
    if len(text) < _SECRET_CHARS_MIN:
        return False
    if any(pattern.search(text) is not None for pattern in (_SERVICE_KEY, _JWT, _PEM, _BEARER)):
        return True
    if any(_is_user_and_password(match.group(1)) for match in _BASIC.finditer(text)):
        return True
    if any(is_secret_field(match.group(1), match.group(2)) for match in _IN_FORM.finditer(text)):
        return True
    return any(_MASK.fullmatch(match.group(1)) is None for match in _IN_ADDRESS.finditer(text))


def _is_user_and_password(value: str) -> bool:
    """Return whether a value of HTTP's basic scheme decodes to two texts with a colon between them."""
    try:
        raw = binascii.a2b_base64(value + "=" * (-len(value) % 4))
    except binascii.Error:
        return False
    return b":" in raw and raw.isascii() and raw.decode().isprintable()
