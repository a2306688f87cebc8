"""Puts together what watches one worker: its board, its metrics, and whoever else looks."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from privacy_ledger.adapters.observe.board import Board
from privacy_ledger.adapters.observe.health import HealthPages
from privacy_ledger.adapters.observe.prometheus import CONTENT_TYPE_LATEST, PrometheusMeters
from privacy_ledger.ports.keeping import ReleaseCount
from privacy_ledger.ports.observe import KeyCacheFigures, Meters, Seen

__all__ = ["Watch"]


class Watch:
    """`Meters` of a worker with health pages; hands on what it sees to one more."""

    def __init__(self, projections: Mapping[str, Sequence[str]], *, beside: Meters) -> None:
        """Take the projections of each pass that this worker runs, and who else looks."""
        self._passes = tuple(projections)
        self._board = Board()
        self._metrics = PrometheusMeters(projections)
        self._all: tuple[Meters, ...] = (self._board, self._metrics, beside)

    def note(self, seen: Seen) -> None:
        """Let everybody take one sight."""
        for meters in self._all:
            meters.note(seen)

    def ask_keys(
        self, keys: Callable[[], KeyCacheFigures], releases: Callable[[], Iterable[ReleaseCount]]
    ) -> None:
        """Ask about the key cache and the releases of keys from now on."""
        self._metrics.ask_keys(keys, releases)

    @property
    def pages(self) -> HealthPages:
        """What the health server shows."""
        return HealthPages(
            readiness=lambda: self._board.readiness(self._passes),
            metrics=self._metrics.expose,
            metrics_type=CONTENT_TYPE_LATEST,
        )
