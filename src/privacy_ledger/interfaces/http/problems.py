"""Answers to requests that are not served: problem details (RFC 9457), with no word of the request."""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec import Struct

__all__ = ["MEDIA_TYPE", "Kind", "Problem"]

MEDIA_TYPE: Final = "application/problem+json"
_TYPE: Final = "urn:privacy-ledger:problem:"
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Kind(Enum):
    """Every problem: its status, its code, and one sentence with the next step. The codes are public."""

    BODY_INVALID = (400, "body-invalid", "The body is not what its content type says. Send it as it says.")
    ENCODING_DAMAGED = (400, "encoding-damaged", "The compressed body is damaged. Send it again, whole.")
    HEADER_INVALID = (400, "header-invalid", "A header field has a value that cannot be used.")
    FORMAT_MISSING = (400, "format-missing", "Nothing tells the format. Post to /v1/events/FORMAT.")
    KEY_MISSING = (401, "key-missing", "Send an API key as `Authorization: Bearer KEY`.")
    KEY_INVALID = (401, "key-invalid", "The API key is unknown or revoked. Ask the operator for another.")
    SIGNATURE = (401, "signature-refused", "The webhook is not signed as configured. Check the secret.")
    OUT_OF_SCOPE = (403, "out-of-scope", "The API key is not for this format. Ask for one that is.")
    NOT_FOUND = (404, "not-found", "There is no such path or format. See /openapi.json.")
    METHOD = (405, "method-not-allowed", "This path takes another method. See the field Allow.")
    BODY_SLOW = (408, "body-slow", "The body did not come in time. Send it again.")
    BODY_TOO_LARGE = (413, "body-too-large", "The body, inflated, is beyond its bound. Send less at once.")
    TOO_MANY_ITEMS = (413, "too-many-items", "A request has at most 1,000 events. Send several requests.")
    MEDIA_TYPE = (415, "media-type", "The content type or encoding is none that this path takes.")
    KEY_REUSED = (422, "idempotency-key-reused", "That Idempotency-Key came with another request.")
    SHAPE = (422, "body-shape", "The body is JSON, but no event and no array of events.")
    TOO_FAST = (429, "rate-limited", "This source sends faster than it may. Wait as Retry-After says.")
    INTERNAL = (500, "internal", "Something went wrong here. Send it again: what is durable stays once.")
    BUSY = (503, "busy", "Too much is on its way. Wait as Retry-After says, and send it again.")
    UNAVAILABLE = (503, "unavailable", "The ledger cannot be written now. Send it again after Retry-After.")

    @property
    def status(self) -> int:
        """The status code (RFC 9110)."""
        return self.value[0]

    @property
    def code(self) -> str:
        """The last part of the problem's type."""
        return self.value[1]

    @property
    def sentence(self) -> str:
        """What is wrong, and the next step."""
        return self.value[2]


class _Details(Struct, frozen=True, omit_defaults=True):
    type: str
    title: str
    status: int
    reason: str | None = None


class Problem(Exception):
    """A request that is not served; `headers` go with the answer, `reason` is a reason code."""

    def __init__(
        self, kind: Kind, *, reason: str | None = None, headers: Mapping[str, str] = _NOTHING
    ) -> None:
        """Take what is wrong; nothing of the request belongs here."""
        super().__init__(kind.code)
        self.kind = kind
        self.reason = reason
        self.headers = headers

    @property
    def body(self) -> bytes:
        """The problem details as JSON."""
        kind = self.kind
        return msgspec.json.encode(_Details(_TYPE + kind.code, kind.sentence, kind.status, self.reason))
