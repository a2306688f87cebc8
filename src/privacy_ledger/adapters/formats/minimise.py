"""Minimisation at the edge: what an event keeps of agents, addresses, course keys and names.

Everything here is an allow-list. What is not known to be harmless is replaced or dropped, and a
value that would need cutting is refused instead: nothing is truncated in silence.
"""

import re
from collections.abc import Collection
from datetime import datetime
from functools import lru_cache
from typing import Final, Literal, NewType
from urllib.parse import unquote

import ua_parser

from privacy_ledger.domain.events import DeviceObserved

__all__ = [
    "CODE_CHARS_MAX",
    "CourseName",
    "course_in_path",
    "course_key",
    "device_of",
    "is_action",
    "is_code",
    "plain_activity",
    "plain_path",
    "plain_target",
    "plain_verb",
]

CourseName = NewType("CourseName", str)
"""A course's key in one of the platform's own forms."""

DeviceClass = Literal["desktop", "mobile", "tablet", "bot", "other"]

CODE_CHARS_MAX: Final = 255
PATH_CHARS_MAX: Final = 512
AGENT_CHARS_MAX: Final = 1024
AGENTS_CACHED: Final = 4096
_SEGMENTS_MAX: Final = 64
_ID: Final = ":id"

_PART: Final = r"[A-Za-z0-9_.~\-]{1,100}"
# An organisation's name has letters: other platforms' addresses go on with numbers, also of people.
_OLD_KEY: Final = rf"(?=[^/]*[A-Za-z]){_PART}/{_PART}/{_PART}"
_COURSE_KEY: Final = re.compile(
    rf"course-v1:{_PART}\+{_PART}\+{_PART}|ccx-v1:{_PART}\+{_PART}\+{_PART}\+ccx@[0-9]{{1,10}}"
    rf"|{_OLD_KEY}"
)
_NEW_IN_PATH: Final = re.compile(r"/((?:course|ccx)-v1:[^/]+)")
_OLD_IN_PATH: Final = re.compile(rf"(?:https?://[^/]+)?/courses/({_OLD_KEY})(?=/|\Z)")
_CODE: Final = re.compile(r"[A-Za-z0-9_.:+@/=~\-]{1,255}")
_ACTION: Final = re.compile(r"[A-Za-z][A-Za-z0-9_\-]*(?:\.[A-Za-z0-9_\-]+)*")
_ACTION_ID: Final = re.compile(r"[0-9]{6}|[0-9a-fA-F]{16}")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9.\-]{0,251}[a-z0-9])?")
_ADDRESS: Final = re.compile(r"[0-9.]+")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_SEGMENT_ID: Final = re.compile(
    r"[0-9]+|.*(?:[0-9]{4}|[0-9a-fA-F]{16}).*"
    r"|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
)
_PERSON_FOLLOWS: Final = frozenset(
    (
        "account", "accounts", "author", "authors", "learner", "learners", "member", "members",
        "people", "person", "profile", "profiles", "progress", "student", "students", "u", "user",
        "username", "usernames", "users",
    )
)  # fmt: skip
_BLOCK: Final = re.compile(
    rf"block-v1:{_PART}\+{_PART}\+{_PART}\+type@{_PART}\+block@{_PART}|i4x:[A-Za-z0-9_.:;/\-]+"
)
_NAME: Final = re.compile(r"[a-z][a-z0-9+.\-]*:[A-Za-z0-9_.:/\-]+")
_THING: Final = re.compile(r"[A-Za-z0-9_.~+=%\-]{1,100}")
_QUERY_KEPT: Final = frozenset(("cmid", "id", "subContentId", "v"))
"""The parameters by which common platforms tell one activity from another."""
_QUERY_VALUE: Final = re.compile(r"[A-Za-z0-9_\-]{1,64}")
_FAMILY: Final = re.compile(r"[A-Za-z][A-Za-z ._/+\-]{0,63}")
_MOBILE: Final = frozenset(
    ("Android", "BlackBerry OS", "Firefox OS", "KaiOS", "Tizen", "Windows Phone", "iOS")
)
_DESKTOP: Final = frozenset(
    (
        "Chrome OS", "Debian", "Fedora", "FreeBSD", "Linux", "Linux Mint", "Mac OS X", "NetBSD",
        "OpenBSD", "Red Hat", "SUSE", "Solaris", "Ubuntu", "Windows",
    )
)  # fmt: skip


