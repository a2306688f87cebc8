"""What can go wrong for a producer. A message says the rule and the next step, and never a value."""

from privacy_ledger.domain.errors import LedgerError

__all__ = ["BufferFull", "EventInvalid", "LedgerClosed", "SpoolUnusable", "TransportInvalid"]


class EventInvalid(LedgerError):
    """An event that the ledger would refuse for its form; nothing was emitted."""

    def __init__(self, event_type: str, path: str) -> None:
        """Take the type and where it is wrong."""
        super().__init__(
            f"{event_type} does not match its schema at {path}. Correct the event that is emitted."
        )
        self.event_type = event_type
        self.path = path


class BufferFull(LedgerError):
    """There was no room for an event that must not be dropped; it was not emitted."""

    retriable = True

    def __init__(self, event_type: str) -> None:
        """Take the type of the event."""
        super().__init__(
            f"The buffer has no room for {event_type}. Emit it again when the service is reachable, or undo "
            "what it tells of."
        )
        self.event_type = event_type


class LedgerClosed(LedgerError):
    """Something was emitted before the ledger was opened, or after it was closed."""

    def __init__(self) -> None:
        """Say what to do."""
        super().__init__("The ledger is not open. Emit within `with`, or before `close`.")


class TransportInvalid(LedgerError):
    """An address or key with which nothing can be sent."""


class SpoolUnusable(LedgerError):
    """The spool's folder or key cannot be used, or the extra is not installed."""
