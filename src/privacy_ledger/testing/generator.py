"""Made-up Open edX tracking logs: seeded, skewed, in time order, and as odd as real ones on request.

Everybody in them is invented and lives at example.com; addresses are from the documentation
ranges. The same arguments give the same bytes.
"""
# ruff: noqa: PLR2004 - the numbers are shares of what people do, and stand where they are drawn

import heapq
import random
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Final

import msgspec

__all__ = ["course_name", "generate", "user_id_of", "username_of"]

Members = dict[str, object]

FIRST_USER_ID: Final = 1000
STAFF_USER_ID: Final = 900
STAFF_USERNAME: Final = "staff-0001"
SESSION_EVENTS_MEAN: Final = 14
RECENT_LINES: Final = 50

# Shares measured in 2,543 lines of real logs, 2,503 of them events.
NOT_JSON: Final = 40 / 2543
DUPLICATE: Final = 211 / 2503
USER_ID_BLANK: Final = 241 / 2503
USERNAME_BLANK: Final = 186 / 2503
STAFF_ENROLS: Final = 3 / 81
USER_ID_AS_TEXT: Final = 6 / 81
IN_NEWER_SHAPE: Final = 0.1
LEAKY_PAGE: Final = 0.02
LONG_TIME: Final = 0.005
_QUIRKY_KINDS: Final = {"json": 1884, "form": 83, "object": 459, "list": 25, "null": 17, "bare": 35}
_CLEAN_KINDS: Final = {"json": 1884, "form": 83, "object": 459}

_AGENTS: Final = (
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/128.0.0.0 Safari/537.36"
    ),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
        "Version/17.5 Safari/605.1.15"
    ),
    "Mozilla/5.0 (X11; Linux x86_64; rv:129.0) Gecko/20100101 Firefox/129.0",
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
        "Version/17.5 Mobile/15E148 Safari/604.1"
    ),
    (
        "Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
        "Version/17.5 Mobile/15E148 Safari/604.1"
    ),
    (
        "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/128.0.0.0 Mobile Safari/537.36"
    ),
)
_HOST: Final = "courses.example.com"
_MODES: Final = ("audit", "audit", "audit", "verified", "honor")
_PAGES: Final = ("info", "progress", "discussion/forum/", "wiki/home/", "course/")
_POSTS: Final = ("thread", "response", "comment")
_JUNK: Final = (
    b"# log rotated",
    b"",
    b"{{ event }}",
    b"{% for line in lines %}",
    b'{"username": "learner-',
    b"-- MARK --",
)
_encode = msgspec.json.Encoder().encode


def username_of(learner: int) -> str:
    """Return the username of a made-up learner, counted from 0."""
    return f"learner-{learner:04d}"


def user_id_of(learner: int) -> int:
    """Return the numeric user id of a made-up learner, counted from 0."""
    return FIRST_USER_ID + learner


def course_name(course: int) -> str:
    """Return the key of a made-up course, counted from 0."""
    return f"course-v1:ExampleX+CS{101 + course}+T1"


def generate(
    *,
    seed: int,
    learners: int,
    courses: int,
    events: int,
    start: datetime,
    end: datetime,
    quirks: bool = False,
) -> Iterator[bytes]:
    """Yield exactly `events` lines without their line ends, in time order.

    A learner enrols before anything else in a course. Some learners and courses are far busier
    than others. With `quirks`, lines are damaged, repeated, blank, or without a person in the
    shares of real logs; without, every line is well formed and names its person.
    """
    rng = random.Random(seed)
    campus = _Campus(rng, learners=learners, courses=courses, quirks=quirks)
    recent: deque[bytes] = deque(maxlen=RECENT_LINES)
    left = events
    for at, session in _walk(rng, campus, events=events, start=start, end=end):
        if not left:
            return
        left -= 1
        if quirks:
            while left and (odd := _oddity(rng, recent)) is not None:
                yield odd
                left -= 1
        line = campus.line(session, at)
        recent.append(line)
        yield line


def _oddity(rng: random.Random, recent: Sequence[bytes]) -> bytes | None:
    """Return a line that is no event, or an exact copy of a recent one; mostly None."""
    draw = rng.random()
    if draw < NOT_JSON:
        return rng.choice(_JUNK)
    if draw < NOT_JSON + DUPLICATE * (1 - NOT_JSON) and recent:
        return rng.choice(recent)
    return None


