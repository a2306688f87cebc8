"""Made-up people of whom every value is a token that stands nowhere else, and the lines about them.

Each field that a format may keep of a person, and each one that it must not, carries random letters
of its own. Whoever finds some of them in a file knows whose they are and from which field they came.
Tokens are of the letters g to z: no format takes them for a number or a hash and drops them.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from msgspec import Struct

__all__ = [
    "DROPPED",
    "KEPT",
    "Canary",
    "flock",
    "huge_line",
    "lines_of",
    "lines_of_nobody",
    "spoiled_lines",
    "tokens_of",
]

TOKEN_CHARS: Final = 24
LINE_BYTES_MAX: Final = 1 << 20
_BODY_CHARS: Final = 3000
_HUGE_CHARS: Final = 65_000
_LETTERS: Final = "ghijklmnopqrstuvwxyz"
_USER_IDS: Final = range(10**18, 9 * 10**18)

KEPT: Final = (
    "username", "name", "email", "course", "mode", "problem", "input", "answer", "title", "body",
    "letter", "certificate", "video", "page", "host", "link", "action", "browser", "reason",
)  # fmt: skip
"""Fields of which a collection event, or an identity, may keep the value."""
DROPPED: Final = ("address", "agent", "referer", "session", "language", "event", "query", "note")
"""Fields of a line that nobody may keep; a session is known by a keyed hash alone."""


class Canary(Struct, frozen=True, kw_only=True):
    """One made-up person: their number at the platform, and their token for each field."""

    user_id: str
    tokens: Mapping[str, str]

    def __repr__(self) -> str:
        """Return the type only: a failing test must not print what is looked for."""
        return "Canary(...)"

    @property
    def subject(self) -> str:
        """The person as commands name them."""
        return f"openedx:user_id:{self.user_id}"

    @property
    def email(self) -> str:
        """The person's address."""
        return f"{self.tokens['email']}@example.com"

    @property
    def course(self) -> str:
        """A course that this person alone takes."""
        return f"course-v1:Example+{self.tokens['course']}+2026"


def flock(count: int, *, seed: int) -> tuple[Canary, ...]:
    """Return so many people; the same seed makes the same ones."""
    draw = random.Random(f"canaries {seed}")
    return tuple(
        Canary(
            user_id=str(draw.choice(_USER_IDS)),
            tokens={name: "".join(draw.choices(_LETTERS, k=TOKEN_CHARS)) for name in (*KEPT, *DROPPED)},
        )
        for _ in range(count)
    )


def tokens_of(people: Sequence[Canary]) -> dict[str, bytes]:
    """Return what a scanner looks for: each value by person and field."""
    found = {}
    for number, person in enumerate(people):
        found[f"{number} user_id"] = person.user_id.encode()
        found |= {f"{number} {field}": token.encode() for field, token in person.tokens.items()}
    return found


# Lines ------------------------------------------------------------------------------------------


def lines_of(person: Canary, *, at: datetime, batch: int = 0) -> tuple[bytes, ...]:
    """Return a line for each kind of event that the format takes, in the order in which they happened.

    Two batches are two series of events; the same batch again is the same events.
    """
    return tuple(_encoded(line) for line in _taken(person, at=at, batch=batch))


def lines_of_nobody(person: Canary, *, at: datetime) -> tuple[bytes, ...]:
    """Return what the person did before they logged in: it is linked to them by their session alone."""
    page = _line(person, f"/courses/{person.course}/{person.tokens['page']}/", at=at, number=100)
    del page["username"], page["context"]["user_id"], page["context"]["username"]
    return (_encoded(page),)


