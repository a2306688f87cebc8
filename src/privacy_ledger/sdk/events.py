"""What a producer emits: a fact of the ledger, whom it is about, and an id that is made once."""

import os
import re
from typing import Final

import msgspec
from msgspec import Struct

from privacy_ledger.domain.events import Fact, event_type
from privacy_ledger.domain.values import Category
from privacy_ledger.sdk.errors import EventInvalid

__all__ = ["EVENT_BYTES_MAX", "SUBJECTS_MAX", "Encoded", "Event", "encode"]

EVENT_BYTES_MAX: Final = 1 << 18
SUBJECTS_MAX: Final = 16
_DROPPABLE: Final = frozenset({Category.USAGE, Category.PATTERNS})
"""What may be lost when there is no room: how something was used. All else waits, or is refused loudly."""
_ID: Final = re.compile(r"[A-Za-z0-9_.:\-]{1,255}")
_SUBJECT: Final = re.compile(r"[a-z][a-z0-9-]{0,30}:[a-z][a-z0-9_]{0,30}:.{1,448}", re.DOTALL)


def _new_id() -> str:
    return os.urandom(16).hex()


class Event(Struct, frozen=True, kw_only=True):
    """One fact about one person, or the same fact about each of a group.

    A subject is named `SOURCE:KIND:NAME`, such as `openedx:user_id:42`; a group has 1 to `SUBJECTS_MAX`.
    `id` is random unless it is given (1 to 255 of `A-Z a-z 0-9 _ . : -`); the ledger keeps an id of a source
    once, so an id that is given makes emitting again safe. It must say nothing of a person.
    """

    subjects: tuple[str, ...]
    fact: Fact
    id: str = msgspec.field(default_factory=_new_id)

    def __repr__(self) -> str:
        """Return the type and the id: who it is about, and what it says, never reach a log."""
        return f"Event({event_type(self.fact)}, id={self.id!r}, {len(self.subjects)} subjects)"

    @classmethod
    def of(cls, subject: str, fact: Fact, *, id: str | None = None) -> "Event":  # noqa: A002 - the field's name
        """Return an event about one person; without an id it gets a random one."""
        return cls(subjects=(subject,), fact=fact, id=_new_id() if id is None else id)


class Encoded(Struct, frozen=True, kw_only=True):
    """An event as it is sent; its line is what the service's own format takes."""

    id: str
    type: str
    line: bytes
    is_droppable: bool = False

    def __repr__(self) -> str:
        """Return the type and the id."""
        return f"Encoded({self.type}, id={self.id!r})"


class _Line(Struct, omit_defaults=True):
    id: str
    event: Fact
    subject: str = ""
    subjects: tuple[str, ...] = ()


_encode = msgspec.json.Encoder().encode


def encode(event: Event) -> Encoded:
    """Return an event as it is sent.

    Raises:
        EventInvalid: its id, a subject, a field or its size is none that the ledger takes. Constructors do
            not validate; this does, as the service would, and says the path and never the value.
    """
    name = event_type(event.fact)
    if _ID.fullmatch(event.id) is None:
        raise EventInvalid(name, "$.id")
    subjects = event.subjects
    if not 0 < len(subjects) <= SUBJECTS_MAX or any(_SUBJECT.fullmatch(one) is None for one in subjects):
        raise EventInvalid(name, "$.subjects")
    said = _Line(event.id, event.fact, subjects[0]) if len(subjects) == 1 else None
    try:
        msgspec.convert(msgspec.to_builtins(event.fact), type(event.fact), strict=False)
        line = _encode(said or _Line(event.id, event.fact, subjects=subjects))
    except msgspec.ValidationError as error:
        raise EventInvalid(name, _path(error)) from None
    except (TypeError, ValueError, OverflowError):
        raise EventInvalid(name, "$.event") from None
    if len(line) > EVENT_BYTES_MAX:
        raise EventInvalid(name, "$")
    return Encoded(id=event.id, type=name, line=line, is_droppable=event.fact.category in _DROPPABLE)


def _path(error: msgspec.ValidationError) -> str:
    """Return where a value is wrong; the rest of the sentence may quote it."""
    _, _, path = str(error).rpartition(" - at `$")
    return f"$.event{path.rstrip('`')}" if re.fullmatch(r"[.A-Za-z_\[\]0-9]*`", path) else "$.event"
