"""The screen: refuses an event in which a payment card's number, its code or a secret stands.

It comes after an event is decoded and before anything is made of it, so that nothing of a refused
event is ever durable (PCI DSS 3.3.1, 3.4.1 and 3.5.1; the policy takes no complete card number).
It reads every member, key and item, also within text: JSON, forms, links, escapes, base64, and
numbers that neighbours share.

First a look at the event's bytes tells whether anything could be there at all; only then is it
walked. Pure and total. The look is linear in the event, and the walk has a bound of its own.
"""

import re
from collections.abc import Iterable
from typing import Final, cast

import msgspec

from privacy_ledger.adapters.formats.card_numbers import (
    DIGITS_MIN,
    Naming,
    holds_card_number,
    holds_split_number,
    naming_of,
    words_of,
)
from privacy_ledger.adapters.formats.credentials import (
    KEY_STARTS,
    TRIGGER_PATTERNS,
    TRIGGERS,
    holds_secret,
    is_secret_field,
)
from privacy_ledger.adapters.formats.unwrap import WrappedTooDeep, hidden_in, layers_of, plain
from privacy_ledger.domain.refusals import Refusal

__all__ = ["NESTED_MAX", "WORK_FACTOR", "screen"]

NESTED_MAX: Final = 8
"""JSON or base64 within text within text: as deep as this, and no deeper."""
WORK_FACTOR: Final = 64
"""So many times an event's own length is read at most, layers and decoded texts included."""
WORK_FREE_CHARS: Final = 1 << 16

# The look at the bytes -------------------------------------------------------------------

# The three letters are line ends and tabs, as JSON escapes them.
_BETWEEN_DIGITS: Final = b" \t\r\n-_/+,*~|'\"()#;\\[]{}ntr"
_BETWEEN_DIGITS_AND_DOTS: Final = _BETWEEN_DIGITS + b"."
_DOTTED: Final = re.compile(rb"\.[ \-]?[0-9]{4,6}[ .\-]|\.(?:[0-9]{1,3}\.){4}")
# Any issuer's number begins so; one that is written as hex digits does, too. The patterns here are
# written out where they begin, so that the search skips to the next byte that could begin a match.
_DIGITS: Final = bytes(b"0"[0] if bytes((byte,)).isdigit() else b" "[0] for byte in range(256))
_LONG: Final = b"0" * DIGITS_MIN
_NUMBER: Final = re.compile(rb"[2-68][0-9]{11}")
# What base64 makes of twelve digits has sixteen letters and digits in a row. The other pattern is four
# digits and a separator in hex.
_RUN_CHARS_MIN: Final = 16
_RUNS: Final = bytes(b"a"[0] if bytes((byte,)).isalnum() else b" "[0] for byte in range(256))
_RUN: Final = b"a" * _RUN_CHARS_MIN
_QUOTE: Final = b'"'[0]
_HEX_DIGITS: Final = b"0123456789ABCDEF"
_HEX: Final = re.compile(rb"3[0-9]3[0-9]3[0-9]3[0-9][2c-eC-E]")
_PART: Final = rb'(?:"[0-9][0-9\-]{0,18}"|[0-9]{1,19})'
_PARTS: Final = (
    re.compile(rb'"[0-9][0-9\-]{0,18}"[\]},\[{]'),
    re.compile(rb':[0-9]{4,16}[\]},\[{]{1,4}"[^"]{0,64}":\[?[0-9]'),
    re.compile(rb",[0-9]{4,16}[\],]"),
    re.compile(rb"=[0-9]{1,19}&[A-Za-z_]"),
)
_BETWEEN_PARTS: Final = rb'(?:[\]}{\[,&]{1,4}(?:"[^"]{0,64}":|[A-Za-z_][A-Za-z0-9_.\-]{0,63}=)?){1,3}'
_PARTS_ROW: Final = re.compile(
    rb"[:=\[,](?:" + _PART + _BETWEEN_PARTS + rb")+" + _PART + rb'(?=[",&}\]])'
)  # fmt: skip
# Positions in videos and shares of points have long fractions; sessions are ids in hex; times count
# milli-, micro- or nanoseconds, and no issuer's number begins as they do. None is a part of a number, nor
# is a UUID after its first part: `card_numbers` finds none in one, whatever its digits are.
_DULL: Final = (
    re.compile(rb"\.(?<=[0-9]\.)(?<![0-9]{6}\.)[0-9]{7,18}(?![0-9.])"),
    re.compile(rb'"(?=[0-9]*[a-f][0-9]*[a-f])[0-9a-f]{32}"'),
    re.compile(
        rb"-(?<=[0-9A-Fa-f]{8}-)(?<![0-9A-Za-z][0-9A-Fa-f]{8}-)"
        rb"(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![0-9A-Za-z])"
    ),
    re.compile(rb"1(?<![0-9]1)(?<![0-9][^0-9A-Za-z]1)[4-9][0-9]{11}(?:[0-9]{3}){0,2}(?![0-9])"),
)
_WRAPPED: Final = re.compile(rb"%[0-9A-Fa-f]{2}|\\\\u|&(?:#|[A-Za-z]{2,8};)")
_GROUP: Final = re.compile(rb"[0-9]+")
_LETTERS: Final = bytes(range(256)).lower()
_NO_LETTERS: Final = b"0123456789_-. \\,:;/+?=&%{}[]()"
_WORDS: Final = tuple(word.encode() for word in (*TRIGGERS, "card", "cv", "securitycode", 'pan"'))