def huge_line(person: Canary, *, at: datetime) -> bytes:
    """Return the largest line that is taken: a comment full of the same words."""
    words = f"{person.tokens['body']} " * (_HUGE_CHARS // (TOKEN_CHARS + 1))
    event = {"course_id": person.course, "body": words}
    return _encoded(_line(person, "edx.forum.comment.created", at=at, number=300, event=event))


def spoiled_lines(person: Canary, *, at: datetime) -> tuple[bytes, ...]:
    """Return lines that are refused or malformed, each for another reason, with tokens in all of them."""
    good = _encoded(_line(person, "play_video", at=at, number=200, event={"id": person.tokens["video"]}))
    tokens = person.tokens
    note = tokens["note"].encode()
    return (
        good[:-1] + b',"' + note,
        good + note,
        good.replace(note, b"\xff\xfe" + note),
        good.replace(note, note + b"\0"),
        good[:-1] + b',"username":"' + note + b'"}',
        good[:-1] + b',"deep":' + b"[" * 80 + b'"' + note + b'"' + b"]" * 80 + b"}",
        good[:-1] + b',"more":"' + note * (LINE_BYTES_MAX // TOKEN_CHARS) + b'"}',
        _encoded(_line(person, f"nobody.knows.{tokens['action']}", at=at, number=201)),
        _encoded(_line(person, "play_video", at=at, number=202, event={"id": f"no code {tokens['video']}"})),
        _encoded({**_line(person, "edx.user.login", at=at, number=203), "time": tokens["note"]}),
        _encoded({**_line(person, "edx.user.login", at=at, number=204), "time": "1999-01-01T00:00:00Z"}),
        _encoded(
            {**_line(person, "edx.user.login", at=at, number=205), "context": {"user_id": tokens["note"]}}
        ),
        _encoded(
            _line(
                person, "edx.user.registered", at=at, number=206,
                event={"username": tokens["username"], "email": tokens["email"], "name": tokens["name"]},
            )
        ),
        f'"{tokens["note"]}"'.encode(),
    )  # fmt: skip


Line = dict[str, Any]


def _taken(person: Canary, *, at: datetime, batch: int) -> Iterator[Line]:
    tokens, course = person.tokens, {"course_id": person.course}
    video = {**course, "id": tokens["video"]}
    post = {"title": f"On {tokens['title']}", "body": f"{tokens['body']} " * (_BODY_CHARS // TOKEN_CHARS)}
    form = {
        **course, "problem_id": tokens["problem"], "attempts": 1, "success": "correct", "grade": 1,
        "max_grade": 2, "answers": {tokens["input"]: f"I say {tokens['answer']}"},
    }  # fmt: skip
    account = {"username": tokens["username"], "name": f"Ms {tokens['name']}", "email": person.email}
    members: tuple[tuple[str, Line], ...] = (
        ("edx.user.registered", {"user_id": int(person.user_id), **account}),
        ("edx.user.login", {}),
        ("edx.course.enrollment.activated", {**course, "mode": tokens["mode"]}),
        ("load_video", video),
        ("play_video", {**video, "currentTime": 1}),
        ("pause_video", {**video, "currentTime": 2}),
        ("seek_video", {**video, "old_time": 2, "new_time": 9}),
        ("speed_change_video", {**video, "new_speed": "1.5"}),
        ("show_transcript", video),
        ("stop_video", {**video, "currentTime": 11}),
        ("problem_check", form),
        ("edx.forum.thread.created", {**course, **post}),
        ("edx.forum.response.created", {**course, "body": tokens["body"]}),
        ("edx.course.grade.now_passed", {**course, "percent_grade": 0.9, "letter_grade": tokens["letter"]}),
        ("edx.certificate.created", {**course, "certificate_id": tokens["certificate"]}),
        (
            f"/courses/{person.course}/{tokens['page']}/?{tokens['query']}",
            {"POST": {"note": [tokens["note"]]}},
        ),
        (
            "edx.ui.lms.link_clicked",
            {
                **course,
                "target_url": f"https://{tokens['host']}.example.com/{tokens['link']}?q={tokens['query']}",
            },
        ),
        (f"edx.{tokens['action']}", course),
        ("edx.course.enrollment.deactivated", course),
    )
    for number, (name, event) in enumerate(members):
        when = at + timedelta(seconds=number)
        yield _line(person, name, at=when, number=1000 * batch + number, event=event)


def _line(
    person: Canary, name: str, *, at: datetime, number: int, event: Mapping[str, object] | None = None
) -> Line:
    tokens = person.tokens
    return {
        "event_type": name,
        "event_source": "server",
        "time": at.isoformat(),
        "username": tokens["username"],
        "ip": tokens["address"],
        "referer": f"https://www.example.com/{tokens['referer']}?{tokens['query']}",
        "accept_language": tokens["language"],
        "agent": f"Mozilla/5.0 (compatible; {tokens['browser']}bot/1.0) {tokens['agent']}",
        "session": tokens["session"],
        "event_id": f"{tokens['event']}-{number}",
        "context": {
            "user_id": int(person.user_id), "username": tokens["username"], "note": tokens["note"],
        },
        "event": json.dumps({**(event or {}), "note": tokens["note"]}),
    }  # fmt: skip


def _encoded(line: Mapping[str, object]) -> bytes:
    return json.dumps(line).encode()
