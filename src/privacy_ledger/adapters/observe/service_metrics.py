"""The HTTP service's metrics: counts that are asked for when somebody looks."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from privacy_ledger.adapters.observe.board import Readiness
from privacy_ledger.adapters.observe.health import HealthPages

__all__ = ["service_pages"]


class _Counts(Collector):
    def __init__(
        self,
        statuses: Mapping[int, int],
        outcomes: Mapping[tuple[str, str], int],
        queued: Callable[[], int],
    ) -> None:
        self._statuses = statuses
        self._outcomes = outcomes
        self._queued = queued

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics; their labels are statuses and codes, and never a name."""
        requests = CounterMetricFamily(
            "privacy_ledger_http_requests", "Requests that were answered, by status.", labels=("state",)
        )
        for status, count in sorted(self._statuses.items()):
            requests.add_metric((str(status),), count)
        yield requests
        events = CounterMetricFamily(
            "privacy_ledger_http_events", "Events of answered requests, by what became of them.",
            labels=("outcome", "reason"),
        )  # fmt: skip
        for labels, count in sorted(self._outcomes.items()):
            events.add_metric(labels, count)
        yield events
        yield GaugeMetricFamily(
            "privacy_ledger_http_queued_events", "Events that wait to be ingested.", value=self._queued()
        )


def service_pages(
    statuses: Mapping[int, int],
    outcomes: Mapping[tuple[str, str], int],
    *,
    queued: Callable[[], int],
    is_well: Callable[[], bool],
) -> HealthPages:
    """Return the health pages of a service: ready while its last work succeeded."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Counts(statuses, outcomes, queued))
    return HealthPages(
        readiness=lambda: Readiness(ready=is_well(), passes={}),
        metrics=lambda: generate_latest(registry),
        metrics_type=CONTENT_TYPE_LATEST,
    )
