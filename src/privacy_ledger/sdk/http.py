"""Events go to the ledger's HTTP service, over one connection of the standard library's client.

That client is loaded when the first batch is sent. It blocks, and so only the sender's thread uses it.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from privacy_ledger.sdk.errors import TransportInvalid
from privacy_ledger.sdk.events import Encoded
from privacy_ledger.sdk.transport import BatchRefused, ItemResult, TryAgain

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

__all__ = ["HttpTransport"]

PATH: Final = "/v1/events/ledger"
TIMEOUT_S: Final = 30.0
ANSWER_BYTES_MAX: Final = 1 << 22
PAUSE_S_MAX: Final = 300.0
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_PERMANENT: Final = frozenset({400, 413, 422})
"""The events are at fault; any other refusal is of the key, the address or the hour, and may end."""
_TAKEN: Final = frozenset({"accepted", "duplicate", "unattributed"})
_CODE: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_OK: Final = 200


class _Result(Struct):
    item: int
    outcome: str
    reason: str | None = None


class _Answer(Struct):
    results: list[_Result]


class _Problem(Struct):
    type: str = ""


_INHERITED: Final["list[HTTPConnection]"] = []
_answer = msgspec.json.Decoder(_Answer).decode
_problem = msgspec.json.Decoder(_Problem).decode


class HttpTransport:
    """A `Transport` to `POST /v1/events/ledger`; `key` is an API key for the format `ledger`.

    It trusts what the system trusts, and does not follow redirects. The key is never shown.
    """

    def __init__(
        self, url: str, *, key: str, timeout_s: float = TIMEOUT_S, allows_clear_text: bool = False
    ) -> None:
        """Take the service's address, such as `https://ledger.example.com`; nothing is sent yet.

        Raises:
            TransportInvalid: it is no such address, the key cannot stand in a header, or it would go in the
                clear to another machine.
        """
        from urllib.parse import urlsplit  # noqa: PLC0415 - loaded when it is used

        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        if (
            not host
            or parts.scheme not in {"http", "https"}
            or parts.query
            or parts.fragment
            or parts.username
        ):
            raise TransportInvalid("The address is none. Give one such as https://ledger.example.com.")
        if parts.scheme == "http" and host not in _LOOPBACK and not allows_clear_text:
            raise TransportInvalid("The key would go in the clear. Give an address with https.")
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise TransportInvalid("The API key is none. Give the one that `api keys create` printed.")
        self._host, self._port, self._is_tls = host, port, parts.scheme == "https"
        self._path = parts.path.rstrip("/") + PATH
        self._key = key
        self._timeout_s = timeout_s
        self._connection: HTTPConnection | None = None

    def __repr__(self) -> str:
        """Return nothing of the key."""
        return "HttpTransport()"

    def send(self, batch: Sequence[Encoded], *, attempt_key: str) -> Sequence[ItemResult]:
        """Return what became of each event; see `Transport`."""
        from http.client import HTTPException  # noqa: PLC0415 - loaded when something is sent

        headers = {
            "Authorization": f"Bearer {self._key}", "Content-Type": "application/json",
            "Idempotency-Key": attempt_key, "User-Agent": "privacy-ledger-sdk",
        }  # fmt: skip
        connection = self._opened()
        try:
            connection.request(
                "POST", self._path, b"[" + b",".join(one.line for one in batch) + b"]", headers
            )
            response = connection.getresponse()
            body = response.read(ANSWER_BYTES_MAX)
        except (OSError, HTTPException, ValueError, AttributeError) as error:
            # The last two are what the client raises where `abort` took its socket away.
            self.close()
            raise TryAgain(type(error).__name__) from None
        if response.will_close or not response.isclosed():
            self.close()
        if response.status == _OK:
            return _results(body, len(batch))
        code = _code(body) or f"http-{response.status}"
        if response.status in _PERMANENT:
            raise BatchRefused(code)
        raise TryAgain(code, after_s=_pause_s(response))

    def abort(self) -> None:
        """End a `send` that is under way."""
        connection = self._connection
        sock = None if connection is None else connection.sock
        if sock is not None:
            import socket  # noqa: PLC0415 - loaded with the client

            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Close this process's copy of the socket; the other process's goes on.

        It is kept and never touched again: a thread that is not here may hold a lock of its reader.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            _INHERITED.append(connection)
            if connection.sock is not None:
                os.close(connection.sock.detach())

    def close(self) -> None:
        """Close the connection; the next `send` opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _opened(self) -> "HTTPConnection":
        if self._connection is None:
            from http.client import HTTPConnection, HTTPSConnection  # noqa: PLC0415 - loaded when it is used

            kind = HTTPSConnection if self._is_tls else HTTPConnection
            self._connection = kind(self._host, self._port, timeout=self._timeout_s)
        return self._connection


def _results(body: bytes, count: int) -> list[ItemResult]:
    """Return the answer of each event; what is no answer is an outcome that nobody knows."""
    try:
        said = _answer(body).results
    except msgspec.MsgspecError:
        raise TryAgain("answer-invalid") from None
    if [one.item for one in said] != list(range(count)):
        raise TryAgain("answer-invalid")
    return [
        ItemResult(is_taken=True)
        if one.outcome in _TAKEN
        else ItemResult(is_taken=False, reason=_word(one.reason) or "refused")
        for one in said
    ]


def _code(body: bytes) -> str | None:
    """Return the code of problem details (RFC 9457)."""
    try:
        return _word(_problem(body).type.rpartition(":")[2])
    except msgspec.MsgspecError:
        return None


def _word(text: str | None) -> str | None:
    """Return a code, or None for what is no code: it could be anything."""
    return text if text and len(text) <= 64 and _CODE.issuperset(text) else None  # noqa: PLR2004 - longer than any code


def _pause_s(response: "HTTPResponse") -> float | None:
    """Return how long `Retry-After` (RFC 9110, 10.2.3) says to wait, at most `PAUSE_S_MAX`.

    A date is read against the answer's own date: the two clocks may differ.
    """
    said = response.headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdecimal():
        return min(PAUSE_S_MAX, float(said[:9]))
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - loaded with the client

    try:
        until = parsedate_to_datetime(said)
        since = parsedate_to_datetime(response.headers.get("Date", ""))
        return min(PAUSE_S_MAX, max(0.0, (until - since).total_seconds()))
    except (TypeError, ValueError, OverflowError):
        return None
