"""Common Media Client Data: what a player says of its playback, from text, query, headers or JSON.

Pure and bounded: text in, values or a `Refusal` out. Keys are as they were sent. Reserved keys are checked
for their type, and in headers for their field; others, custom ones with a prefix among them, are passed on.
A key that stands twice is refused: two readers would see two reports.

Source: CTA-5004 (version 1) and CTA-5004-A and -B (version 2); the syntax of dictionaries is that of
Structured Fields (RFC 8941, 3.2), without byte sequences.
"""

import re
from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import unquote

from privacy_ledger.domain.refusals import Refusal

__all__ = [
    "CHARS_MAX",
    "HEADERS",
    "KEYS_MAX",
    "LIST_MAX",
    "RESERVED",
    "Fields",
    "Value",
    "decode_headers",
    "decode_members",
    "decode_query",
    "decode_text",
]

CHARS_MAX: Final = 1 << 13
KEYS_MAX: Final = 100
LIST_MAX: Final = 32

Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]
Fields = dict[str, Value]
_Kind = Literal["number", "numbers", "decimal", "flag", "text", "texts", "token"]

_KINDS: Final[dict[_Kind, str]] = {
    "number": "d dfa dl ltc msd pt rc rtp sn ts ttfb ttfbb ttlb v",
    "numbers": "ab bl br bsa bsd bsda lab lb mtp pb tab tb tbl tpb",
    "decimal": "pr",
    "flag": "bg bs nr su",
    "text": "cdn cen cid cmsdd cmsds cs h nrr sid smrt url",
    "texts": "ec nor",
    "token": "e ot sf st sta",
}
RESERVED: Final[dict[str, _Kind]] = {key: kind for kind, keys in _KINDS.items() for key in keys.split()}
"""The keys of both versions, each with the kind of its value."""
HEADERS: Final[dict[str, frozenset[str]]] = {
    "cmcd-object": frozenset(["ab", "br", "d", "lab", "lb", "ot", "tab", "tb", "tpb"]),
    "cmcd-request": frozenset(
        ["bl", "cs", "dfa", "dl", "ltc", "mtp", "nor", "nrr", "pb", "sn", "sta", "su", "tbl", "ts"]
    ),
    "cmcd-session": frozenset(["cid", "msd", "pr", "sf", "sid", "st", "v"]),
    "cmcd-status": frozenset(["bg", "bs", "bsa", "bsd", "bsda", "cdn", "ec", "nr", "pr", "pt", "rtp"]),
}
"""The keys that each header field may hold; the playback rate moved between versions."""
_PLACED: Final = frozenset().union(*HEADERS.values())
_QUERY: Final = "CMCD"
_TEXT_CHARS_MAX: Final = 1024