class _Session:
    """One visit: who, where, on what device, and what the player is doing."""

    __slots__ = ("agent", "course", "ip", "learner", "left", "position", "token", "video")

    def __init__(self, rng: random.Random, *, learner: int, course: int, left: int) -> None:
        # A person keeps to one or two devices.
        self.agent = _AGENTS[(learner + (rng.random() < 0.2)) % len(_AGENTS)]
        self.course = course
        self.ip = f"203.0.113.{learner % 254 + 1}"
        self.learner = learner
        self.left = left
        self.position = -1.0
        self.token = f"{rng.getrandbits(128):032x}"
        self.video = rng.randrange(12)


def _walk(
    rng: random.Random, campus: "_Campus", *, events: int, start: datetime, end: datetime
) -> Iterator[tuple[datetime, _Session]]:
    """Yield who does something when, in time order, for exactly `events` steps."""
    lengths: list[int] = []
    total = 0
    while total < events:
        length = min(events - total, 1 + int(rng.expovariate(1 / SESSION_EVENTS_MEAN)))
        lengths.append(length)
        total += length
    span_s = (end - start).total_seconds()
    latest_s = max(0.0, span_s - min(3600.0, span_s / 10))
    starts = sorted(rng.random() * latest_s for _ in lengths)
    running: list[tuple[float, int, _Session]] = []
    for number, (begin_s, length) in enumerate(zip(starts, lengths, strict=True)):
        while running and running[0][0] <= begin_s:
            yield from _step(rng, running, start=start, span_s=span_s)
        heapq.heappush(running, (begin_s, number, campus.session(length)))
    while running:
        yield from _step(rng, running, start=start, span_s=span_s)


def _step(
    rng: random.Random, running: list[tuple[float, int, _Session]], *, start: datetime, span_s: float
) -> Iterator[tuple[datetime, _Session]]:
    """Yield the next step of the session that is due first, and put the session back."""
    at_s, number, session = running[0]
    yield start + timedelta(microseconds=int(min(at_s, span_s) * 1e6)), session
    session.left -= 1
    if session.left:
        heapq.heapreplace(running, (at_s + 1 + rng.expovariate(1 / 25), number, session))
    else:
        heapq.heappop(running)


def _skewed(count: int) -> list[float]:
    """Return cumulative weights where the n-th of `count` has weight 1 / n."""
    return list(accumulate(1 / rank for rank in range(1, count + 1)))


def _pick(rng: random.Random, weights: Sequence[float]) -> int:
    return bisect(weights, rng.random() * weights[-1])