# Codes -----------------------------------------------------------------------------------

_CODE_WORDS: Final = frozenset(
    ("cvc", "cvc2", "cvv", "cvv2", "cvccode", "cvvcode", "securitycode", "cardcode")
)
_CODE_PAIRS: Final = (
    frozenset(("security", "code")), frozenset(("card", "code")), frozenset(("card", "verification")),
)  # fmt: skip
_CODE_WORDS_BESIDE_A_CARD: Final = frozenset(("cid", "csc", "cvn", "cav", "cav2"))
_CODE: Final = re.compile(r"\s*(?:[0-9][ .\-]?){2,3}[0-9]\s*")
_CODE_IN_TEXT: Final = re.compile(
    r"(?<![A-Za-z])(?:cv[cv]2?|security[ _\-]?code|card[ _\-]?verification[ _\-]?(?:code|value|number))"
    r"[^0-9A-Za-z]{0,8}(?:(?:code|number|no|nr|is|value)[^0-9A-Za-z]{0,8}){0,2}[0-9]{3,4}(?![0-9A-Za-z])",
    re.IGNORECASE,
)
_CARD_WORDS: Final = frozenset(("card", "cardholder", "cardnumber", "creditcard", "cvc", "cvv", "pan"))
_FORM_VALUE: Final = re.compile(r"=([^&]{0,64})")
_SPLIT_PART: Final = re.compile(r"[0-9](?:[ \-]{0,2}[0-9]){0,17}[ \-]?")
_NOT_DIGITS: Final = re.compile(r"[^0-9]+")
_ESCAPES: Final = frozenset("%&\\")
_JSON_STARTS: Final = frozenset('{["')

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def screen(root: object) -> Refusal | None:
    """Return why a decoded event must not be taken, or None; never raises.

    Order: `CARD_NUMBER`, `SECRET`; `TOO_DEEP` instead of either when the event is wrapped more often,
    or is longer when it is unwrapped, than the screen reads; `NOT_JSON` for what JSON cannot say.
    """
    try:
        written = _encode(root)
    except (UnicodeError, OverflowError, RecursionError, TypeError):
        return Refusal.NOT_JSON
    try:
        return _Walk(len(written)).read(root) if _may_hold(written) else None
    except WrappedTooDeep:
        return Refusal.TOO_DEEP


def _may_hold(written: bytes) -> bool:
    """Return whether there could be anything to find: false only when there is nothing."""
    if written.isascii() and not _is_wrapped(written):
        return _shows(written)
    return any(_shows(layer.encode(errors="replace")) for layer in layers_of(written.decode()))


def _is_wrapped(data: bytes) -> bool:
    return (b"%" in data or b"&" in data or b"\\\\u" in data) and _WRAPPED.search(data) is not None


