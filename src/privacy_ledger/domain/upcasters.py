"""Old event versions become current ones, one version at a time, when they are read.

The log keeps what was written: an upcaster works on the decoded document, never on the log. A chain
maps a type to the one step that leads to its next version, so readers of version N read N-1 data.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from privacy_ledger.domain.errors import InvariantViolation

__all__ = ["UPCASTERS", "Chain", "Document", "Upcaster", "upcast"]

Document = dict[str, object]
"""An event as decoded JSON; its member `type` is its versioned tag."""


class Upcaster(Struct, frozen=True, kw_only=True):
    """One step to a next version; `change` is pure and returns a new document."""

    target: str
    change: Callable[[Document], Document]


Chain = Mapping[str, Upcaster]
"""The step that each old event type takes."""

UPCASTERS: Final[Chain] = MappingProxyType({})
"""The steps in production. Empty: every released event is at version 1."""


def upcast(event_type: str, document: Document, *, chain: Chain = UPCASTERS) -> tuple[str, Document]:
    """Return the newest type that `chain` leads to, and the document in that form.

    A type without a step is returned as it is. The given document is never changed.

    Raises:
        InvariantViolation: a step does not lead to a later version of the same event.
    """
    while (step := chain.get(event_type)) is not None:
        if not _is_later(step.target, than=event_type):
            message = (
                f"The upcaster of {event_type} leads to {step.target}, which is no later version of it. "
                "Correct the chain: a step leads to a higher version of the same event."
            )
            raise InvariantViolation(message)
        event_type, document = step.target, {**step.change(dict(document)), "type": step.target}
    return event_type, document


def _is_later(target: str, *, than: str) -> bool:
    name, _, version = than.rpartition(".v")
    target_name, _, target_version = target.rpartition(".v")
    if not (version.isdecimal() and target_version.isdecimal()):
        return False
    return target_name == name and int(target_version) > int(version)