class _Campus:
    """Learners and courses, and the lines of what they do."""

    def __init__(self, rng: random.Random, *, learners: int, courses: int, quirks: bool) -> None:
        self._rng = rng
        self._quirks = quirks
        self._learner_weights = _skewed(learners)
        self._course_weights = _skewed(courses)
        # The busiest learner should not be the first by number, nor the first course.
        self._learners = rng.sample(range(learners), learners)
        self._courses = rng.sample(range(courses), courses)
        self._enrolled: set[tuple[int, int]] = set()
        self._favourites: dict[int, list[int]] = {}
        kinds = _QUIRKY_KINDS if quirks else _CLEAN_KINDS
        self._kinds = tuple(kinds)
        self._kind_weights = list(accumulate(kinds.values()))
        self._objects_ahead = 0
        self._makers: dict[str, Callable[[_Session, datetime], Members]] = {
            "bare": self._bare,
            "form": self._form,
            "json": self._json,
            "list": self._list,
            "null": self._null,
            "object": self._object,
        }

    def session(self, length: int) -> _Session:
        """Return a new session of a learner in one of the learner's few courses."""
        rng = self._rng
        learner = self._learners[_pick(rng, self._learner_weights)]
        favourites = self._favourites.setdefault(learner, [])
        if not favourites or (len(favourites) < 4 and rng.random() < 0.1):
            favourites.append(self._courses[_pick(rng, self._course_weights)])
        return _Session(rng, learner=learner, course=rng.choice(favourites), left=length)

    def line(self, session: _Session, at: datetime) -> bytes:
        """Return the next line of a session."""
        who = (session.learner, session.course)
        if who not in self._enrolled:
            self._enrolled.add(who)
            self._objects_ahead += 1  # so that enrolments do not raise the share of objects
            return self._finish(self._enrolment(session, at))
        kind = self._kinds[_pick(self._rng, self._kind_weights)]
        while kind == "object" and self._objects_ahead:
            self._objects_ahead -= 1
            kind = self._kinds[_pick(self._rng, self._kind_weights)]
        return self._finish(self._makers[kind](session, at))

    def _finish(self, event: Members) -> bytes:
        """Return the line's bytes, in one of the two shapes, with its person made odd or not."""
        if self._quirks:
            self._disturb(event)
        elif "event_type" in event and self._rng.random() < IN_NEWER_SHAPE:
            event = _newer_shape(event)
        return _encode(event)

    def _disturb(self, event: Members) -> None:
        """Take the person out of some lines, and write the user id of others as text."""
        rng = self._rng
        context = event.get("context")
        draw = rng.random()
        if draw < USERNAME_BLANK:
            event["username"] = ""
        if isinstance(context, dict):
            # Mostly after a logout: then neither the number nor the name is there.
            if draw < USER_ID_BLANK:
                context["user_id"] = ""
                if rng.random() < 0.5:
                    del context["user_id"]
            elif rng.random() < USER_ID_AS_TEXT:
                context["user_id"] = str(context["user_id"])
        if rng.random() < LONG_TIME:
            event["time"] = f"{event['time']}+00:00"

    # Events ------------------------------------------------------------------------------

    def _root(self, session: _Session, at: datetime, *, name: str, is_browser: bool) -> Members:
        course = course_name(session.course)
        username = username_of(session.learner)
        page = f"https://{_HOST}/courses/{course}/courseware/week_{session.video}/part_1/"
        if self._quirks and self._rng.random() < LEAKY_PAGE:
            page += f"?user_id={user_id_of(session.learner)}&email={username}%40example.com"
        return {
            "username": username,
            "event_type": name,
            "event_source": "browser" if is_browser else "server",
            "ip": session.ip,
            "agent": session.agent,
            "host": _HOST,
            "session": session.token,
            "referer": page,
            "accept_language": "en",
            "context": {
                "user_id": user_id_of(session.learner),
                "course_id": course,
                "org_id": "ExampleX",
                "path": "/event" if is_browser else f"/courses/{course}/info",
            },
            "time": at.astimezone(UTC).isoformat(timespec="microseconds"),
            "page": page if is_browser else None,
            "event": None,
        }

    def _enrolment(self, session: _Session, at: datetime) -> Members:
        event = self._root(session, at, name="edx.course.enrollment.activated", is_browser=False)
        event["event"] = {
            "course_id": course_name(session.course),
            "user_id": user_id_of(session.learner),
            "mode": self._rng.choice(_MODES),
        }
        if self._quirks and self._rng.random() < STAFF_ENROLS:
            event["username"] = STAFF_USERNAME
            event["context"] = {
                "user_id": STAFF_USER_ID,
                "course_id": course_name(session.course),
                "path": "/support/enrollment",
            }
        return event

    def _json(self, session: _Session, at: datetime) -> Members:
        """Return what holds JSON in a string: a page of the server, or a browser's event."""
        draw = self._rng.random()
        if draw < 0.3:
            page = _PAGES[int(draw / 0.3 * len(_PAGES))]
            path = f"/courses/{course_name(session.course)}/{page}"
            event = self._root(session, at, name=path, is_browser=False)
            event["event"] = '{"POST": {}, "GET": {}}'
            return event
        if draw < 0.75:
            name, payload = self._video(session)
        elif draw < 0.87:
            tab = 1 + int(draw * 100) % 5
            name = "seq_next" if draw < 0.81 else "seq_goto"
            payload = {"old": tab, "new": tab + 1, "id": f"sequence_{session.video}"}
        elif draw < 0.95:
            name, payload = "page_close", {}
        else:
            name = "edx.ui.lms.link_clicked"
            target = f"https://{_HOST}/courses/{course_name(session.course)}/course/#week"
            payload = {"current_url": f"https://{_HOST}/dashboard", "target_url": target}
        event = self._root(session, at, name=name, is_browser=True)
        event["event"] = _encode(payload).decode()
        return event

    def _video(self, session: _Session) -> tuple[str, Members]:
        """Return the next thing that the player tells."""
        payload: Members = {"id": f"video_{session.course}_{session.video}", "code": "html5"}
        if session.position < 0:
            session.position = 0.0
            return "load_video", payload
        draw = self._rng.random()
        old = session.position
        session.position = old + round(draw * 90, 3)
        if draw < 0.4:
            return "play_video", {**payload, "currentTime": old}
        if draw < 0.7:
            return "pause_video", {**payload, "currentTime": session.position}
        if draw < 0.85:
            return "seek_video", {
                **payload, "old_time": old, "new_time": session.position, "type": "onSlideSeek",
            }  # fmt: skip
        if draw < 0.9:
            return "speed_change_video", {
                **payload, "current_time": old, "old_speed": "1.0", "new_speed": "1.50",
            }  # fmt: skip
        if draw < 0.94:
            return "show_transcript", {**payload, "current_time": old}
        session.video, session.position = (session.video + 1) % 12, -1.0
        return "stop_video", {**payload, "currentTime": old}

    def _form(self, session: _Session, at: datetime) -> Members:
        event = self._root(session, at, name="problem_check", is_browser=True)
        choice = int(self._rng.random() * 4)
        event["event"] = f"input_problem_{session.video}_2_1%5B%5D=choice_{choice}"
        return event

    def _object(self, session: _Session, at: datetime) -> Members:
        """Return what holds an object: answers, grades, posts, and who left."""
        draw = self._rng.random()
        course = course_name(session.course)
        user_id = user_id_of(session.learner)
        payload: Members
        if draw < 0.8:
            name = "problem_check"
            key = f"problem_{session.video}_2_1"
            is_right = draw < 0.5
            payload = {
                "problem_id": f"block-v1:{course[10:]}+type@problem+block@problem_{session.video}",
                "answers": {key: f"choice_{int(draw * 40) % 4}"},
                "correct_map": {key: {"correctness": "correct" if is_right else "incorrect"}},
                "success": "correct" if is_right else "incorrect",
                "grade": int(is_right),
                "max_grade": 1,
                "attempts": 1 + int(draw * 10) % 3,
            }
        elif draw < 0.9:
            name = f"edx.forum.{_POSTS[int(draw * 1000) % 3]}.created"
            payload = {"title": "A question", "body": f"How does part {session.video} work?"}
        elif draw < 0.96:
            name = "edx.grades.course.grade_calculated"
            grade = round((draw - 0.9) / 0.06, 2)
            payload = {"course_id": course, "user_id": user_id, "percent_grade": grade, "letter_grade": ""}
        else:
            name = "edx.course.grade.now_passed"
            payload = {"course_id": course, "user_id": user_id}
        event = self._root(session, at, name=name, is_browser=False)
        event["event"] = payload
        return event

    def _list(self, session: _Session, at: datetime) -> Members:
        event = self._root(session, at, name="problem_graded", is_browser=True)
        event["event"] = [f"input_problem_{session.video}_2_1=choice_1", "<p>1/1</p>"]
        return event

    def _null(self, session: _Session, at: datetime) -> Members:
        return self._root(session, at, name="page_close", is_browser=True)

    def _bare(self, session: _Session, at: datetime) -> Members:
        """Return a line that only says who and when."""
        time = at.astimezone(UTC).isoformat(timespec="microseconds")
        return {"username": username_of(session.learner), "time": time}


def _newer_shape(event: Members) -> Members:
    """Return the same event as `name`, `timestamp`, `context` and `data`."""
    old_context = event["context"]
    context: Members = dict(old_context) if isinstance(old_context, dict) else {}
    for key in ("username", "ip", "agent", "host", "session", "referer", "accept_language", "page"):
        context[key] = event[key]
    context["event_source"] = event["event_source"]
    return {
        "name": event["event_type"],
        "timestamp": event["time"],
        "context": context,
        "data": event["event"],
    }
