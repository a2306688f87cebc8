"""Every event of the ledger; the structs are the only source of `schemas/`."""

from functools import cache

from privacy_ledger.domain.events import collection, control
from privacy_ledger.domain.events.base import Fact, Personal
from privacy_ledger.domain.events.collection import *  # noqa: F403 - the one list of facts
from privacy_ledger.domain.events.control import *  # noqa: F403 - the one list of control events

__all__ = [  # noqa: PLE0604 - built from the modules' own sorted lists
    "COLLECTION_EVENTS",
    "CONTROL_FACTS",
    "CONTROL_RECORDS",
    "Fact",
    "Personal",
    "event_type",
    *collection.__all__,
    *control.__all__,
]

COLLECTION_EVENTS: tuple[type[Fact], ...] = tuple(getattr(collection, name) for name in collection.__all__)
"""Every sealed fact type, by class name."""

_CONTROL = tuple(getattr(control, name) for name in control.__all__)
CONTROL_FACTS: tuple[type[control.ControlFact], ...] = tuple(
    kind for kind in _CONTROL if issubclass(kind, control.ControlFact) and kind is not control.ControlFact
)
"""Every control fact about one subject."""
CONTROL_RECORDS: tuple[type[control.ControlRecord], ...] = tuple(
    kind for kind in _CONTROL if issubclass(kind, control.ControlRecord) and kind is not control.ControlRecord
)
"""Every control record for all partitions."""


def event_type(event: Fact | control.ControlFact | control.ControlRecord | type) -> str:
    """Return the wire tag of an event or event class, such as `video.paused.v1`."""
    return _tag(event if isinstance(event, type) else type(event))


@cache
def _tag(kind: type) -> str:
    return str(kind.__struct_config__.tag)  # type: ignore[attr-defined] # every struct class has one
