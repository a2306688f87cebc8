"""Loads what watches a process only where it was switched on: all of it is slow to load."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from privacy_ledger.domain.errors import HomeUnusable
from privacy_ledger.ports.observe import SILENT, Meters

if TYPE_CHECKING:
    from privacy_ledger.adapters.observe.watch import Watch

__all__ = ["traced", "watch_of"]


def watch_of(projections: Mapping[str, Sequence[str]], *, beside: Meters) -> "Watch":
    """Return meters with pages to show, for a worker that runs these projections by pass."""
    from privacy_ledger.adapters.observe.watch import Watch  # noqa: PLC0415 - see above

    return Watch(projections, beside=beside)


@contextmanager
def traced(exporter: str | None, *, command: str | None) -> Iterator[Meters]:
    """Yield who sends cycles, and a command around them, as spans; nobody without an exporter.

    Raises:
        HomeUnusable: the extra `otel`, or the exporter, is not installed.
    """
    if exporter is None:
        yield SILENT
        return
    try:
        from privacy_ledger.adapters.observe import tracing  # noqa: PLC0415 - see above
    except ImportError:
        raise HomeUnusable(
            "PRIVACY_LEDGER_TRACES needs what the extra `otel` brings: install `privacy-ledger[otel]`, "
            "or unset it."
        ) from None
    with tracing.traced(exporter, command=command) as meters:
        yield meters
