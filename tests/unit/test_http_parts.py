"""The parts of the HTTP service alone: bounded bodies, buckets, remembered answers, keys, envelopes."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_ledger.adapters.api_keys import ApiKeyFile, Keyring
from privacy_ledger.adapters.clock import SystemClock
from privacy_ledger.adapters.formats.cloudevents import CloudEvent, read_http, read_structured
from privacy_ledger.adapters.formats.cloudevents_http import structured
from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.app.ingest import LineReport, Outcome, Source
from privacy_ledger.domain.errors import BadInput, UnsafeSettings
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.interfaces.http.batches import Reader, media_type, split
from privacy_ledger.interfaces.http.bodies import MEMBERS_MAX, Inflater, Room, read_body
from privacy_ledger.interfaces.http.idempotency import Answers
from privacy_ledger.interfaces.http.intake import Intake
from privacy_ledger.interfaces.http.limits import Limits
from privacy_ledger.interfaces.http.problems import Kind, Problem
from privacy_ledger.interfaces.http.server import Address, Tls, check
from privacy_ledger.ports.formats import Parsed

MIB: Final = 1 << 20
AT: Final = datetime(2026, 3, 2, 9, tzinfo=UTC)


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    """Yield a body in these pieces."""
    for part in parts:
        yield part


def inflated(body: bytes, *, bytes_max: int, piece: int = 1000) -> bytes:
    """Return what a body inflates to, fed piece by piece."""
    inflater = Inflater(bytes_max)
    out = [out for start in range(0, len(body), piece) for out in inflater.feed(body[start : start + piece])]
    return b"".join([*out, *inflater.end()])


def no_event(_: bytes) -> Parsed | Refusal:
    """Refuse everything."""
    return Refusal.UNKNOWN_EVENT


READER: Final = Reader("example", no_event, iter)


# Bodies ----------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=5), st.integers(1, 2000))
def test_gzip_of_several_members_in_any_pieces_is_their_bytes(members: list[bytes], piece: int) -> None:
    """As RFC 1952 has it."""
    body = b"".join(gzip.compress(member) for member in members)
    assert inflated(body, bytes_max=1 << 20, piece=piece) == b"".join(members)


def test_a_bomb_is_refused_before_it_has_grown() -> None:
    """A gigabyte of zeros is a megabyte on the wire, and less than three in memory."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join([*(packer.compress(bytes(MIB)) for _ in range(1024)), packer.flush()])
    tracemalloc.start()
    with pytest.raises(Problem) as caught:
        inflated(bomb, bytes_max=MIB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert caught.value.kind is Kind.BODY_TOO_LARGE
    assert peak < 3 * MIB


@pytest.mark.parametrize(
    "body",
    [
        b"no gzip",
        gzip.compress(b"{}")[:-1],
        gzip.compress(b"{}") + b"x",
        gzip.compress(b"") * (MEMBERS_MAX + 1),
    ],
)
def test_what_is_no_whole_gzip_is_damaged(body: bytes) -> None:
    """Also what follows it, and more members than anybody sends."""
    with pytest.raises(Problem) as caught:
        inflated(body, bytes_max=MIB)
    assert caught.value.kind is Kind.ENCODING_DAMAGED


async def test_the_room_is_given_back_and_never_overdrawn() -> None:
    """A request that does not fit is told to come again; the next one has the whole room."""
    room = Room(1000)
    with room.hold() as first:
        await read_body(pieces(bytes(300)), first, encoding="")
        with room.hold() as second, pytest.raises(Problem) as caught:
            await read_body(pieces(bytes(100), bytes(200)), second, encoding="")
    with room.hold() as third:
        body = await read_body(pieces(bytes(500)), third, encoding="identity")

    assert (caught.value.kind, len(body)) == (Kind.BUSY, 500)


def test_a_body_is_cut_where_its_type_says() -> None:
    """A line that is too long is a refusal in its place; an array may be longer than a line."""
    long = b'{"a":"' + bytes(b"x" * MIB) + b'"}'
    assert split(b'[{"a":1}, {"b":[2]}]', "application/json", READER) == [(0, b'{"a":1}'), (1, b'{"b":[2]}')]
    assert split(b"{}\n\n" + long, "application/jsonl", READER) == [(0, b"{}"), (1, Refusal.LINE_TOO_LONG)]
    assert split(b"[{}," + long + b"]", "application/json", READER)[1] == (1, Refusal.LINE_TOO_LONG)
    assert split(b"[]", "application/json", READER) == []
    assert media_type("Application/JSON ; charset=utf-8") == "application/json"


@given(st.binary(max_size=200), st.sampled_from(("application/json", "application/jsonl")))
def test_any_body_is_cut_or_a_problem(body: bytes, media: str) -> None:
    """Nothing else is raised."""
    with suppress(Problem):
        assert all(one is Refusal.NOT_JSON or one for _, one in split(body, media, READER))


# Buckets and answers ---------------------------------------------------------------------------


def test_a_bucket_fills_at_its_rate_and_no_further() -> None:
    """The wait that is told is enough."""
    now = [0.0]
    limits = Limits(100, monotonic=lambda: now[0])
    limits.take("a", 1000)
    with pytest.raises(Problem) as caught:
        limits.take("a", 150)
    now[0] += float(caught.value.headers["Retry-After"])
    limits.take("a", 150)
    now[0] += 3600
    limits.take("a", 1000)
    with pytest.raises(Problem):
        limits.take("a", 1)


async def test_answers_are_bounded_in_number_bytes_and_age() -> None:
    """What was forgotten is asked again."""
    now = [0.0]
    asked: list[str] = []
    answers = Answers(answers_max=3, bytes_max=100, monotonic=lambda: now[0])

    async def once(key: str, size: int = 1) -> None:
        async def work() -> bytes:
            asked.append(key)
            return bytes(size)

        await answers.once("s", key, b"f", work)

    for key in ("a", "b", "c", "d", "b", "a"):
        await once(key)
    assert asked == ["a", "b", "c", "d", "a"]
    await once("large", 101)
    await once("b")
    assert asked[-2:] == ["large", "b"]
    now[0] = 3601.0
    await once("b")
    assert asked[-2:] == ["b", "b"]


async def test_an_error_is_nobodys_answer() -> None:
    """Who waited for it gets it, and who asks again is served."""
    answers = Answers()
    gate = asyncio.Event()

    async def fail() -> bytes:
        await gate.wait()
        raise Problem(Kind.BUSY)

    async def serve() -> bytes:
        return b"served"

    waiting = [asyncio.create_task(answers.once("s", "k", b"f", fail)) for _ in range(2)]
    await asyncio.sleep(0)
    gate.set()
    failed = await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(one) for one in failed] == [Problem, Problem]
    assert await answers.once("s", "k", b"other", serve) == b"served"


