import gzip
import io
import json
import tracemalloc
from typing import BinaryIO, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privacy_ledger.adapters.formats.json_lines import (
    DEPTH_MAX,
    LINE_BYTES_MAX,
    check_bytes,
    decode_json,
    decode_object,
    read_lines,
)
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.refusals import Refusal


def read(data: bytes, *, line_bytes_max: int = LINE_BYTES_MAX) -> list[tuple[int, bytes | Refusal]]:
    """Return every line of some bytes."""
    return list(read_lines(io.BytesIO(data), line_bytes_max=line_bytes_max))


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (b'{"a":"' + b"x" * LINE_BYTES_MAX + b'"}', Refusal.LINE_TOO_LONG),
        (b"\xff\x00" * LINE_BYTES_MAX, Refusal.LINE_TOO_LONG),
        (b'{"a":"\xff\x00"}', Refusal.NOT_UTF8),
        (b'{"a":"\xed\xa0\x80"}', Refusal.NOT_UTF8),
        (b'{"a":"\0"}', Refusal.NUL_BYTE),
        (b"\0" + b"[" * 1000, Refusal.NUL_BYTE),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, Refusal.TOO_DEEP),
        (b"[" * 100_000, Refusal.TOO_DEEP),
        (b'{"a":' + b"[" * DEPTH_MAX + b"]" * DEPTH_MAX + b"}", Refusal.TOO_DEEP),
        (b"", Refusal.NOT_JSON),
        (b"# a comment", Refusal.NOT_JSON),
        (b'\xef\xbb\xbf{"a":1}', Refusal.NOT_JSON),
        (b'{"a":1} {"b":2}', Refusal.NOT_JSON),
        (b'{"a":NaN}', Refusal.NOT_JSON),
        (b'{"a":1e999}', Refusal.NOT_JSON),
        (b'{"a":' + b"9" * 5000 + b"}", Refusal.NOT_JSON),
        (b'{"a":"\\ud800"}', Refusal.NOT_JSON),
        (b'{"\\udc00":1}', Refusal.NOT_JSON),
        (b'{"a":"\\ud800\\ud800"}', Refusal.NOT_JSON),
        (b"[1]", Refusal.NOT_AN_OBJECT),
        (b'"text"', Refusal.NOT_AN_OBJECT),
        (b"7", Refusal.NOT_AN_OBJECT),
        (b"true", Refusal.NOT_AN_OBJECT),
        (b" null ", Refusal.NULL_VALUE),
        (b'{"a":1,"a":2}', Refusal.DUPLICATE_KEY),
        (b'{"a":{"b":1,"b":1}}', Refusal.DUPLICATE_KEY),
        (b'{"a":[{"b":1},{"b":1,"c":0,"b":2}]}', Refusal.DUPLICATE_KEY),
        (b'{"a" :1, "a":2}', Refusal.DUPLICATE_KEY),
        (b'{"a"\t:1,"a"\t:2}', Refusal.DUPLICATE_KEY),
        (b'{"a":1,"\\u0061":2}', Refusal.DUPLICATE_KEY),
        (b'{"a\\\\":1,"a\\\\":2}', Refusal.DUPLICATE_KEY),
        (b'{"a\\":":1,"a\\":":2}', Refusal.DUPLICATE_KEY),
        (b'{"":1,"":2}', Refusal.DUPLICATE_KEY),
    ],
)
def test_a_line_that_is_no_event_has_its_reason(line: bytes, refusal: Refusal) -> None:
    """The first reason that applies, in the documented order."""
    assert decode_object(line) is refusal


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":{"a":{"a":1}}}',
        b'{"a":[{"b":1},{"b":1}]}',
        b'{"a":"{\\"b\\":1,\\"b\\":2}"}',
        b'{"a":"x\\\\","b":"\\":"}',
        b'{"a":"\\\\\\":"}',
        b'{"a\\":":1,"b":2}',
        b'{"a":"[[[[[' + b"[" * 1000 + b'"}',
        b'{"a":' + b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1) + b"}",
        b'{"a":[' + b"[]," * 1000 + b"[]]}",
        b'{"a":"\\ud83d\\ude00","\\u0000":" \\u0000"}',
        b' { "a" : 1 , "b" : " : " } ',
        b'{"a":-12345678901234567890123456789}',
    ],
)
def test_a_good_line_decodes_as_the_standard_parser_does(line: bytes) -> None:
    """No look-alike inside of a string is taken for a key or a bracket."""
    assert decode_object(line) == json.loads(line)


