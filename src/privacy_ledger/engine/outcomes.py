"""What goes wrong with the partitions of a pass, each by a name: for log lines and for readiness."""

from typing import Final

from msgspec import Struct, structs

from privacy_ledger.domain.errors import (
    BuildRefused,
    Fenced,
    KekMissing,
    LedgerError,
    LedgerRewound,
    LedgerTruncated,
    StoreUnfit,
    UnknownKey,
)
from privacy_ledger.engine.guards import ControlUnreadable
from privacy_ledger.logging import get_logger

__all__ = ["STOPPED_RETRY_S", "Outcome", "Outcomes", "reason_of"]

RETRY_S: Final = 1.0
FENCED_RETRY_S: Final = 3.0
STOPPED_RETRY_S: Final = 30.0

log_line = get_logger()


class Outcome(Struct, frozen=True, kw_only=True):
    """One named outcome: what happened, where, and what to do; `is_over` once the partition folds again."""

    name: str
    text: str
    is_over: bool = False


class Outcomes:
    """The last outcome of each partition of one pass."""

    def __init__(self, pass_name: str) -> None:
        """Nothing has happened yet."""
        self._pass_name = pass_name
        self.last: dict[int, Outcome] = {}

    def mended(self, partition: int, error: LedgerError) -> None:
        """Take what is being mended; the partition goes on by itself."""
        self._keep(partition, error)
        if isinstance(error, StoreUnfit):
            log_line.warning("store begins anew", **self._what(partition, error))
        else:
            log_line.warning("state begins anew", **self._what(partition, error))

    def stopped(self, partition: int, error: Exception) -> float:
        """Take what ended an attempt, and say so without frames; return when to try again, in seconds."""
        if not isinstance(error, LedgerError):
            # The message of a foreign error may carry a value.
            self.last[partition] = Outcome(name="unexpected error", text=type(error).__name__)
            log_line.error("unexpected error", **self._what(partition, error))
            return RETRY_S if isinstance(error, OSError) else STOPPED_RETRY_S
        before = self.last.get(partition)
        self._keep(partition, error)
        match error:
            case BuildRefused():
                log_line.error("build refused", **self._what(partition, error))
                return STOPPED_RETRY_S
            case LedgerRewound() | LedgerTruncated() | UnknownKey() | ControlUnreadable():
                log_line.error("partition stopped", **self._what(partition, error))
                return STOPPED_RETRY_S
            case KekMissing() if before is not None and before.name == error.outcome:
                log_line.error("partition stopped", **self._what(partition, error))
                return STOPPED_RETRY_S
            case Fenced():
                log_line.warning("fenced", **self._what(partition, error))
                return FENCED_RETRY_S
            case _:
                log_line.warning("attempt failed", **self._what(partition, error))
                return RETRY_S

    def over(self, partition: int) -> None:
        """Take that a partition folds."""
        last = self.last.get(partition)
        if last is not None:
            self.last[partition] = structs.replace(last, is_over=True)

    def _keep(self, partition: int, error: LedgerError) -> None:
        self.last[partition] = Outcome(name=error.outcome, text=str(error))

    def _what(self, partition: int, error: Exception) -> dict[str, object]:
        is_ours = isinstance(error, LedgerError)
        return {
            "pass_name": self._pass_name,
            "partition": partition,
            "state": error.outcome if isinstance(error, LedgerError) else "unexpected error",
            "reason": str(error) if is_ours else type(error).__name__,
        }


def reason_of(error: Exception) -> str:
    """Return what an error says; of a foreign one its class, for its message may carry a value."""
    return str(error) if isinstance(error, LedgerError) else type(error).__name__
