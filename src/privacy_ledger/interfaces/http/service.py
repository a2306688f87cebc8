"""What a request goes through: key, scope, rate, body, events, and an answer for each of them.

No value of a request is ever in an answer, an error or a log line; only places, outcomes and reason codes.
"""

import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from privacy_ledger.adapters.api_keys import ApiKey, Keyring
from privacy_ledger.adapters.formats.signatures import BODY_BYTES_MAX as SIGNED_BYTES_MAX
from privacy_ledger.adapters.webhook_secrets import Webhooks
from privacy_ledger.app.ingest import LineReport, Outcome, Source
from privacy_ledger.domain.errors import HomeUnusable
from privacy_ledger.interfaces.http.batches import (
    BATCH_TYPE,
    JSON_TYPES,
    LINE_TYPES,
    Item,
    Reader,
    media_type,
    scoped,
    split,
)
from privacy_ledger.interfaces.http.bodies import BODY_BYTES_MAX, Held, Room, read_body
from privacy_ledger.interfaces.http.idempotency import Answers
from privacy_ledger.interfaces.http.intake import Intake
from privacy_ledger.interfaces.http.limits import Limits
from privacy_ledger.interfaces.http.problems import Kind, Problem
from privacy_ledger.logging import get_logger
from privacy_ledger.ports.formats import Format

__all__ = ["CLOUDEVENTS", "Figures", "Incoming", "Service"]

CLOUDEVENTS: Final = "cloudevents"
"""The format that a content type alone tells."""
_BEARER: Final = "bearer "
_MARK: Final = "ce-"
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="privacy-ledger"'}
_FORMAT: Final = "format"
log_line = get_logger()


class Incoming(Protocol):
    """A request, as far as it is looked at."""

    def field(self, name: str) -> Sequence[str]:
        """Return the values of a header field."""
        ...

    def fields(self) -> Sequence[tuple[str, str]]:
        """Return every header field."""
        ...

    def query(self, name: str) -> str | None:
        """Return a parameter of the query."""
        ...

    def stream(self) -> AsyncIterator[bytes]:
        """Return the body in pieces."""
        ...


class _Result(Struct, frozen=True, omit_defaults=True):
    """What became of one event; `item` is the place, from 0, of what holds it in the request."""

    item: int
    outcome: str
    reason: str | None = None


class _Answer(Struct, frozen=True):
    """What became of a request: one result per event, in the order of the request."""

    results: list[_Result]
    counts: dict[str, int]