members = st.text('ab":\\ ', max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text('ab":\\ \t{}[]é', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(members, inner), max_size=4).map(tuple),
    max_leaves=20,
)


def write(value: object, *, gap: str, numbered: str = "") -> str:
    """Return JSON in which an object is written from its pairs, with whatever keys these have.

    `numbered`: characters of strings that are written as their numbers.
    """
    if isinstance(value, tuple):
        pairs = (
            f"{write(key, gap=gap, numbered=numbered)}{gap}:{gap}{write(member, gap=gap, numbered=numbered)}"
            for key, member in value
        )
        return "{" + f"{gap},{gap}".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + f",{gap}".join(write(member, gap=gap, numbered=numbered) for member in value) + "]"
    if isinstance(value, str):
        text = (f"\\u{ord(char):04x}" if char in numbered else json.dumps(char)[1:-1] for char in value)
        return f'"{"".join(text)}"'
    return json.dumps(value)


def has_twice(value: object) -> bool:
    """Return whether any object has a key twice."""
    if isinstance(value, tuple):
        keys = [key for key, _ in value]
        return len(set(keys)) < len(keys) or any(has_twice(member) for _, member in value)
    return isinstance(value, list) and any(has_twice(member) for member in value)


@settings(deadline=None)
@given(values, st.sampled_from(["", " ", "\t"]), st.text('a":\\', max_size=2))
@example((("a", 1), ("a", ":")), "", ":")
@example((("a", "\\u003a"), ("a", 1)), "", ":")
def test_duplicate_keys_are_found_exactly(value: object, gap: str, numbered: str) -> None:
    """Neither a missed duplicate nor a false alarm, whatever keys and strings hold, however written."""
    result = decode_json(write(value, gap=gap, numbered=numbered).encode())
    assert (result is Refusal.DUPLICATE_KEY) == has_twice(value)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_raise(line: bytes) -> None:
    """Any bytes are a value or a refusal."""
    decode_object(line)
    check_bytes(line, size_max=100, depth_max=2)


@pytest.mark.timeout(10)
def test_an_unterminated_string_of_escapes_is_looked_at_once() -> None:
    """A megabyte made to trap a backtracking scanner takes no longer than another."""
    assert check_bytes(b"[" * 70 + b'"' + b'\\"' * 500_000) is Refusal.TOO_DEEP


def test_lines_are_numbered_and_blank_ones_skipped() -> None:
    """The number is the line's own in the file, so that a person can find it."""
    assert read(b"a\n\n  \r\nb\r\nc") == [(1, b"a"), (4, b"b"), (5, b"c")]


@pytest.mark.parametrize("data", [b"", b"\n", b"a", b"a\n", b"\na", b"\n\n\na\n", b"ab", b"ab\nc"])
def test_short_inputs_read_as_they_split(data: bytes) -> None:
    """Looking for a compressed start loses no byte."""
    expected = [(n, line) for n, line in enumerate(data.split(b"\n"), 1) if line]
    assert read(data) == expected


def test_a_byte_order_mark_at_the_start_is_dropped() -> None:
    """Only at the start: elsewhere it is part of a line."""
    assert read(b"\xef\xbb\xbf{}\n\xef\xbb\xbf{}") == [(1, b"{}"), (2, b"\xef\xbb\xbf{}")]


