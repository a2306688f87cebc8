"""Lines of CloudEvents: the envelope says in which format its data is, and that format reads it.

Which one it is stands in a table of prefixes of `type` and `dataschema`; an event of no row is refused
as unknown. An event is told from its copies by `source` and `id`, and compared by type and data: what
intermediaries add on the way makes no other event of it.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal

from msgspec import Struct, structs

from privacy_ledger.adapters.formats.cloudevents import CloudEvent, read_structured
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.ports.formats import Parsed

__all__ = ["TABLE", "Read", "Route", "Routed", "with_envelope"]

Attribute = Literal["type", "dataschema"]
Read = Callable[[CloudEvent], Parsed | Refusal]
"""What reads the data of an event."""

TABLE: Final[tuple[tuple[Attribute, str, str], ...]] = (
    ("dataschema", "http://purl.imsglobal.org/ctx/caliper", "caliper"),
    ("dataschema", "https://purl.imsglobal.org/ctx/caliper", "caliper"),
    ("type", "org.openedx", "openedx-bus"),
    *(
        ("type", f"privacy-ledger.{name}", name)
        for name in (
            "caliper",
            "canvas",
            "cmcd",
            "ledger",
            "openedx",
            "openedx-bus",
            "postmark",
            "sendgrid",
            "signals",
            "stripe",
            "xapi",
        )
    ),
)
"""Attribute, prefix, and the name of the format that it tells."""
_ENDS: Final = frozenset("./#?:")


class Route(Struct, frozen=True):
    """One row: events of which an attribute begins with a prefix, and what reads their data."""

    attribute: Attribute
    prefix: str
    read: Read


class Routed:
    """The parser of structured events; a `Format`."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """Take the rows. The longest prefix of a type counts, else that of a schema; of equals the first."""
        self._routes = sorted(routes, key=lambda route: (route.attribute != "type", -len(route.prefix)))

    def __call__(self, line: bytes, /) -> Parsed | Refusal:
        """Return the facts of one structured event, or the first refusal that applies; never raises."""
        event = read_structured(line)
        return event if type(event) is Refusal else self.read(event)

    def read(self, event: CloudEvent) -> Parsed | Refusal:
        """Return the facts of an event of any mode, or the first refusal that applies; never raises.

        `UNKNOWN_EVENT`: no row tells its format.
        """
        for route in self._routes:
            if _begins(event.type if route.attribute == "type" else event.dataschema, route.prefix):
                break
        else:
            return Refusal.UNKNOWN_EVENT
        found = route.read(event)
        return found if type(found) is Refusal else with_envelope(found, event)


def with_envelope(found: Parsed, event: CloudEvent) -> Parsed:
    """Return what the data of an event say as its own: named by source and id, compared by type and data."""
    return structs.replace(
        found,
        source_event_id=f"{event.source} {event.id}",
        digest_input=b"\n".join((event.type.encode(), found.digest_input)),
    )


def _begins(value: str | None, prefix: str) -> bool:
    """Return whether a value is the prefix, or goes on after it with another part."""
    if value is None or not value.startswith(prefix):
        return False
    return len(value) == len(prefix) or prefix[-1] in _ENDS or value[len(prefix)] in _ENDS