def device_of(agent: str, *, occurred_at: datetime) -> DeviceObserved:
    """Return the families of browser, system and device; nothing else of the agent is kept."""
    browser, system, device_class = _families(agent)
    return DeviceObserved(occurred_at=occurred_at, browser=browser, system=system, device_class=device_class)


def course_key(value: object) -> CourseName | None:
    """Return a value that is a course's key, or None."""
    if isinstance(value, str) and len(value) <= CODE_CHARS_MAX and _COURSE_KEY.fullmatch(value) is not None:
        return CourseName(value)
    return None


def course_in_path(path: str) -> CourseName | None:
    """Return the key of the course that a path or URL lies below, or None."""
    path = _bare(path)
    if "%" in path:
        path = unquote(path)
    match = _NEW_IN_PATH.search(path) or _OLD_IN_PATH.match(path)
    return None if match is None else course_key(match.group(1))


def is_code(value: object) -> bool:
    """Return whether a value is an identifier of a thing, at most 255 plain characters."""
    return isinstance(value, str) and _CODE.fullmatch(value) is not None


def is_action(name: str) -> bool:
    """Return whether an event's name is a plain word, and so holds nobody's identifier."""
    return (
        len(name) <= CODE_CHARS_MAX
        and _ACTION.fullmatch(name) is not None
        and _ACTION_ID.search(name) is None
    )


def plain_path(path: str, *, names: Collection[str] = ()) -> str | None:
    """Return a path without query, fragment and identifiers; None when it is too long.

    `names` are the acting person's own: a segment that equals one is replaced, too.
    """
    segments = _bare(path).split("/")
    if len(segments) > _SEGMENTS_MAX:
        return None
    kept: list[str] = []
    rest = segments
    is_key = segments[:2] == ["", "courses"] and course_key("/".join(segments[2:5])) is not None
    if is_key and _PERSON_FOLLOWS.isdisjoint(map(str.lower, segments[2:5])):
        kept, rest = segments[:5], segments[5:]  # the older form of a key has three segments
    before = ""
    for segment in rest:
        kept.append(_plain_segment(segment, before=before, names=names))
        before = segment.lower()
    plain = "/".join(kept)
    return plain if len(plain) <= PATH_CHARS_MAX else None


def plain_target(url: str, *, names: Collection[str] = ()) -> str | None:
    """Return host and path of a web address or path; None for anything else, or when too long."""
    url = url.strip()
    scheme = _SCHEME.match(url)
    if scheme is not None:
        if scheme.group(1).lower() not in {"http", "https"}:
            return None
        url = url[scheme.end() :]
    if not url.startswith("//"):
        return plain_path(url, names=names) if scheme is None and url.startswith("/") else None
    authority, slash, rest = _bare(url[2:]).replace("\\", "/").partition("/")
    host = authority.rpartition("@")[2].partition(":")[0].lower()
    if _HOST.fullmatch(host) is None or _ADDRESS.fullmatch(host) is not None:
        host = _ID
    path = plain_path(slash + rest, names=names)
    if path is None or len(host) + len(path) > PATH_CHARS_MAX:
        return None
    return host + path


def plain_verb(iri: str, *, names: Collection[str] = ()) -> str | None:
    """Return a verb's IRI without query and identifiers; None when that leaves no name, or it is too long.

    A fragment that is plainly a word stays: some vocabularies tell their verbs apart by it.
    """
    scheme, mark, rest = iri.partition("://")
    if mark and scheme.lower() in {"http", "https"}:
        target = plain_target(iri, names=names)
        word = rest.partition("#")[2]
        if target is None:
            return None
        if word and _plain_segment(word, before="", names=names) == word:
            target = f"{target}#{word}"
        plain = f"{scheme.lower()}://{target}"
    elif _NAME.fullmatch(iri) and not _ACTION_ID.search(iri) and not _names_in(iri, names):
        plain = iri
    else:
        return None
    return plain if len(plain) <= CODE_CHARS_MAX else None


