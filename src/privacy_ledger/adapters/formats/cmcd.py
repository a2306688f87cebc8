"""Reports of players (CMCD) as facts about a playback: how well it went, and nobody's name.

A line is a report's own text, its JSON, or an object that holds the report as `cmcd` (text, a query, an
address, or JSON) or as `headers`, with `occurred_at` beside it. A list of them is taken, too.

Kept are the keys of an allow-list, coarsened so that they tell no device apart. The session is never a
member of the fact: it only says which reports lie together while they wait in the unattributed lane
(policy P22). Next objects, addresses, custom keys and signatures are never kept. Pure, and total.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final, cast

import msgspec

from privacy_ledger.adapters.formats import arrays
from privacy_ledger.adapters.formats.cmcd_fields import (
    Fields,
    Value,
    decode_headers,
    decode_members,
    decode_query,
    decode_text,
)
from privacy_ledger.adapters.formats.json_lines import check_bytes, decode_canonical
from privacy_ledger.adapters.formats.minimise import plain_activity
from privacy_ledger.adapters.formats.times import epoch_time, parse_time
from privacy_ledger.domain.events import VideoQoeReported, event_type
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import EPOCH
from privacy_ledger.ports.formats import Parsed

__all__ = ["CONTENT_CHARS_MAX", "events", "parse"]

CONTENT_CHARS_MAX: Final = 128
_COARSE: Final = 100
"""Throughput and lengths are rounded to hundreds, as the specification asks of senders."""
_ENVELOPE: Final = frozenset(("cmcd", "headers", "occurred_at"))
_MACHINE: Final = re.compile(r"\[|[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9A-Za-z])")
"""An address of a machine, which may be the viewer's own, is no name of a content."""
_IN_QUERY: Final = re.compile(r"(?:\A|[?&])CMCD=")
_SESSION: Final = re.compile(r"[A-Za-z0-9_.\-]{8,64}")
_STATES: Final = {
    "a": "paused", "d": "preloading", "e": "ended", "f": "failed", "k": "seeking", "p": "playing",
    "q": "quit", "r": "rebuffering", "s": "starting", "w": "waiting",
}  # fmt: skip
_STREAMS: Final = {"l": "live", "ll": "live", "v": "recorded"}
_encode = msgspec.json.Encoder().encode


def events(lines: Iterable[tuple[int, bytes | Refusal]]) -> Iterator[tuple[int, bytes | Refusal]]:
    """Yield each report of each line, with the line's number, in order; a refusal as it is.

    A report's own text becomes the object that holds it, so that it is screened like any other.
    """
    for number, line in arrays.items(lines):
        if type(line) is Refusal or line[:1] in {b"{", b"["}:
            yield number, line
        else:
            yield number, check_bytes(line) or _encode({"cmcd": line.decode()})


def parse(
    line: bytes, *, received_at: datetime | None = None, takes_untimed: bool = True
) -> Parsed | Refusal:
    """Return what one report says, or the first refusal that applies; never raises.

    `received_at`: when a report without a time happened, if `takes_untimed`; else it is refused. A report
    without any key of the allow-list is `UNKNOWN_EVENT`.
    """
    decoded = decode_canonical(line)
    if type(decoded) is Refusal:
        return decoded
    root, canonical = decoded
    fields = _fields(root)
    if type(fields) is Refusal:
        return fields
    said_at = _time(root, fields, received_at=received_at if takes_untimed else None)
    fact = _fact(fields, at=EPOCH if type(said_at) is Refusal else said_at)
    if type(fact) is Refusal:
        return fact
    if type(said_at) is Refusal:
        return said_at
    session = fields.get("sid")
    is_session = isinstance(session, str) and _SESSION.fullmatch(session) is not None
    return Parsed(
        people=(),
        unattributed=(fact,),
        device=None,
        occurred_at=said_at,
        source_event_id=None,
        anonymous=f"session:{session}" if is_session else None,
        digest_input=canonical,
    )


def _fields(root: dict[str, object]) -> Fields | Refusal:
    """Return the keys of the report that a line holds."""
    if _ENVELOPE.isdisjoint(root):
        return decode_members(root)
    report, headers = root.get("cmcd"), root.get("headers")
    if not root.keys() <= _ENVELOPE or (report is None) == (headers is None):
        return Refusal.SCHEMA_MISMATCH
    match report:
        case str():
            return (decode_query if _IN_QUERY.search(report) else decode_text)(report)
        case dict():
            return decode_members(cast("Mapping[str, object]", report))
        case None if isinstance(headers, dict):
            return decode_headers(cast("Mapping[str, object]", headers))
        case _:
            return Refusal.SCHEMA_MISMATCH


def _time(root: dict[str, object], fields: Fields, *, received_at: datetime | None) -> datetime | Refusal:
    """Return when it was reported: as the line says, else as the report does, else when it came."""
    said = root.get("occurred_at")
    if said is not None:
        return parse_time(said)
    counted = fields.get("ts")
    if counted is not None:
        return epoch_time(counted, per_second=1000)
    return received_at or Refusal.TIME_MISSING


def _fact(fields: Fields, *, at: datetime) -> VideoQoeReported | Refusal:
    """Return the fact, of what the allow-list takes."""
    state, stream = fields.get("sta"), fields.get("st")
    members = {
        "video": _content(fields.get("cid")),
        "bitrate_kbps": _most(fields.get("br")),
        "throughput_kbps": _coarse(_most(fields.get("mtp"))),
        "buffer_ms": _coarse(_least(fields.get("bl"))),
        "starved_ms": _coarse(_most(fields.get("bsd"))),
        "start_delay_ms": _coarse(_most(fields.get("msd"))),
        "dropped_frames": _most(fields.get("dfa")),
        "is_starved": fields.get("bs"),
        "is_startup": fields.get("su"),
        "state": _STATES.get(state) if isinstance(state, str) else None,
        "stream": _STREAMS.get(stream) if isinstance(stream, str) else None,
    }
    kept = {name: value for name, value in members.items() if value is not None}
    if not kept:
        return Refusal.UNKNOWN_EVENT
    try:
        return msgspec.convert(
            {**kept, "type": event_type(VideoQoeReported), "occurred_at": at}, VideoQoeReported
        )
    except msgspec.ValidationError:
        return Refusal.SCHEMA_MISMATCH


def _content(value: Value | None) -> str | None:
    """Return the name of what is played; of a web address no parameter and no segment of a person."""
    if not isinstance(value, str) or len(value) > CONTENT_CHARS_MAX:
        return None
    name = plain_activity(value)
    if name is None or "@" in name or "?" in name or _MACHINE.match(name) is not None:
        return None
    return name


def _most(value: Value | None) -> int | None:
    """Return the highest of the numbers that are given for several kinds of objects."""
    return max(_numbers(value), default=None)


def _least(value: Value | None) -> int | None:
    return min(_numbers(value), default=None)


def _numbers(value: Value | None) -> list[int]:
    items = value if isinstance(value, tuple) else (value,)
    return [item for item in items if type(item) is int]


def _coarse(number: int | None) -> int | None:
    """Return a number to the nearest hundred; one below zero stays, for it is none of these."""
    if number is None or number < 0:
        return number
    return (number + _COARSE // 2) // _COARSE * _COARSE