def _shows(data: bytes) -> bool:
    """Return whether one layer of an event shows anything that could be a number or a secret."""
    letters = data.translate(_LETTERS, _NO_LETTERS)
    for word in _WORDS:
        if word in letters:
            return True
    for pattern in TRIGGER_PATTERNS:
        if pattern.search(letters) is not None:
            return True
    for start in KEY_STARTS:
        if start.search(data) is not None:
            return True
    if _shows_base64(data) or _HEX.search(data) is not None:
        return True
    if _shows_number(data):
        return True
    data = data.translate(None, b"\\ ")
    for parts in _PARTS:
        if parts.search(data) is not None:
            return any(
                sum(map(len, _GROUP.findall(row.group()))) >= DIGITS_MIN for row in _PARTS_ROW.finditer(data)
            )
    return False


def _shows_base64(data: bytes) -> bool:
    """Return whether there is a row of letters and digits that a card's number in base64 may be.

    Such a row is long and has capitals beyond F; ids in hex have none. One between quotes is decoded at
    once: nothing is beside it that could belong to it, and most are words, which are the base64 of no text.
    """
    runs = data.translate(_RUNS)
    at = runs.find(_RUN)
    while at >= 0:
        end = runs.find(b" ", at)
        run = data[at:end] if end >= 0 else data[at:]
        if not run.islower() and run.strip(_HEX_DIGITS):
            is_quoted = at > 0 and data[at - 1] == data[end] == _QUOTE
            if not is_quoted or next(hidden_in(run.decode()), None) is not None:
                return True
        at = runs.find(_RUN, at + len(run))
    return False


def _shows_number(data: bytes) -> bool:
    """Return whether there are as many digits, with nothing but separators between, as a card has."""
    if _LONG not in data.translate(_DIGITS, _BETWEEN_DIGITS_AND_DOTS):
        return False
    between = _BETWEEN_DIGITS if _DOTTED.search(data) is None else _BETWEEN_DIGITS_AND_DOTS
    if _LONG not in data.translate(_DIGITS, between) or _NUMBER.search(data.translate(None, between)) is None:
        return False
    rest = data
    for dull in _DULL:
        rest = dull.sub(b"x", rest)
    return len(rest) == len(data) or _NUMBER.search(rest.translate(None, between)) is not None


# The walk --------------------------------------------------------------------------------