# The loop --------------------------------------------------------------------------------------


class _Poisoned:
    """An ingest that one line breaks."""

    async def take(self, source: Source, lines: list[bytes | Refusal]) -> list[LineReport]:
        del source
        if b"poison" in lines:
            raise RuntimeError
        return [
            LineReport(line=1, outcome=Outcome.ACCEPTED, reason=None, event_type=None, subjects=1)
            for _ in lines
        ]


async def test_a_request_that_breaks_the_ingest_breaks_no_other() -> None:
    """Those that came together are taken apart, and each has an answer."""

    async def begin() -> _Poisoned:
        return _Poisoned()

    async def rest() -> None:
        return

    intake = Intake(begin, rest=rest)  # type: ignore[arg-type] # stands for an ingest with a defect
    source = Source(name="s", parse=no_event)
    asked = [asyncio.create_task(intake.ingest(source, [line])) for line in (b"a", b"poison", b"b")]
    await asyncio.sleep(0)
    intake.close()
    await intake.run()
    found = await asyncio.gather(*asked, return_exceptions=True)

    kinds = [one.kind if isinstance(one, Problem) else None for one in found]
    assert kinds == [None, Kind.INTERNAL, None]


# Keys ------------------------------------------------------------------------------------------


def test_keys_are_found_by_what_was_shown_and_revoked_for_good(tmp_path: Path) -> None:
    """A ring sees what another process changed; nothing that is written down lets anybody in."""
    path = tmp_path / "folder" / "keys.json"
    file = ApiKeyFile(path, ids=SystemIds(), clock=SystemClock())
    ring = Keyring(path, every_s=0)
    key, token = file.create("our-lms", formats=("openedx",))
    _, other = file.create("our-lms", formats=("xapi",))
    found = ring.find(token)
    guesses = [ring.find(f"plk_{key.id}_{guess}") for guess in (key.digest, "0" * 64, other[-64:])]
    file.revoke(key.id)
    file.revoke(key.id)

    assert found == key
    assert guesses == [None, None, None]
    assert (ring.find(token), ring.find(other)) == (None, file.keys()[1])
    assert [token[-64:] in path.read_text(), key.digest in path.read_text()] == [False, True]
    with pytest.raises(BadInput):
        file.revoke("0" * 16)


# Envelopes and addresses -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("media", "body"),
    [("application/json", b'{"a":[1,"x"]}'), ("application/octet-stream", b"\x00\xff"), ("text/plain", b"x")],
)
def test_an_event_in_header_fields_is_the_same_event_in_json(media: str, body: bytes) -> None:
    """Attributes, extensions and data; JSON stays JSON."""
    headers = [
        ("ce-specversion", "1.0"), ("ce-id", "1 2"), ("ce-source", "/lms"), ("ce-type", "org.example"),
        ("ce-time", "2026-03-02T09:00:00Z"), ("ce-own", "x%20y"), ("Content-Type", media),
    ]  # fmt: skip
    (binary,) = read_http(headers, body)
    line = structured(headers, body)
    assert isinstance(line, bytes)
    again = read_structured(line)

    assert isinstance(binary, CloudEvent)
    assert isinstance(again, CloudEvent)
    assert msgspec.structs.replace(again, data=b"") == msgspec.structs.replace(binary, data=b"")
    assert again.data == body
    assert structured(headers[1:], body) is Refusal.SCHEMA_MISMATCH


def test_other_machines_connect_by_tls_or_through_a_proxy() -> None:
    """Everything else would put keys on the network in the clear."""
    here, elsewhere = Address("127.0.0.1", 1, is_loopback=True), Address("192.0.2.1", 1, is_loopback=False)
    tls = Tls(Path("certificate.pem"), Path("key.pem"))
    check(here, tls=None, is_behind_proxy=False)
    check(elsewhere, tls=None, is_behind_proxy=True)
    check(elsewhere, tls=tls, is_behind_proxy=False)

    with pytest.raises(UnsafeSettings):
        check(elsewhere, tls=None, is_behind_proxy=False)