@pytest.mark.parametrize("size", [99, 100, 101, 102, 103, 250])
def test_the_bound_counts_the_line_without_its_end(size: int) -> None:
    """A line of exactly the bound passes, with either line end."""
    for end in (b"\n", b"\r\n", b""):
        line = b"x" * size
        expected = line if size <= 100 else Refusal.LINE_TOO_LONG
        result = read(line + end + (b"next" if end else b""), line_bytes_max=100)
        assert result == [(1, expected), *([(2, b"next")] if end else [])]


def test_a_line_of_ten_megabytes_is_refused_in_bounded_memory() -> None:
    """The rest of the line is thrown away piece by piece, and the next line is read."""
    data = io.BytesIO(b"x" * 10_000_000 + b"\nnext\n")
    tracemalloc.start()
    try:
        lines = list(read_lines(data))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert lines == [(1, Refusal.LINE_TOO_LONG), (2, b"next")]
    assert peak < 5 * LINE_BYTES_MAX


def test_a_compressed_log_reads_as_a_plain_one() -> None:
    """Several members and padding are one log, as rotation leaves them."""
    data = gzip.compress(b'{"a":1}\n\n') + gzip.compress(b'{"b":2}\n') + b"\0" * 512
    assert read(data) == [(1, b'{"a":1}'), (3, b'{"b":2}')]


def test_a_compressed_log_larger_than_its_buffers_is_whole() -> None:
    """Every line arrives once and in order."""
    lines = [b'{"n":%d,"text":"%s"}' % (n, str(n * 7919).encode() * 9) for n in range(20_000)]
    assert [line for _, line in read(gzip.compress(b"\n".join(lines)))] == lines


def test_an_inflating_line_is_refused_in_bounded_memory() -> None:
    """A small file that holds one long line is read piece by piece."""
    data = gzip.compress(b"x" * 10_000_000 + b"\nnext")
    tracemalloc.start()
    try:
        lines = read(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert lines == [(1, Refusal.LINE_TOO_LONG), (2, b"next")]
    assert peak < 5 * LINE_BYTES_MAX


def test_what_inflates_without_measure_stops() -> None:
    """Some kilobytes that stand for forty megabytes are no log."""
    bomb = gzip.compress(b"\n" * 40_000_000)
    with pytest.raises(BadInput, match="inflates beyond its bound"):
        read(bomb)


def test_the_total_of_what_inflates_is_bounded() -> None:
    """Also where the ratio is that of a log."""
    data = gzip.compress(b"abc\n" * 1000)
    with pytest.raises(BadInput, match="inflates beyond its bound"):
        list(read_lines(io.BytesIO(data), inflated_bytes_max=1000))


@pytest.mark.parametrize("damage", ["cut", "garbled", "header"])
def test_damaged_compression_is_bad_input(damage: str) -> None:
    """The message says what to do and quotes nothing of the file."""
    data = gzip.compress(b'{"name":"learner-0042"}\n' * 100)
    damaged = {
        "cut": data[:-12],
        "garbled": data[:20] + b"\xff" * 20 + data[40:],
        "header": data[:2] + b"\xff" * 20,
    }[damage]
    with pytest.raises(BadInput) as caught:
        read(damaged)
    assert caught.value.refusal is Refusal.NOT_JSON
    assert "learner" not in str(caught.value)


class Trickle(io.RawIOBase):
    """A stream that gives a byte at a time, as a slow pipe may."""

    def __init__(self, data: bytes) -> None:
        """Keep the bytes to give."""
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: object) -> int:
        """Give one byte."""
        byte = self._data.read(1)
        memoryview(cast("bytearray", buffer))[: len(byte)] = byte
        return len(byte)


@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_slow_pipe_gives_the_same_lines(*, is_compressed: bool) -> None:
    """How the bytes arrive does not matter."""
    data = b"a\n\nlonger line\nb"
    stream = io.BufferedReader(Trickle(gzip.compress(data) if is_compressed else data))
    lines = list(read_lines(cast("BinaryIO", stream)))
    assert lines == [(1, b"a"), (3, b"longer line"), (4, b"b")]
