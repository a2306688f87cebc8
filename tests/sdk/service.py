"""A service on a real port whose answers are scripted, made-up events, and what they came to."""

import json
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from privacy_ledger.domain.events import (
    AccountRegistered,
    ConsentGranted,
    CourseEnrolled,
    Fact,
    VideoPaused,
)
from privacy_ledger.sdk import Event, HttpTransport, Limits

AT: Final = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
KEY: Final = "plk_of_a_test"
CANARY: Final = "canary-zq7-marker"
QUICK: Final = Limits(linger_s=0.01, backoff_first_s=0.01, backoff_max_s=0.05)

Answer = tuple[int, Mapping[str, str], bytes]


@dataclass
class Request:
    """What came: its header fields, and the events of its body."""

    fields: Mapping[str, str]
    events: list[dict[str, Any]]


@dataclass
class Service:
    """What was asked, and what will be answered: first the script, then that each event is accepted."""

    port: int = 0
    script: deque[Callable[[Request], Answer] | Answer] = field(default_factory=deque)
    requests: list[Request] = field(default_factory=list)

    def transport(self, *, timeout_s: float = 30.0) -> HttpTransport:
        """Return a transport to it."""
        return HttpTransport(f"http://127.0.0.1:{self.port}", key=KEY, timeout_s=timeout_s)

    @property
    def ids(self) -> list[str]:
        """The ids of all events that came, in order."""
        return [one["id"] for request in self.requests for one in request.events]

    def answer(self, request: Request) -> Answer:
        """Return the next answer."""
        self.requests.append(request)
        following = self.script.popleft() if self.script else accepted
        return following(request) if callable(following) else following


def accepted(request: Request) -> Answer:
    """Answer that each event is accepted."""
    return results(*["accepted"] * len(request.events))


def results(*said: str) -> Answer:
    """Answer an outcome per event, or `refused` with what is no outcome as its reason."""
    found = [
        {"item": item, "outcome": one}
        if one in {"accepted", "duplicate", "unattributed"}
        else {"item": item, "outcome": "refused", "reason": one}
        for item, one in enumerate(said)
    ]
    return 200, {}, json.dumps({"results": found, "counts": {}}).encode()


def problem(status: int, code: str, **fields: str) -> Answer:
    """Answer a problem; underscores in names of fields are dashes."""
    body = json.dumps({"type": f"urn:privacy-ledger:problem:{code}", "title": CANARY, "status": status})
    return status, {name.replace("_", "-"): value for name, value in fields.items()}, body.encode()


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Service]:
    """Yield a running service on a free port of loopback."""
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, fields, answer = service.answer(Request(dict(self.headers), json.loads(body)))
            self.send_response(status)
            for name, value in {**fields, "Content-Length": str(len(answer))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def event(fact: Fact, *, who: int = 1, id_: str | None = None) -> Event:
    """Return an event about a person of the platform."""
    return Event.of(f"openedx:user_id:{who}", fact, id=id_)


def paused(number: int = 0, *, who: int = 1) -> Event:
    """Return usage, which may be dropped."""
    return event(VideoPaused(video="v1", position_ms=number, occurred_at=AT), who=who, id_=f"paused-{number}")


def granted(number: int = 0, *, who: int = 1) -> Event:
    """Return a consent, which may not."""
    fact = ConsentGranted(purpose="improve.analyse", notice="platform-privacy-policy.v1", occurred_at=AT)
    return event(fact, who=who, id_=f"granted-{number}")


def enrolled(number: int, *, who: int = 1) -> Event:
    """Return an enrolment, which makes a person known."""
    fact = CourseEnrolled(course="course-v1:Example+One+2026", mode="audit", occurred_at=AT)
    return event(fact, who=who, id_=f"enrolled-{number}")


def registered() -> Event:
    """Return an event whose every text is a canary."""
    return event(AccountRegistered(username=CANARY, name=CANARY, email=CANARY, occurred_at=AT), id_="r-1")
