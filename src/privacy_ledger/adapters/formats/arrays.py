"""Lines that hold several events: each comes out as a line of its own, with its own outcome."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from privacy_ledger.adapters.formats.json_lines import check_bytes
from privacy_ledger.domain.refusals import Refusal

__all__ = ["ITEMS_MAX", "events_of", "items_of", "split"]

ITEMS_MAX: Final = 20_000
"""A line of more is refused whole: as many valid events do not fit into the longest line."""
_decode = msgspec.json.Decoder(list[msgspec.Raw]).decode


def items_of(line: bytes) -> list[bytes | Refusal]:
    """Return the items of a JSON array, in order, or one refusal for the whole line; never raises.

    The items are not decoded yet: what is wrong within one is its own matter.
    """
    refusal = check_bytes(line)
    if refusal is not None:
        return [refusal]
    try:
        found = _decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return [Refusal.NOT_JSON]
    if len(found) > ITEMS_MAX:
        return [Refusal.LINE_TOO_LONG]
    return [bytes(one).strip() for one in found]


def events_of(line: bytes) -> list[bytes | Refusal]:
    """Return the items of a line that is an array; the line itself where it is none, or an empty one."""
    found = items_of(line) if line.startswith(b"[") else []
    return [line] if found in ([], [Refusal.NOT_JSON]) else found


def split(
    lines: Iterable[tuple[int, bytes | Refusal]], events: Callable[[bytes], list[bytes | Refusal]]
) -> Iterator[tuple[int, bytes | Refusal]]:
    """Yield each event of each line, with the line's number, in order; a refusal as it is."""
    for number, line in lines:
        if type(line) is Refusal:
            yield number, line
        else:
            for one in events(line):
                yield number, one
