"""Payment card numbers in plain text, by issuer, length, check digit, grouping and the field's name.

The check digit alone would take one in ten of all long numbers for a card, times in milliseconds
among them. So a number must begin as an issuer's do (ISO/IEC 7812), have a length which that
issuer uses, and be grouped as people group card numbers. A field's name makes this stricter or
looser: see `Naming`. Pure and total; PCI DSS 3.3 and 3.4 say why no such number may be kept.
"""

import re
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final, NamedTuple, final

__all__ = [
    "BRANDS",
    "DIGITS_MAX",
    "DIGITS_MIN",
    "Brand",
    "Naming",
    "holds_card_number",
    "holds_split_number",
    "is_card_number",
    "naming_of",
    "passes_luhn",
    "words_of",
]

DIGITS_MIN: Final = 12
DIGITS_MAX: Final = 19
IIN_DIGITS: Final = 6


class Brand(NamedTuple):
    """An issuer: the ranges of the first six digits, both ends in, and the lengths of its numbers."""

    name: str
    ranges: tuple[tuple[int, int], ...]
    lengths: frozenset[int]


_FROM_16: Final = frozenset(range(16, 20))
_FROM_14: Final = frozenset(range(14, 20))

BRANDS: Final = (
    Brand("visa", ((400000, 499999),), frozenset((13, 16, 18, 19))),
    Brand("mastercard", ((510000, 559999), (222100, 272099)), frozenset((16,))),
    Brand("amex", ((340000, 349999), (370000, 379999)), frozenset((15,))),
    Brand("discover", ((601100, 601199), (644000, 659999), (622126, 622925)), _FROM_16),
    Brand(
        "diners",
        ((300000, 305999), (309500, 309599), (360000, 369999), (380000, 399999)),
        _FROM_14,
    ),
    Brand("jcb", ((352800, 358999),), _FROM_16),
    Brand("jcb", ((180000, 180099), (213100, 213199)), frozenset((15,))),
    Brand("unionpay", ((620000, 629999), (810000, 817199)), _FROM_16),
    Brand("mir", ((220000, 220499),), _FROM_16),
    # As wide as Mastercard's rules allow it: the ranges in use change, and a miss is worse.
    Brand("maestro", ((500000, 509999), (560000, 589999), (600000, 699999)), frozenset(range(12, 20))),
)
"""The issuers whose numbers are looked for, as of 2026."""

_PREFIXES: Final = frozenset(
    f"{two:02d}"
    for two in range(100)
    for brand in BRANDS
    for low, high in brand.ranges
    if low // 10_000 <= two <= high // 10_000
)
_LENGTHS: Final = {
    prefix: tuple(
        (low, high, brand.lengths)
        for brand in BRANDS
        for low, high in brand.ranges
        if low // 10_000 <= int(prefix) <= high // 10_000
    )
    for prefix in _PREFIXES
}
_VALUES: Final = bytes((byte - 48) % 10 for byte in range(256))
_DOUBLED: Final = bytes(2 * byte - 9 * (byte > 4) if byte < 10 else 0 for byte in range(256))  # noqa: PLR2004


@final
class Naming(Enum):
    """What the name of a field says about a number in it.

    CARD: it is a card's number, so any 13 to 19 digits are one. NUMBER: some number, or about a
    card, so any issuer's check digit will do. PHONE: up to 13 digits are a telephone number's.
    THING: all digits and nothing else are the id of an order, a user or the like. PLAIN: nothing.
    """

    CARD = "card"
    NUMBER = "number"
    PHONE = "phone"
    THING = "thing"
    PLAIN = "plain"


_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_CARD_WORDS: Final = frozenset(
    ("card", "cards", "cc", "creditcard", "debitcard", "paymentcard", "bankcard", "kreditkarte", "tarjeta")
)
_CARD_NUMBER_WORDS: Final = frozenset(
    (
        "pan", "pans", "cardnumber", "cardnumbers", "cardno", "cardnum", "ccnumber", "ccnum", "ccno", "ccn",
        "creditcardnumber", "kartennummer",
    )
)  # fmt: skip
_NUMBER_WORDS: Final = frozenset(("number", "numbers", "num", "no", "nr", "nummer"))
_PHONE_WORDS: Final = frozenset(
    (
        "phone", "phones", "telephone", "tel", "mobile", "fax", "msisdn", "cell", "cellphone", "phonenumber",
        "whatsapp",
    )
)  # fmt: skip
_THING_WORDS: Final = frozenset(
    (
        "basket", "device", "invoice", "learner", "order", "orders", "receipt", "request", "session",
        "student", "ticket", "tracking", "transaction", "txn", "user",
    )
)  # fmt: skip
_THING_ENDS: Final = frozenset(("id", "ids", "key", "ref", "reference", "code", *_NUMBER_WORDS))
_ABOUT_ELSE: Final = frozenset(("at", "created", "id", "ms", "time", "timestamp", "updated"))

