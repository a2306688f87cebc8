"""What this worker's passes and partitions are doing: the answer to "are you ready?"."""

from collections.abc import Sequence

from msgspec import Struct, structs

from privacy_ledger.ports.observe import Assigned, Restoring, Revoked, Seen, Standing, Stands

__all__ = ["Board", "PartitionStatus", "Readiness"]


class PartitionStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One partition: its state, the error that led there, and how far its restore is."""

    state: str
    outcome: str | None = None
    restored: int | None = None
    eta_s: float | None = None


class Readiness(Struct, frozen=True, kw_only=True):
    """Whether every assigned partition is restored and folds, and the state of each.

    A pass that has joined no group yet is None; one without partitions stands by, and is ready.
    """

    ready: bool
    passes: dict[str, dict[str, PartitionStatus] | None]


class Board:
    """`Meters` that remember the present only."""

    def __init__(self) -> None:
        """Know of no pass."""
        self._passes: dict[str, dict[int, PartitionStatus]] = {}

    def note(self, seen: Seen) -> None:
        """Take what changes the state of a pass or a partition."""
        match seen:
            case Assigned(pass_name=name, partitions=partitions):
                acquiring = PartitionStatus(state=Standing.ACQUIRING)
                self._passes[name] = dict.fromkeys(partitions, acquiring)
            case Revoked(pass_name=name):
                self._passes.pop(name, None)
            case Stands(standing=standing, outcome=outcome):
                self._put(seen, state=standing, outcome=outcome or None, restored=None, eta_s=None)
            case Restoring(records=records, eta_s=eta_s):
                self._put(seen, restored=records, eta_s=round(eta_s, 1))
            case _:
                pass

    def _put(self, seen: Stands | Restoring, **news: str | float | None) -> None:
        owned = self._passes.get(seen.pass_name, {})
        before = owned.get(seen.partition)
        if before is not None:  # else a task of an earlier assignment speaks
            owned[seen.partition] = structs.replace(before, **news)

    def readiness(self, passes: Sequence[str]) -> Readiness:
        """Return how these passes stand."""
        found: dict[str, dict[str, PartitionStatus] | None] = {}
        for name in passes:
            owned = self._passes.get(name)
            found[name] = (
                None if owned is None else {str(partition): owned[partition] for partition in sorted(owned)}
            )
        ready = all(
            owned is not None and all(one.state == Standing.RUNNING for one in owned.values())
            for owned in found.values()
        )
        return Readiness(ready=ready, passes=found)
