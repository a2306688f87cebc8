# ruff: noqa: E501 - a table reads by its rows
"""Made-up card numbers in every disguise and place, and made-up events that hold none; all seeded."""

import base64
import json
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import quote

__all__ = [
    "DISGUISES",
    "ISSUERS",
    "PLACES",
    "SPLITS",
    "SPLIT_PLACES",
    "check_digit",
    "grouped",
    "innocent",
    "numbers",
]

ISSUERS: Final[dict[str, tuple[tuple[str, ...], tuple[int, ...]]]] = {
    "visa": (("4",), (13, 16, 19)),
    "mastercard": (("51", "52", "53", "54", "55", "2221", "2229", "23", "24", "26", "270", "2720"), (16,)),
    "amex": (("34", "37"), (15,)),
    "discover": (("6011", "644", "649", "65"), (16, 17, 18, 19)),
    "diners": (("300", "305", "3095", "36", "38", "39"), (14, 16, 19)),
    "jcb": (("3528", "3530", "3566", "3589"), (16, 17, 18, 19)),
    "unionpay": (("62", "8100", "8171"), (16, 17, 18, 19)),
    "maestro": (
        ("5018", "5020", "5038", "5893", "6304", "6759", "6761", "6762", "6763"), (12, 13, 14, 15, 16, 17, 18, 19),
    ),
}  # fmt: skip
"""Where numbers begin and how long they are, as the issuers publish it; not taken from the code."""

_ARABIC: Final = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
_DEVANAGARI: Final = str.maketrans("0123456789", "०१२३४५६७८९")
_FULL_WIDTH: Final = {code: code + 0xFEE0 for code in range(ord("0"), ord("9") + 1)}