_DIGITS: Final = re.compile(r"[0-9]+")
_SEPARATOR: Final = re.compile(r"[ \t\r\n\-._/+,*~|'\"()#;\\]{1,3}")
_NAME_BEFORE: Final = re.compile(
    r"([A-Za-z_][A-Za-z0-9_.\-]{0,63})(?:\[\])?[\"'\\\]]{0,4}\s{0,2}[=:]\s{0,2}[\"'\\\[]{0,4}\+?\Z"
)
_NAME_CHARS_MAX: Final = 80
_OPAQUE: Final = re.compile(
    r"(?<![0-9A-Za-z])(?:[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
    r"|[0-9]*[a-fA-F][0-9]*[a-fA-F][0-9a-fA-F]*)(?![0-9A-Za-z])"
)
_OPAQUE_CHARS: Final = frozenset((16, 24, 32, 36, 40, 48, 56, 64, 96, 128))
_EVEN_GROUPS: Final = frozenset((1, 2, 3, 4, 5, 8))
_OTHER_GROUPS: Final = frozenset(
    ((4, 6, 5), (4, 6, 4), (4, 5, 6), (4, 4, 5), (4, 4, 6), (6, 13), (6, 10), (6, 6, 4))
)
_SHORT_GROUP: Final = 3
_FRACTION_WHOLE_DIGITS: Final = 5
_PHONE_DIGITS_MAX: Final = 13
_CARD_DIGITS_MIN: Final = 13
_INT_GROUP_MIN: Final = 4
_SPLIT_GROUP_MAX: Final = 5


class _Found(NamedTuple):
    """Digits that may be a card's number, where they stand, and whether in one piece."""

    start: int
    end: int
    digits: str
    is_whole: bool


def words_of(name: str) -> frozenset[str]:
    """Return the words of a field's name, lower case: `cardNumber`, `card_number` and `CARD-NUMBER` alike."""
    return frozenset(word.lower() for word in _WORD.findall(name))


def naming_of(name: str) -> Naming:
    """Return what a field's name says about a number in it."""
    words = words_of(name)
    if not words:
        return Naming.PLAIN
    if words & _CARD_NUMBER_WORDS or (words & _CARD_WORDS and words & _NUMBER_WORDS):
        return Naming.CARD
    if words & _PHONE_WORDS:
        return Naming.PHONE
    if words & _THING_WORDS and (words & _THING_ENDS or len(words) == 1):
        return Naming.THING
    if (words & _NUMBER_WORDS or words & _CARD_WORDS) and not words & _ABOUT_ELSE:
        return Naming.NUMBER
    return Naming.PLAIN


def passes_luhn(digits: str) -> bool:
    """Return whether the last of some ASCII digits is their check digit (ISO/IEC 7812-1, Annex B)."""
    values = digits.encode().translate(_VALUES)
    return (sum(values[-1::-2]) + sum(values[-2::-2].translate(_DOUBLED))) % 10 == 0


def is_card_number(digits: str) -> bool:
    """Return whether ASCII digits have an issuer's beginning, one of its lengths, and the check digit."""
    size = len(digits)
    if not DIGITS_MIN <= size <= DIGITS_MAX:
        return False
    ranges = _LENGTHS.get(digits[:2])
    if ranges is None:
        return False
    iin = int(digits[:IIN_DIGITS])
    return any(low <= iin <= high and size in lengths for low, high, lengths in ranges) and passes_luhn(
        digits
    )


def holds_card_number(text: str, *, name: str = "", has_card: bool = False) -> bool:
    """Return whether a card's number stands in text whose digits and separators are plain ASCII.

    `name`: the field's; a name that stands right before a number in the text (`pan=`) goes before
    it. `has_card`: other fields beside this one are about a card, so that no name excuses a number.
    Work is linear in the text.
    """
    if len(text) < DIGITS_MIN:
        return False
    groups = [match.span() for match in _DIGITS.finditer(text)]
    if sum(end - start for start, end in groups) < DIGITS_MIN:
        return False
    opaque = [
        match.span() for match in _OPAQUE.finditer(text) if match.end() - match.start() in _OPAQUE_CHARS
    ]
    naming = naming_of(name)
    is_strict = naming in {Naming.CARD, Naming.NUMBER}
    for run in _runs(text, _outside(groups, opaque)):
        for found in _candidates(text, run, is_strict=is_strict):
            if _is_one(text, found, naming=naming, has_card=has_card):
                return True
    return False


def holds_split_number(parts: Sequence[tuple[str, bool]], *, is_one_place: bool) -> bool:
    """Return whether neighbours make a card's number: the digits of each, and whether they were text.

    Scores, answers and ids stand side by side, too. So text of less than four digits must be the
    whole of its row, which must lie in one object, list or form (`is_one_place`), and numbers must be
    the whole of theirs and have four digits or more each.
    """
    sizes = [len(digits) for digits, _ in parts]
    joined = "".join(digits for digits, _ in parts)
    at = 0
    for first, size in enumerate(sizes):
        for last in _ends(sizes, first, prefix=joined[at : at + 2]):
            used, shape = parts[first : last + 1], sizes[first : last + 1]
            if (
                (is_one_place or size > _SHORT_GROUP)
                and _may_be_split(used, shape, is_row=len(used) == len(parts))
                and is_card_number(joined[at : at + sum(shape)])
            ):
                return True
        at += size
    return False