class Figures:
    """What was answered since the start, in counts: by status, and by outcome and reason of events."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.statuses: Counter[int] = Counter()
        self.outcomes: Counter[tuple[str, str]] = Counter()


class Service:
    """The service without its web framework."""

    def __init__(
        self,
        *,
        keyring: Keyring,
        readers: Mapping[str, Reader],
        webhooks: Webhooks,
        intake: Intake,
        limits: Limits,
        now: Callable[[], datetime],
        answers: Answers | None = None,
        room: Room | None = None,
    ) -> None:
        """Take the collaborators; `readers` by the names of their formats."""
        self._keyring = keyring
        self._readers = readers
        self._webhooks = webhooks
        self._intake = intake
        self._limits = limits
        self._now = now
        self._answers = answers or Answers()
        self._room = room or Room()
        self._parsers: dict[tuple[str, frozenset[str]], Format] = {}
        self.figures = Figures()

    async def events(self, request: Incoming, name: str | None) -> bytes:
        """Return the answer to posted events of a format, which the content type may tell.

        Raises:
            Problem: the request is not served, or not now.
        """
        key = self._key(request)
        media = media_type(_one(request, "content-type") or "")
        reader, is_binary = self._reader(request, key, name, media)
        self._limits.take(key.source, 1)
        self._intake.admit()  # before anything is read that could not be taken
        source = Source(
            name=key.source, parse=self._parser(reader, frozenset(key.types)), is_authoritative=key.registers
        )
        with self._room.hold() as held:
            body = await self._body(request, held)

            async def work() -> bytes:
                items = _bound(reader, request, body) if is_binary else split(body, media, reader)
                return await self._ingested(source, items)

            marks = sorted(pair for pair in request.fields() if pair[0].lower().startswith(_MARK))
            fingerprint = _fingerprint(reader.name, media, repr(marks) if is_binary else "", body=body)
            return await self._answers.once(key.source, _one(request, "idempotency-key"), fingerprint, work)

    async def webhook(self, request: Incoming, name: str) -> bytes:
        """Return the answer to a partner's webhook, once its signature is checked over the body as it came.

        Raises:
            Problem: the partner is not configured, the signature is refused, or it is not served now.
        """
        source_name, reader = self._webhooks.source(name), self._readers.get(name)
        if source_name is None or reader is None:
            raise Problem(Kind.NOT_FOUND)
        media = media_type(_one(request, "content-type") or "")
        if media != "application/json" or _one(request, "content-encoding"):
            raise Problem(Kind.MEDIA_TYPE)
        source = Source(name=source_name, parse=reader.parse)
        with self._room.hold() as held:
            body = await read_body(request.stream(), held, encoding="", bytes_max=SIGNED_BYTES_MAX)
            headers = dict(_distinct(request.fields()))
            refusal = self._webhooks.refusal(name, headers, body, now=self._now())
            if refusal is not None:
                raise Problem(Kind.SIGNATURE, reason=str(refusal), headers=_CHALLENGE)
            self._limits.take(source_name, 1)
            return await self._ingested(source, split(body, media, reader))

    def _key(self, request: Incoming) -> ApiKey:
        """Return the key of a request."""
        said = request.field("authorization")
        if len(said) != 1 or not said[0][: len(_BEARER)].lower() == _BEARER:
            raise Problem(Kind.KEY_MISSING, headers=_CHALLENGE)
        try:
            key = self._keyring.find(said[0][len(_BEARER) :].strip())
        except HomeUnusable as error:
            log_line.warning("api keys unusable", reason=type(error).__name__)
            raise Problem(Kind.UNAVAILABLE, headers={"Retry-After": "30"}) from None
        if key is None:
            raise Problem(Kind.KEY_INVALID, headers=_CHALLENGE)
        return key

    def _reader(self, request: Incoming, key: ApiKey, name: str | None, media: str) -> tuple[Reader, bool]:
        """Return the reader of a request, and whether an event's attributes are header fields."""
        is_envelope = media in {BATCH_TYPE, "application/cloudevents+json"}
        is_marked = any(field.lower().startswith(_MARK) for field, _ in request.fields())
        if name is None:
            name = CLOUDEVENTS if is_envelope or is_marked else request.query(_FORMAT)
        if name is None and len(key.formats) == 1:
            (name,) = key.formats
        if name is None:
            raise Problem(Kind.FORMAT_MISSING)
        reader = self._readers.get(name)
        if reader is None:
            raise Problem(Kind.NOT_FOUND)
        if reader.name not in key.formats:
            raise Problem(Kind.OUT_OF_SCOPE)
        if reader.of_headers is not None and is_marked and not is_envelope:
            return reader, True
        allowed = {*LINE_TYPES, "application/json", "application/ld+json"}
        if reader.name == CLOUDEVENTS:
            allowed |= {*JSON_TYPES, BATCH_TYPE}
        if reader.is_text:
            allowed.add("text/plain")
        if media not in allowed:
            raise Problem(Kind.MEDIA_TYPE, headers={"Accept": ", ".join(sorted(allowed))})
        return reader, False

    def _parser(self, reader: Reader, types: frozenset[str]) -> Format:
        """Return the one parser of a format and a scope: equal sources are ingested together."""
        found = self._parsers.get((reader.name, types))
        if found is None:
            found = self._parsers[reader.name, types] = scoped(reader.parse, types)
        return found

    async def _body(self, request: Incoming, held: Held) -> bytes:
        length = _one(request, "content-length")
        if length is not None and length.isdecimal() and len(length) < 20 and int(length) > BODY_BYTES_MAX:  # noqa: PLR2004 - more digits than any length has
            raise Problem(Kind.BODY_TOO_LARGE)
        encoding = (_one(request, "content-encoding") or "").lower()
        return await read_body(request.stream(), held, encoding=encoding)

    async def _ingested(self, source: Source, items: Sequence[Item]) -> bytes:
        """Return the answer about these events, once they are durable."""
        self._limits.take(source.name, max(0, len(items) - 1))
        started = time.monotonic()
        reports = await self._intake.ingest(source, [line for _, line in items])
        results = [_result(place, report) for (place, _), report in zip(items, reports, strict=True)]
        self.figures.outcomes.update((one.outcome, one.reason or "") for one in results)
        counts = Counter(one.outcome for one in results)
        log_line.info(
            "events answered", records=len(results), count=counts[Outcome.ACCEPTED],
            duration_ms=round(1000 * (time.monotonic() - started)),
        )  # fmt: skip
        return msgspec.json.encode(_Answer(results, dict(sorted(counts.items()))))


def _one(request: Incoming, name: str) -> str | None:
    """Return the one value of a header field; one that stands twice could be read in two ways."""
    found = request.field(name)
    if len(found) > 1:
        raise Problem(Kind.HEADER_INVALID)
    return found[0].strip() if found else None


def _distinct(fields: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the fields that stand once: one that stands twice is none to believe."""
    counts = Counter(name.lower() for name, _ in fields)
    return [(name, value) for name, value in fields if counts[name.lower()] == 1]


def _bound(reader: Reader, request: Incoming, body: bytes) -> list[Item]:
    """Return the one event whose attributes are header fields."""
    if reader.of_headers is None:
        raise Problem(Kind.MEDIA_TYPE)
    return [(0, reader.of_headers(request.fields(), body))]


def _fingerprint(*words: str, body: bytes) -> bytes:
    """Return what tells one request from another."""
    digest = hashlib.sha256("\n".join(words).encode("utf-8", "surrogatepass"))
    digest.update(b"\n\n")
    digest.update(body)
    return digest.digest()


def _result(place: int, report: LineReport) -> _Result:
    """Return what is said of one event: what is no event is refused, too."""
    outcome = Outcome.REFUSED if report.outcome is Outcome.MALFORMED else report.outcome
    return _Result(place, str(outcome), report.reason)
