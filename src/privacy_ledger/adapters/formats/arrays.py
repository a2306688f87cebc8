"""Lines that hold several events: each item of an array is an event with an outcome of its own."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from privacy_ledger.adapters.formats.json_lines import check_bytes
from privacy_ledger.domain.refusals import Refusal

__all__ = ["ITEMS_MAX", "array_items", "items", "split"]

ITEMS_MAX: Final = 20_000
"""A line of more is refused whole: as many events of any format do not fit into the longest line."""
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def split(
    lines: Iterable[tuple[int, bytes | Refusal]], events: Callable[[bytes], list[bytes | Refusal]]
) -> Iterator[tuple[int, bytes | Refusal]]:
    """Yield each event of each line by what `events` says, with the line's number; a refusal as it is."""
    for number, line in lines:
        if type(line) is Refusal:
            yield number, line
        else:
            for one in events(line):
                yield number, one


def items(lines: Iterable[tuple[int, bytes | Refusal]]) -> Iterator[tuple[int, bytes | Refusal]]:
    """Yield each event of each line, with the line's number, in order; a refusal as it is.

    A line is an event or an array of them. What is neither, or an empty array, comes as it is.
    """
    for number, line in lines:
        if type(line) is not Refusal and line[:1] == b"[":
            for one in array_items(line):
                yield number, one
        else:
            yield number, line


def array_items(line: bytes) -> list[bytes | Refusal]:
    """Return the items of a line that begins an array, or the line itself where it is none; never raises.

    Bounded as any line, and by `ITEMS_MAX`. An item is not screened: take nothing from it.
    """
    refusal = check_bytes(line)
    if refusal is not None:
        return [refusal]
    try:
        found = _decode_array(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return [line]
    if len(found) > ITEMS_MAX:
        return [Refusal.LINE_TOO_LONG]
    return [bytes(one).strip() for one in found] or [line]