# Candidates ------------------------------------------------------------------------------


def _may_be_split(parts: Sequence[tuple[str, bool]], shape: Sequence[int], *, is_row: bool) -> bool:
    """Return whether parts of such sizes may be one number: all of them text, or all numbers."""
    if shape[0] > _SPLIT_GROUP_MAX:
        return len(shape) == 2 and shape[0] == 8 and all(is_text for _, is_text in parts)  # noqa: PLR2004
    if all(is_text for _, is_text in parts):
        return True
    return is_row and min(shape[:-1]) >= _INT_GROUP_MIN and not any(is_text for _, is_text in parts)


def _outside(groups: list[tuple[int, int]], opaque: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the groups of digits that are no part of an opaque id, both in order."""
    at = 0
    for start, end in groups:
        while at < len(opaque) and opaque[at][1] <= start:
            at += 1
        if at == len(opaque) or not opaque[at][0] <= start < opaque[at][1]:
            yield start, end


def _runs(text: str, groups: Iterator[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Yield groups of digits that only separators part from each other."""
    run: list[tuple[int, int]] = []
    for group in groups:
        if run and _SEPARATOR.fullmatch(text, run[-1][1], group[0]) is None:
            yield run
            run = []
        run.append(group)
    if run:
        yield run


def _candidates(text: str, run: list[tuple[int, int]], *, is_strict: bool) -> Iterator[_Found]:
    """Yield what may be a card's number in one run of groups."""
    sizes = [end - start for start, end in run]
    joined = "".join(text[start:end] for start, end in run)
    if is_strict and len(run) > 1 and DIGITS_MIN <= len(joined) <= DIGITS_MAX:
        yield _Found(run[0][0], run[-1][1], joined, is_whole=False)
    at = 0
    for first, size in enumerate(sizes):
        if DIGITS_MIN <= size <= DIGITS_MAX:
            yield _Found(*run[first], joined[at : at + size], is_whole=True)
        for last in _ends(sizes, first, prefix=joined[at : at + 2]):
            total = sum(sizes[first : last + 1])
            yield _Found(run[first][0], run[last][1], joined[at : at + total], is_whole=False)
        at += size


def _ends(sizes: Sequence[int], first: int, *, prefix: str) -> Iterator[int]:
    """Yield the last group of each card-like grouping that begins at `first` and has an issuer's prefix."""
    size = sizes[first]
    if size >= DIGITS_MIN + 1 or prefix not in _PREFIXES:
        return
    is_free = size >= _SHORT_GROUP + 1
    if size <= _SHORT_GROUP and first and sizes[first - 1] == size:
        return  # short groups are common in lists: only a whole row of them counts
    total, is_even = size, size in _EVEN_GROUPS
    for last in range(first + 1, len(sizes)):
        total += sizes[last]
        if total > DIGITS_MAX:
            return
        is_even = is_even and sizes[last - 1] == size
        shape = tuple(sizes[first : last + 1])
        if total < DIGITS_MIN or not ((is_even and sizes[last] <= size) or shape in _OTHER_GROUPS):
            continue
        if is_free or last + 1 == len(sizes) or sizes[last + 1] > size:
            yield last


# Judging ---------------------------------------------------------------------------------


def _is_one(text: str, found: _Found, *, naming: Naming, has_card: bool) -> bool:
    """Return whether a candidate is a card's number, by what its field's name makes of it."""
    start, end, digits, is_whole = found
    before = text[max(0, start - _NAME_CHARS_MAX) : start]
    own = _NAME_BEFORE.search(before) if "=" in before or ":" in before else None
    if own is not None:
        naming = naming_of(own.group(1))
    if naming is Naming.CARD and len(digits) >= _CARD_DIGITS_MIN:
        return True
    if naming in {Naming.CARD, Naming.NUMBER} and "2" <= digits[0] <= "6" and passes_luhn(digits):
        return True
    if not is_card_number(digits):
        return False
    if has_card or naming in {Naming.CARD, Naming.NUMBER}:
        return True
    if is_whole and _is_fraction(text, start):
        return False
    if len(digits) <= _PHONE_DIGITS_MAX and (naming is Naming.PHONE or _has_plus(text, start)):
        return False
    is_alone = is_whole and (own is not None or text.strip() == text[start:end])
    return not (naming is Naming.THING and is_alone)


def _is_fraction(text: str, start: int) -> bool:
    """Return whether digits are what follows a decimal point, as in 0.4111."""
    whole = start - 1
    while whole > 0 and start - 1 - whole <= _FRACTION_WHOLE_DIGITS and text[whole - 1].isdecimal():
        whole -= 1
    size = start - 1 - whole
    return (
        start > 1
        and text[start - 1] == "."
        and 1 <= size <= _FRACTION_WHOLE_DIGITS
        and (whole == 0 or text[whole - 1] not in "._")
    )


def _has_plus(text: str, start: int) -> bool:
    """Return whether digits begin with the sign of an international telephone number."""
    at = start - 1
    return at >= 0 and text[at] == "+" and (at == 0 or not text[at - 1].isalnum())
