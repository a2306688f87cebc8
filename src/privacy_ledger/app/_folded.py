"""One version of a projection as it lies in the log."""

from msgspec import Struct

from privacy_ledger.domain.topics import Topic
from privacy_ledger.ports.codec import StateCodec
from privacy_ledger.streams.states import Table

__all__ = ["Folded"]


class Folded(Struct, frozen=True, kw_only=True):
    """Whose it is, and what is its own: topics and key groups that go when the version is dropped.

    The declared version shares its pass with others; its own are the view and the view's keys.
    """

    projection: str
    version: int
    pass_name: str
    table: Table[object]
    states: StateCodec
    topics: tuple[Topic, ...]
    groups: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name that people read, such as `progress.v2`."""
        return f"{self.projection}.v{self.version}"

    @property
    def view(self) -> str:
        """The topic of the view."""
        return self.states.topic(self.table)