def plain_activity(iri: str, *, names: Collection[str] = ()) -> str | None:
    """Return the name of an activity, at most 255 plain characters, or None when it has none.

    A component's key stands for its whole IRI. Of a web address host and path stay, and the
    parameters that name an activity; a person's own segments become `:id`, and where the path is a
    person's, no parameter stays.
    """
    last = unquote(_bare(iri).rpartition("/")[2])
    if _BLOCK.fullmatch(last) is not None:
        return last if len(last) <= CODE_CHARS_MAX else None
    scheme, mark, rest = iri.partition("://")
    if not mark or scheme.lower() not in {"http", "https"}:
        is_plain = _CODE.fullmatch(iri) is not None and "@" not in iri and not _names_in(iri, names)
        return iri if is_plain else None
    authority, slash, path = _bare(rest).partition("/")
    host = authority.rpartition("@")[2].partition(":")[0].lower()
    if _HOST.fullmatch(host) is None or _ADDRESS.fullmatch(host) is not None:
        host = _ID
    segments = path.split("/")
    if len(segments) > _SEGMENTS_MAX:
        return None
    kept: list[str] = []
    before, is_personal = "", False
    for segment in segments:
        is_personal = is_personal or segment.lower() in _PERSON_FOLLOWS
        kept.append(_thing_segment(segment, before=before, names=names))
        before = segment.lower()
    query = "" if is_personal else _kept_query(rest, names)
    plain = f"{host}{slash}{'/'.join(kept)}{query}"
    return plain if len(plain) <= CODE_CHARS_MAX else None


def _thing_segment(segment: str, *, before: str, names: Collection[str]) -> str:
    """Return a segment of an activity's address: its own numbers stay, a person's name does not."""
    if not segment or course_key(segment) is not None:
        return segment
    text = unquote(segment)
    if before in _PERSON_FOLLOWS or _THING.fullmatch(segment) is None or "@" in text or text in names:
        return _ID
    return segment


def _kept_query(rest: str, names: Collection[str]) -> str:
    """Return the parameters of an address that name an activity, in their order, with their mark."""
    query = rest.partition("#")[0].partition("?")[2]
    kept = []
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name in _QUERY_KEPT and _QUERY_VALUE.fullmatch(value) and value not in names:
            kept.append(f"{name}={value}")
    return f"?{'&'.join(kept)}" if kept else ""


def _names_in(iri: str, names: Collection[str]) -> bool:
    """Return whether a part of an IRI is one of the names."""
    return not set(re.split(r"[:/]", iri)).isdisjoint(names)


def _bare(text: str) -> str:
    """Return a path or URL up to its parameters, query or fragment."""
    for mark in "?#;":
        if mark in text:
            text = text.partition(mark)[0]
    return text


def _plain_segment(segment: str, *, before: str, names: Collection[str]) -> str:
    """Return a path segment, or `:id` unless it is plainly the name of a page."""
    if not segment:
        return segment
    if "-v1" in segment and (course := course_key(unquote(segment))) is not None:
        return course
    if (
        before in _PERSON_FOLLOWS
        or _SEGMENT.fullmatch(segment) is None
        or _SEGMENT_ID.fullmatch(segment) is not None
        or segment in names
    ):
        return _ID
    return segment


@lru_cache(maxsize=AGENTS_CACHED)
def _families(agent: str) -> tuple[str | None, str | None, DeviceClass]:
    """Return browser family, system family and class of an agent; bounded cache."""
    if not agent or len(agent) > AGENT_CHARS_MAX:
        return None, None, "other"
    parsed = ua_parser.parse(agent)
    browser = _family(parsed.user_agent.family if parsed.user_agent else None)
    system = _family(parsed.os.family if parsed.os else None)
    device = parsed.device.family if parsed.device else ""
    brand = (parsed.device.brand if parsed.device else None) or ""
    return browser, system, _device_class(agent, system, device=device, brand=brand)


def _family(name: str | None) -> str | None:
    """Return a family's name; some rules copy it from the agent, so digits and the like go."""
    return name if name is not None and _FAMILY.fullmatch(name) else None


def _device_class(agent: str, system: str | None, *, device: str, brand: str) -> DeviceClass:
    """Return the class that system and device tell."""
    if device == "Spider":
        return "bot"
    if device in {"iPad", "Kindle"} or "Tablet" in device or "Tablet" in brand:
        return "tablet"
    if system == "Android" and "Mobile" not in agent and "Mozilla/" in agent:
        return "tablet"  # a browser on an Android phone says "Mobile", one on a tablet does not
    if system in _MOBILE:
        return "mobile"
    return "desktop" if system in _DESKTOP else "other"