def check_digit(digits: str) -> str:
    """Return the digit that completes some digits, by the plain textbook method."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def numbers(seed: int, count: int) -> Iterator[tuple[str, str]]:
    """Yield (issuer, number): every beginning and length in turn, the rest at random."""
    rng = random.Random(seed)
    kinds = [
        (name, start, size) for name, (starts, sizes) in ISSUERS.items() for start in starts for size in sizes
    ]
    for place in range(count):
        name, start, size = kinds[place % len(kinds)]
        body = start + "".join(rng.choice("0123456789") for _ in range(size - 1 - len(start)))
        yield name, body + check_digit(body)


def grouped(number: str) -> list[str]:
    """Return a number in the groups that stand on its card."""
    if len(number) in {14, 15} and number[0] == "3":
        return [number[:4], number[4:10], number[10:]]
    return [number[at : at + 4] for at in range(0, len(number), 4)]


DISGUISES: Final[dict[str, Callable[[str], str]]] = {
    "plain": lambda n: n,
    "spaces": lambda n: " ".join(grouped(n)),
    "dashes": lambda n: "-".join(grouped(n)),
    "dots": lambda n: ".".join(grouped(n)),
    "no-break spaces": lambda n: "\u00a0".join(grouped(n)),
    "en dashes": lambda n: "\u2013".join(grouped(n)),
    "every digit apart": " ".join,
    "zero-width": "\u200b".join,
    "full-width": lambda n: n.translate(_FULL_WIDTH),
    "Arabic-Indic": lambda n: n.translate(_ARABIC),
    "Devanagari, spaced": lambda n: " ".join(grouped(n)).translate(_DEVANAGARI),
    "percent, spaces": lambda n: quote(" ".join(grouped(n))),
    "percent, every digit": lambda n: "".join(f"%{ord(digit):02X}" for digit in n),
    "percent, twice": lambda n: quote(quote("-".join(grouped(n)) + "/")),
    "base64": lambda n: base64.b64encode(n.encode()).decode(),
    "base64url, spaces": lambda n: base64.urlsafe_b64encode(
        f"pay {' '.join(grouped(n))}?>".encode()
    ).decode(),
    "entities": lambda n: "".join(f"&#{ord(digit)};" for digit in n),
    "named entities": lambda n: "&nbsp;".join(grouped(n)),
    "hex": lambda n: n.encode().hex(),
    "escapes": lambda n: "".join(f"\\u{ord(digit):04x}" for digit in n),
}
"""How a number is written, by name."""

SPLITS: Final[dict[str, Callable[[str], object]]] = {
    "members": lambda n: {f"n{at}": part for at, part in enumerate(grouped(n))},
    "members out of order": lambda n: {
        f"n{at}": part for at, part in sorted(enumerate(grouped(n)), key=lambda pair: pair[0] % 2)
    },
    "items": grouped,
    "digits": list,
    "objects": lambda n: [{"part": part} for part in grouped(n)],
}
"""How a number is split over neighbours, by name."""


def _event(**members: object) -> dict[str, object]:
    return {"event_type": "edx.ui.lms.link_clicked", "time": "2026-03-01T12:00:00.123456+00:00", **members}


PLACES: Final[dict[str, Callable[[str], object]]] = {
    "text": lambda t: _event(event={"body": f"my number is {t}, thanks"}),
    "name": lambda t: _event(username=t),
    "nested": lambda t: _event(context={"a": [{"b": {"c": [None, 1, t]}}]}),
    "key": lambda t: _event(event={t: 1}),
    "JSON in text": lambda t: _event(event=json.dumps({"answers": {"p1": t}})),
    "JSON in JSON in text": lambda t: _event(event=json.dumps({"x": json.dumps({"y": [t]})}, ensure_ascii=False)),
    "JSON cut off": lambda t: _event(event=json.dumps({"saved_response": t, "more": "x" * 40})[:-9]),
    "path": lambda t: _event(page=f"https://courses.example.com/pay/{t}/done"),
    "query": lambda t: _event(referer=f"https://courses.example.com/pay?q={t}&next=%2Finfo"),
    "fragment": lambda t: _event(page=f"https://courses.example.com/pay#c={t}"),
    "form": lambda t: _event(event=f"first=ada&value={t}&last=x"),
    "form in JSON": lambda t: _event(event=json.dumps(f"input_1={t}&input_2=choice_0")),
    "list": lambda t: _event(event={"tags": ["a", t, "b"]}),
    "card field": lambda t: _event(event={"cardNumber": t}),
}  # fmt: skip
"""Kinds of fields that hold text."""

SPLIT_PLACES: Final[dict[str, Callable[[object], object]]] = {
    "member": lambda v: _event(event={"value": v}),
    "JSON in text": lambda v: _event(event=json.dumps({"value": v})),
    "answers": lambda v: _event(event={"answers": v, "attempts": 1}),
}


# Events that hold no card ----------------------------------------------------------------

_TEXT: Final = (
    "the course starts on monday and section seven has 12 videos about numbers like 3.14159265358979 or 1024 "
    "please answer question 4 before 2026-04-01 12:30:00 my group has 25 members see chapter 10 page 233 "
    "isbn 978-3-16-148410-0 version 12.4.1 room 4711 score 87.5 of 100 with 1,234,567 learners since 2012"
)
_WORDS: Final = tuple(_TEXT.split())
_THINGS: Final = ("order", "transaction", "invoice", "user", "session")


def innocent(seed: int, count: int) -> Iterator[bytes]:
    """Yield events as platforms send them, with every kind of long number that is none of a card."""
    rng = random.Random(seed)
    for _ in range(count):
        members: dict[str, object] = {
            "event_type": rng.choice(("play_video", "problem_check", "edx.bi.order.completed", "page_view")),
            "time": f"2026-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}T{rng.randint(0, 23):02d}:"
            f"{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}.{rng.randint(0, 999999):06d}+00:00",
            "session": f"{rng.getrandbits(128):032x}",
            "ip": f"{rng.randint(1, 223)}.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(0, 255)}",
            "context": {"user_id": _user_id(rng), "course_id": _course(rng)},
            "event": {},
        }
        for _ in range(rng.randint(2, 6)):
            name, value = rng.choice(_KINDS)(rng)
            target = members if rng.random() < 0.3 else members["event"]
            if isinstance(target, dict):
                target[name] = value
        if rng.random() < 0.3:
            members["event"] = json.dumps(members["event"])
        yield json.dumps(members).encode()


def _digits(rng: random.Random, size: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(size))


def _user_id(rng: random.Random) -> object:
    return rng.choice((rng.randint(1, 10**8), rng.randint(10**17, 2 * 10**18), str(rng.randint(1, 10**10))))


def _course(rng: random.Random) -> str:
    return f"course-v1:Example{rng.randint(1, 99)}+CS{rng.randint(100, 999)}+{rng.randint(2012, 2027)}_T{rng.randint(1, 3)}"


def _order(rng: random.Random) -> tuple[str, object]:
    value = rng.choice(
        (
            f"EDX-{rng.randint(100000, 999999)}", str(rng.randint(10**9, 10**10)), rng.randint(10**12, 10**13),
            f"{_digits(rng, 3)}-{_digits(rng, 7)}-{_digits(rng, 7)}", str(rng.randint(10**17, 2 * 10**18)),
            _digits(rng, 16), int("1" + _digits(rng, 15)), f"2026{_digits(rng, 4)}-{_digits(rng, 6)}",
        )
    )  # fmt: skip
    return rng.choice(("order_id", "orderNumber", "transaction_id", "invoice_number")), value


def _epoch(rng: random.Random) -> tuple[str, object]:
    seconds = rng.randint(1_400_000_000, 1_900_000_000)
    value = rng.choice((seconds, seconds * 10**3, seconds * 10**6, seconds * 10**9)) + rng.randint(0, 999)
    return rng.choice(("timestamp", "sent_at", "ts", "value", "currentTime")), rng.choice((value, str(value)))


def _phone(rng: random.Random) -> tuple[str, object]:
    country = rng.choice(
        ("1", "44", "49", "43", "34", "39", "91", "86", "62", "57", "60", "63", "351", "353")
    )
    number = country + _digits(rng, 12 - len(country) if rng.random() < 0.7 else 13 - len(country))
    spaced = f"+{country} {number[len(country) : -7]} {number[-7:-4]} {number[-4:]}"
    if rng.random() < 0.2:
        return "body", f"call me at +{number} after six, or {spaced}"
    return rng.choice(("phone", "mobile_number", "phoneNumber")), rng.choice((number, f"+{number}", spaced))


def _token(rng: random.Random) -> tuple[str, object]:
    bits = rng.getrandbits
    value = rng.choice(
        (
            str(uuid.UUID(int=bits(128), version=4)), f"{bits(64):016x}", f"{bits(96):024x}", f"{bits(160):040x}",
            f"{bits(256):064x}", f"block-v1:ExampleX+CS1+T1+type@problem+block@{bits(128):032x}",
            f"input_{bits(128):032x}_2_1", f"GA1.2.{rng.randint(10**8, 10**10)}.{rng.randint(16 * 10**8, 18 * 10**8)}",
            base64.urlsafe_b64encode(rng.randbytes(24)).decode(), f"pay_{base64.b32encode(rng.randbytes(10)).decode()}",
            base64.b64encode(" ".join(rng.choices(_WORDS, k=8)).encode()).decode(), base64.b64encode(rng.randbytes(48)).decode(),
        )
    )  # fmt: skip
    return rng.choice(("id", "request", "anonymous_id", "trace", "problem_id", "state")), value


def _text(rng: random.Random) -> tuple[str, object]:
    return rng.choice(("body", "title", "answer")), " ".join(rng.choices(_WORDS, k=rng.randint(5, 40)))


def _link(rng: random.Random) -> tuple[str, object]:
    course = quote(_course(rng), safe="")
    return rng.choice(("page", "referer", "target_url")), (
        f"https://courses.example.com/courses/{course}/courseware/{rng.getrandbits(128):032x}/"
        f"?{rng.choice(_THINGS)}_id={_digits(rng, rng.randint(3, 16))}&t={rng.randint(14 * 10**11, 19 * 10**11)}"
        f"&next=%2Fcourses%2F{course}%2Finfo#part_{rng.randint(1, 9)}"
    )


def _figures(rng: random.Random) -> tuple[str, object]:
    return rng.choice(
        (
            ("currentTime", rng.random() * 5000), ("grade", rng.random()), ("weighted", [rng.random(), 1 / 3]),
            ("scores", [rng.randint(0, 100) for _ in range(rng.randint(3, 20))]),
            ("answers", {f"q{n}": str(rng.randint(1, 5)) for n in range(rng.randint(2, 8))}),
            ("box", [rng.randint(0, 1999) for _ in range(4)]), ("years", [2019, 2020, 2021, 2022]),
            ("amount_minor", rng.randint(1, 10**6)), ("position", f"{rng.random() * 90:.7f}, {rng.random() * 180:.7f}"),
        )
    )  # fmt: skip


_KINDS: Final = (_order, _epoch, _phone, _token, _token, _text, _link, _figures)