_KEY: Final = re.compile(r"[a-z*][a-z0-9_\-.*]{0,127}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,15}(?![0-9.])|-?[0-9]{1,12}\.[0-9]{1,3}(?![0-9.])")
_STRING: Final = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_TOKEN: Final = re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+\-.^_`|~:/]{0,127}")
_FLAG: Final = re.compile(r"\?([01])")
_PARAMETER: Final = re.compile(r"; *[a-z*][a-z0-9_\-.*]{0,127}")
_BLANKS: Final = re.compile(r"[ \t]*")
_SPACES: Final = re.compile(r" *")
_ESCAPED: Final = re.compile(r"\\(.)")


class _UnfitError(Exception):
    """The text is no dictionary, or a reserved key holds what it must not."""

    def __init__(self, refusal: Refusal = Refusal.SCHEMA_MISMATCH) -> None:
        super().__init__()
        self.refusal = refusal


def decode_text(text: str) -> Fields | Refusal:
    """Return the keys of a report as a query argument's value or an event's line holds them; never raises.

    Empty text is a report of nothing.
    """
    try:
        return _checked(_dictionary(text))
    except _UnfitError as error:
        return error.refusal


def decode_query(text: str) -> Fields | Refusal:
    """Return the keys of the one `CMCD` argument of a query or of a whole address; never raises.

    `SCHEMA_MISMATCH` where there is none, and `DUPLICATE_KEY` where there are several.
    """
    if len(text) > 4 * CHARS_MAX:
        return Refusal.LINE_TOO_LONG
    query = text.partition("#")[0]
    query = query.partition("?")[2] if "?" in query else query
    pairs = [pair.partition("=") for pair in query.split("&")]
    found = [value for name, _, value in pairs if unquote(name) == _QUERY]
    if len(found) != 1:
        return Refusal.DUPLICATE_KEY if found else Refusal.SCHEMA_MISMATCH
    return decode_text(unquote(found[0]))


def decode_headers(headers: Mapping[str, object]) -> Fields | Refusal:
    """Return the keys of the four header fields together; other fields are not read; never raises.

    Names of fields have no case. A reserved key in another field than its own is `SCHEMA_MISMATCH`.
    """
    found: Fields = {}
    try:
        for name, value in headers.items():
            places = HEADERS.get(name.lower())
            if places is None:
                continue
            if not isinstance(value, str):
                return Refusal.SCHEMA_MISMATCH
            for key, held in _dictionary(value).items():
                if key in found:
                    return Refusal.DUPLICATE_KEY
                if key in _PLACED and key not in places:
                    return Refusal.SCHEMA_MISMATCH
                found[key] = held
        return _checked(found) if len(found) <= KEYS_MAX else Refusal.SCHEMA_MISMATCH
    except _UnfitError as error:
        return error.refusal


def decode_members(members: Mapping[str, object]) -> Fields | Refusal:
    """Return the keys of a report as a JSON object holds them; never raises."""
    if len(members) > KEYS_MAX:
        return Refusal.SCHEMA_MISMATCH
    try:
        return _checked({key: _member(value) for key, value in members.items() if _KEY.fullmatch(key)})
    except _UnfitError as error:
        return error.refusal


# Text --------------------------------------------------------------------------------------------


def _dictionary(text: str) -> Fields:
    """Return the members of a dictionary, in order."""
    if len(text) > CHARS_MAX:
        raise _UnfitError(Refusal.LINE_TOO_LONG)
    text = text.strip(" ")
    found: Fields = {}
    at = 0
    while at < len(text):
        key, at = _taken(_KEY, text, at)
        if key in found:
            raise _UnfitError(Refusal.DUPLICATE_KEY)
        if len(found) == KEYS_MAX:
            raise _UnfitError
        if text[at : at + 1] == "=":
            found[key], at = _item_or_list(text, at + 1)
        else:
            found[key], at = True, _past_parameters(text, at)
        at = _past(_BLANKS, text, at)
        if at == len(text):
            break
        if text[at] != ",":
            raise _UnfitError
        at = _past(_BLANKS, text, at + 1)
        if at == len(text):
            raise _UnfitError
    return found


def _item_or_list(text: str, at: int) -> tuple[Value, int]:
    """Return a value and where it ends; what parameters say of it is dropped."""
    if text[at : at + 1] != "(":
        value, at = _bare(text, at)
        return value, _past_parameters(text, at)
    values: list[Scalar] = []
    at = _past(_SPACES, text, at + 1)
    while text[at : at + 1] != ")":
        if len(values) == LIST_MAX:
            raise _UnfitError
        value, at = _bare(text, at)
        values.append(value)
        at = _past_parameters(text, at)
        if text[at : at + 1] not in {" ", ")"}:
            raise _UnfitError
        at = _past(_SPACES, text, at)
    return tuple(values), _past_parameters(text, at + 1)


def _bare(text: str, at: int) -> tuple[Scalar, int]:
    """Return a number, a text, a token or a flag, and where it ends."""
    if match := _STRING.match(text, at):
        return _ESCAPED.sub(r"\1", match.group(1)), match.end()
    if match := _NUMBER.match(text, at):
        said = match.group()
        return float(said) if "." in said else int(said), match.end()
    if match := _FLAG.match(text, at):
        return match.group(1) == "1", match.end()
    token, at = _taken(_TOKEN, text, at)
    return token, at


def _past_parameters(text: str, at: int) -> int:
    """Return where the parameters of a value end."""
    while match := _PARAMETER.match(text, at):
        at = match.end()
        if text[at : at + 1] == "=":
            _, at = _bare(text, at + 1)
    return at


def _taken(form: re.Pattern[str], text: str, at: int) -> tuple[str, int]:
    match = form.match(text, at)
    if match is None:
        raise _UnfitError
    return match.group(), match.end()


def _past(form: re.Pattern[str], text: str, at: int) -> int:
    match = form.match(text, at)
    return at if match is None else match.end()


# Values ------------------------------------------------------------------------------------------


def _member(value: object) -> Value:
    """Return a member of a JSON object."""
    if isinstance(value, list):
        if len(value) > LIST_MAX:
            raise _UnfitError
        return tuple([_scalar(item) for item in value])
    return _scalar(value)


def _scalar(value: object) -> Scalar:
    if isinstance(value, str) and len(value) <= _TEXT_CHARS_MAX:
        return value
    if isinstance(value, bool | int | float):
        return value
    raise _UnfitError


def _checked(found: Fields) -> Fields:
    """Return the keys with each reserved one of its kind; paths in their plain form."""
    for key, value in found.items():
        kind = RESERVED.get(key)
        if kind is not None and not _fits(value, kind):
            raise _UnfitError
    version = found.get("v", 1)
    if version not in {1, 2}:
        raise _UnfitError(Refusal.UNKNOWN_EVENT)
    following = found.get("nor")
    if isinstance(following, str):
        found["nor"] = unquote(following)
    elif isinstance(following, tuple):
        found["nor"] = tuple([unquote(one) if isinstance(one, str) else one for one in following])
    return found


def _fits(value: Value, kind: _Kind) -> bool:
    """Return whether a value is of a kind; a list may be one value where an older sender knows no list."""
    match kind:
        case "number":
            return _is_number(value, whole=True)
        case "numbers":
            items = value if isinstance(value, tuple) else (value,)
            return all(_is_number(item, whole=True) for item in items)
        case "decimal":
            return _is_number(value, whole=False)
        case "flag":
            return isinstance(value, bool)
        case "texts":
            items = value if isinstance(value, tuple) else (value,)
            return all(isinstance(item, str) for item in items)
        case "text" | "token":
            return isinstance(value, str)


def _is_number(value: Value, *, whole: bool) -> bool:
    kinds = int if whole else int | float
    return isinstance(value, kinds) and not isinstance(value, bool)
