"""`Meters` as Prometheus metrics, on a registry of their own."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from privacy_ledger.adapters.observe.metrics import METRICS, Metric
from privacy_ledger.ports.keeping import ReleaseCount
from privacy_ledger.ports.observe import (
    Assigned,
    Compaction,
    Cycle,
    CycleOutcome,
    Erasures,
    Followed,
    KeyCacheFigures,
    Lag,
    Outstanding,
    Restoring,
    Revoked,
    Seen,
    Standing,
    Stands,
)

__all__ = ["CONTENT_TYPE_LATEST", "PrometheusMeters"]

_CODE: Final = re.compile(r"[A-Za-z_]{1,60}")
"""What a reason or an outcome looks like: no digit, so that no reference, key or number passes."""
_OTHER: Final = "other"
_PULLED: Final = (
    "privacy_ledger_key_cache_keys", "privacy_ledger_key_cache_lookups_total",
    "privacy_ledger_key_releases_total",
)  # fmt: skip
"""Metrics that are asked for when somebody looks, and not noted."""
_OF_ASSIGNED: Final = (
    "lag_records", "lag_seconds", "partition_state", "position", "tombstones_outstanding",
    "shreds_outstanding", "subjects_parked", "subjects_busy", "tick_timestamp_seconds", "standby_left",
    "projection_joining",
)  # fmt: skip
_OF_RESTORE: Final = ("restore_records", "restore_records_per_second", "restore_eta_seconds")


class PrometheusMeters:
    """Turns what was seen into metrics; what a partition that went says, goes with it."""

    def __init__(self, projections: Mapping[str, Sequence[str]]) -> None:
        """Take the projections of each pass."""
        self._projections = {name: tuple(found) for name, found in projections.items()}
        disable_created_metrics()  # type: ignore[no-untyped-call] # a second series beside each counter that nobody asks for
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in METRICS:
            if metric.name not in _PULLED:
                self._declare(metric)

    def _declare(self, metric: Metric) -> None:
        name = metric.name.removeprefix("privacy_ledger_")
        match metric.kind:
            case "counter":
                self._counters[name] = Counter(
                    metric.name, metric.says, metric.labels, registry=self._registry
                )
            case "gauge":
                self._gauges[name] = Gauge(metric.name, metric.says, metric.labels, registry=self._registry)
            case "histogram":
                self._histograms[name] = Histogram(
                    metric.name, metric.says, metric.labels, registry=self._registry, buckets=metric.buckets
                )

    def ask_keys(
        self, keys: Callable[[], KeyCacheFigures], releases: Callable[[], Iterable[ReleaseCount]]
    ) -> None:
        """Expose the key cache and the releases of keys from now on: both are asked at each look."""
        self._registry.register(_KeyCache(keys, releases))

    def expose(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def note(self, seen: Seen) -> None:
        """Take one sight."""
        match seen:
            case Cycle():
                self._cycle(seen)
            case Lag():
                self._lag(seen)
            case Outstanding():
                self._outstanding(seen)
            case Stands():
                self._stands(seen)
            case Restoring(pass_name=name, partition=partition):
                self._set("restore_records", name, partition, to=seen.records)
                self._set("restore_records_per_second", name, partition, to=seen.rate)
                self._set("restore_eta_seconds", name, partition, to=seen.eta_s)
            case Followed(pass_name=name, partition=partition):
                self._set("standby_left", name, partition, to=seen.left)
            case Erasures():
                self._set("erasures_open", to=seen.still_open)
                self._set("erasures_overdue", to=seen.overdue)
                self._set("erasure_open_seconds", to=seen.oldest_s)
            case Compaction(topic=topic):
                self._set("compaction_idle_partitions", topic, to=seen.idle)
                self._set("compaction_late_partitions", topic, to=seen.late)
                self._set("compaction_lag_seconds", topic, to=seen.lag_s)
            case Assigned(pass_name=name, partitions=partitions):
                self._forget(name)
                self._set("partitions_assigned", name, to=len(partitions))
                for partition in partitions:
                    self._show_state(name, partition, Standing.ACQUIRING)
            case Revoked(pass_name=name):
                self._forget(name)
                self._set("partitions_assigned", name, to=0)

    def _cycle(self, seen: Cycle) -> None:
        name, place = seen.pass_name, (seen.pass_name, str(seen.partition))
        self._counters["cycles_total"].labels(*place, seen.outcome).inc()
        self._histograms["commit_seconds"].labels(name).observe(seen.commit_s)
        if seen.outcome is not CycleOutcome.COMMITTED:
            return
        self._histograms["fold_seconds"].labels(name).observe(seen.fold_s)
        self._histograms["cycle_records"].labels(name).observe(seen.records)
        self._counters["records_folded_total"].labels(*place).inc(seen.records)
        self._counters["records_unreadable_total"].labels(*place).inc(seen.unreadable)
        self._counters["tombstones_foreign_total"].labels(*place).inc(seen.foreign)
        self._counters["records_written_total"].labels(*place).inc(seen.writes)
        for reason, count in seen.decided.items():
            self._counters["tombstones_decided_total"].labels(*place, _code(reason)).inc(count)

    def _lag(self, seen: Lag) -> None:
        self._set("position", seen.pass_name, seen.partition, to=seen.position)
        for projection in self._projections.get(seen.pass_name, ()):
            self._set("lag_records", seen.pass_name, projection, seen.partition, to=seen.records)
            if seen.seconds is not None:
                self._set("lag_seconds", seen.pass_name, projection, seen.partition, to=seen.seconds)

    def _outstanding(self, seen: Outstanding) -> None:
        name, partition = seen.pass_name, seen.partition
        self._set("subjects_parked", name, partition, to=seen.parked)
        self._set("subjects_busy", name, partition, to=seen.busy)
        self._set("tombstones_outstanding", name, partition, to=seen.tombstones)
        self._set("shreds_outstanding", name, partition, to=seen.shreds)
        for projection in self._projections.get(name, ()):
            self._set("projection_joining", name, projection, partition, to=projection in seen.joining)
        if seen.last_tick is not None:
            self._set("tick_timestamp_seconds", name, partition, to=seen.last_tick.timestamp())

    def _stands(self, seen: Stands) -> None:
        name, partition = seen.pass_name, seen.partition
        self._show_state(name, partition, seen.standing)
        if seen.outcome:
            self._counters["partition_outcomes_total"].labels(name, str(partition), _code(seen.outcome)).inc()
        for gauge in _OF_RESTORE:
            self._remove(self._gauges[gauge], name, partition)

    def _show_state(self, name: str, partition: int, standing: Standing) -> None:
        for one in Standing:
            self._set("partition_state", name, partition, one, to=one is standing)

    def _set(self, gauge: str, *labels: str | int, to: float) -> None:
        found = self._gauges[gauge]
        (found.labels(*map(str, labels)) if labels else found).set(to)

    def _forget(self, pass_name: str) -> None:
        """Remove what only the owner of a partition knows: the next owner may be another worker."""
        for name in (*_OF_ASSIGNED, *_OF_RESTORE):
            self._remove(self._gauges[name], pass_name)

    def _remove(self, gauge: Gauge, pass_name: str, partition: int | None = None) -> None:
        wanted = {"pass": pass_name} | ({} if partition is None else {"partition": str(partition)})
        gauge.remove_by_labels(wanted)


class _KeyCache(Collector):
    """Asks the key cache when somebody looks."""

    def __init__(
        self, keys: Callable[[], KeyCacheFigures], releases: Callable[[], Iterable[ReleaseCount]]
    ) -> None:
        self._keys = keys
        self._releases = releases

    def collect(self) -> Iterable[Family]:
        """Yield the figures of this moment."""
        says = {metric.name: metric for metric in METRICS if metric.name in _PULLED}
        figures = self._keys()
        held, asked, released = (says[name] for name in _PULLED)
        gauge = GaugeMetricFamily(held.name, held.says, labels=held.labels)
        gauge.add_metric(("opened",), figures.opened)
        gauge.add_metric(("sealing",), figures.sealing)
        counter = CounterMetricFamily(asked.name, asked.says, labels=asked.labels)
        counter.add_metric(("hit",), figures.asked - figures.missed)
        counter.add_metric(("miss",), figures.missed)
        answers = CounterMetricFamily(released.name, released.says, labels=released.labels)
        for one in self._releases():
            answers.add_metric((one.role, one.purpose, one.category, one.outcome), one.keys)
        return gauge, counter, answers


def _code(value: str) -> str:
    """Return a reason or an outcome, or `other` where it does not look like one."""
    return value if _CODE.fullmatch(value) else _OTHER