class _Walk:
    """One reading of an event, in the order in which it is written."""

    def __init__(self, size: int) -> None:
        self._left = WORK_FREE_CHARS + WORK_FACTOR * size
        self._row: list[tuple[str, bool]] = []
        self._is_one_place = False
        self._has_secret = False
        self._has_number = False

    def read(self, root: object) -> Refusal | None:
        """Return the first refusal that applies.

        Raises:
            WrappedTooDeep: the bounds of nesting or of work are reached.
        """
        stack: list[tuple[str, object, int, bool]] = [("", root, 0, False)]
        while stack and not self._has_number:
            name, value, nested, has_card = stack.pop()
            if isinstance(value, str):
                inner = self._json_in(value)
                if inner is None:
                    self._text(name, value, nested=nested, has_card=has_card)
                elif nested == NESTED_MAX:
                    raise WrappedTooDeep
                else:
                    stack.append((name, inner, nested + 1, has_card))
            elif isinstance(value, dict):
                members = cast("dict[str, object]", value)
                self._neighbours(members.values())
                self._neighbours(members[key] for key in sorted(members))
                has_card = any(words_of(key) & _CARD_WORDS for key in members)
                for key in members:
                    self._key(key, nested=nested)
                stack += [(key, members[key], nested, has_card) for key in reversed(members)]
            elif isinstance(value, list):
                self._neighbours(value)
                stack += [(name, item, nested, has_card) for item in reversed(value)]
            else:
                self._number(name, value, has_card=has_card)
        self._end_row()
        if self._has_number:
            return Refusal.CARD_NUMBER
        return Refusal.SECRET if self._has_secret else None

    # Leaves -------------------------------------------------------------------------------

    def _json_in(self, text: str) -> object:
        """Return the object, list or text that text is the JSON of, or None."""
        start = text.lstrip()[:1]
        if start not in _JSON_STARTS or not start:
            return None
        self._spend(text)
        try:
            value: object = _decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None
        # A key that stands twice would hide a member: such text is read as text, too.
        if isinstance(value, dict | list) and text.count(":") != _encode(value).count(b":"):
            self._text("", text, nested=NESTED_MAX, has_card=False)
        return value

    def _number(self, name: str, value: object, *, has_card: bool) -> None:
        """Read a number; one with a fraction, true, false and null hold nothing."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int:
            self._end_row()
            return
        text = str(abs(value))
        self._spend(text)
        self._judge(name, text, has_card=has_card)
        self._part(text, is_text=False)

    def _key(self, key: str, *, nested: int) -> None:
        """Read a key as text of no field; it parts no neighbours."""
        row, self._row = self._row, []
        self._text("", key, nested=nested, has_card=False)
        self._end_row()
        self._row = row

    def _text(self, name: str, text: str, *, nested: int, has_card: bool) -> None:
        """Read text in all its layers, and what it hides."""
        if len(text) < DIGITS_MIN and text.isascii() and not _ESCAPES.intersection(text):
            self._judge(name, text, has_card=has_card)
            self._part(text, is_text=True)
            return
        is_named = has_card or naming_of(name) in {Naming.CARD, Naming.NUMBER}
        for layer in layers_of(text):
            self._spend(layer)
            if not (is_named or _shows(layer.encode(errors="replace"))):
                self._has_number |= _is_code(name, layer, has_card=has_card)
                self._has_secret |= is_secret_field(name, layer)
                continue
            self._judge(name, layer, has_card=has_card)
            if "&" in layer and "=" in layer:
                self._form(layer)
            for inner in hidden_in(layer):
                self._spend(inner)
                self._hidden(name, inner, nested=nested, has_card=has_card)
            if self._has_number:
                return
        self._part(plain(text), is_text=True)

    def _hidden(self, name: str, text: str, *, nested: int, has_card: bool) -> None:
        """Read text that was hidden in text."""
        if nested >= NESTED_MAX:
            raise WrappedTooDeep
        inner = self._json_in(text) if nested == 0 else None
        if isinstance(inner, dict | list):
            walk = _Walk(0)
            walk._left = self._left
            found = walk.read(inner)
            self._left = walk._left
            self._has_number |= found is Refusal.CARD_NUMBER
            self._has_secret |= found is Refusal.SECRET
            return
        row, self._row = self._row, []
        self._text(name, text, nested=nested + 1, has_card=has_card)
        self._row = row

    def _judge(self, name: str, text: str, *, has_card: bool) -> None:
        """Note what one plain text of a field holds."""
        if _is_code(name, text, has_card=has_card) or holds_card_number(text, name=name, has_card=has_card):
            self._has_number = True
        elif not self._has_secret and text:
            self._has_secret = is_secret_field(name, text) or holds_secret(text)

    def _form(self, text: str) -> None:
        """Read the values of form data as neighbours."""
        self._neighbours(_FORM_VALUE.findall(text))

    # Neighbours ---------------------------------------------------------------------------

    def _neighbours(self, values: Iterable[object]) -> None:
        """Read the digits of one object, list or form as rows of their own, apart from what is around it."""
        row, self._row = self._row, []
        self._is_one_place = True
        for value in values:
            if isinstance(value, str):
                self._part(plain(value), is_text=True)
            elif type(value) is int:
                self._part(str(abs(value)), is_text=False)
            else:
                self._end_row()
        self._end_row()
        self._is_one_place = False
        self._row = row

    def _part(self, text: str, *, is_text: bool) -> None:
        """Take a leaf as the next of its row when it is digits only; anything else ends the row."""
        if _SPLIT_PART.fullmatch(text) is None:
            self._end_row()
            return
        self._row.append((_NOT_DIGITS.sub("", text), is_text))

    def _end_row(self) -> None:
        if len(self._row) > 1 and holds_split_number(self._row, is_one_place=self._is_one_place):
            self._has_number = True
        self._row = []

    def _spend(self, text: str) -> None:
        """Count what is read.

        Raises:
            WrappedTooDeep: it is more than the event may cost.
        """
        self._left -= len(text)
        if self._left < 0:
            raise WrappedTooDeep


def _is_code(name: str, text: str, *, has_card: bool) -> bool:
    """Return whether a card's verification code stands in a field so named, or in text beside its name."""
    if name and _CODE.fullmatch(text) is not None:
        words = words_of(name)
        if words & _CODE_WORDS or any(pair <= words for pair in _CODE_PAIRS):
            return True
        if has_card and words & _CODE_WORDS_BESIDE_A_CARD:
            return True
    return _CODE_IN_TEXT.search(text) is not None
