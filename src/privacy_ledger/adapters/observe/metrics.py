"""Every metric, declared once: what is exposed, and what the runbook says, follow from it."""

import re
from typing import Final, Literal

from msgspec import Struct

from privacy_ledger.domain.errors import InvariantViolation
from privacy_ledger.ports.observe import LABELS

__all__ = ["METRICS", "Metric", "table"]

Kind = Literal["counter", "gauge", "histogram"]
_NAME: Final = re.compile(r"privacy_ledger_[a-z]+(_[a-z]+)*")
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_COUNTS: Final = (1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2000.0)
_PLACE: Final = ("pass", "partition")


class Metric(Struct, frozen=True, kw_only=True):
    """One metric: its name, what it says, its kind, its labels, and a histogram's buckets."""

    name: str
    kind: Kind
    says: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a label that is not allowed, a name of another form, a counter without `_total`.

        Raises:
            InvariantViolation: the declaration cannot stand; the message says why.
        """
        foreign = sorted(set(self.labels) - LABELS)
        if foreign:
            raise InvariantViolation(
                f"The metric {self.name} has the labels {', '.join(foreign)}, which may name a person. "
                f"Allowed are {', '.join(sorted(LABELS))}."
            )
        if not _NAME.fullmatch(self.name) or self.name.endswith("_total") is not (self.kind == "counter"):
            raise InvariantViolation(
                f"The metric {self.name} is no {self.kind} of this program by its name. Start it with "
                "`privacy_ledger_`, and end counters, and only them, with `_total`."
            )
        if bool(self.buckets) is not (self.kind == "histogram"):
            raise InvariantViolation(f"The metric {self.name} needs buckets if it is a histogram, else none.")


METRICS: Final = (
    Metric(
        name="privacy_ledger_lag_records", kind="gauge", labels=("pass", "projection", "partition"),
        says="Offsets up to the ledger's stable end that are not folded; at most so many records",
    ),
    Metric(
        name="privacy_ledger_lag_seconds", kind="gauge", labels=("pass", "projection", "partition"),
        says="Bound of the age, by `received`, of the oldest record that is not folded; 0 when none is left",
    ),
    Metric(
        name="privacy_ledger_partition_state", kind="gauge", labels=(*_PLACE, "state"),
        says="1 for the state of an assigned partition: acquiring, running, waiting (tried again within "
        "seconds), stopped (needs you); else 0",
    ),
    Metric(
        name="privacy_ledger_partition_outcomes_total", kind="counter", labels=(*_PLACE, "outcome"),
        says="Times that a partition was left for an error, by the name of the error",
    ),
    Metric(
        name="privacy_ledger_partitions_assigned", kind="gauge", labels=("pass",),
        says="Partitions of the pass that are this worker's",
    ),
    Metric(
        name="privacy_ledger_records_folded_total", kind="counter", labels=_PLACE,
        says="Records that committed cycles took from the ledger",
    ),
    Metric(
        name="privacy_ledger_records_unreadable_total", kind="counter", labels=_PLACE,
        says="Records that were set aside: nobody could read them, or a step failed; each parks its subject",
    ),
    Metric(
        name="privacy_ledger_tombstones_foreign_total", kind="counter", labels=_PLACE,
        says="Tombstones in the ledger that none of our passes wrote; they changed nothing, and somebody "
        "else can write there: look who",
    ),
    Metric(
        name="privacy_ledger_records_written_total", kind="counter", labels=_PLACE,
        says="Records that committed cycles wrote: states, views, outputs, positions",
    ),
    Metric(
        name="privacy_ledger_cycles_total", kind="counter", labels=(*_PLACE, "outcome"),
        says="Cycles by the end of their transaction: committed, fenced (a newer owner exists), failed "
        "(aborted, or of unknown fate until the partition is acquired again)",
    ),
    Metric(
        name="privacy_ledger_position", kind="gauge", labels=_PLACE,
        says="Offset of the last record that the pass applied",
    ),
    Metric(
        name="privacy_ledger_fold_seconds", kind="histogram", labels=("pass",), buckets=_SECONDS,
        says="Time from fetched records to a batch that is ready to commit",
    ),
    Metric(
        name="privacy_ledger_commit_seconds", kind="histogram", labels=("pass",), buckets=_SECONDS,
        says="Time of a cycle's transaction, however it ended",
    ),
    Metric(
        name="privacy_ledger_cycle_records", kind="histogram", labels=("pass",), buckets=_COUNTS,
        says="Records of one committed cycle",
    ),
    Metric(
        name="privacy_ledger_tombstones_decided_total", kind="counter", labels=(*_PLACE, "reason"),
        says="Records that `core` took out, by cause: refused in log order (`duplicate`, "
        "`consent_missing`, …) or removed (`erased`, `withdrawn`, `retention`, `discarded`)",
    ),
    Metric(
        name="privacy_ledger_tombstones_outstanding", kind="gauge", labels=_PLACE,
        says="Tombstones that were decided and not read back yet; counted up to 10,000",
    ),
    Metric(
        name="privacy_ledger_shreds_outstanding", kind="gauge", labels=_PLACE,
        says="Keys that a removal gave up and that are not seen destroyed yet; counted up to 10,000",
    ),
    Metric(
        name="privacy_ledger_subjects_parked", kind="gauge", labels=_PLACE,
        says="People who wait behind a record that nobody can read; counted up to 10,000",
    ),
    Metric(
        name="privacy_ledger_subjects_busy", kind="gauge", labels=_PLACE,
        says="People whose records are read again, slice by slice; their newer records wait",
    ),
    Metric(
        name="privacy_ledger_erasures_open", kind="gauge",
        says="Erasures of the whole ledger that are not complete, as the worker sees them that writes the "
        "ticks",
    ),
    Metric(
        name="privacy_ledger_erasures_overdue", kind="gauge",
        says="Those of them that are open for more than 24 hours: a store cannot be reached, look which",
    ),
    Metric(
        name="privacy_ledger_erasure_open_seconds", kind="gauge",
        says="How long the oldest of them is open; 0 when none is",
    ),
    Metric(
        name="privacy_ledger_compaction_idle_partitions", kind="gauge", labels=("topic",),
        says="Partitions that hold records and got none for 2 h, as the worker sees them that writes the "
        "ticks: what is idle is never compacted, and keeps the bytes of the erased",
    ),
    Metric(
        name="privacy_ledger_compaction_late_partitions", kind="gauge", labels=("topic",),
        says="Partitions that move and still hold what was replaced 6 h ago: the broker's log cleaner is "
        "behind, or gave them up after an error",
    ),
    Metric(
        name="privacy_ledger_compaction_lag_seconds", kind="gauge", labels=("topic",),
        says="Age of the oldest such record that was found; 0 where no partition is late",
    ),
    Metric(
        name="privacy_ledger_tick_timestamp_seconds", kind="gauge", labels=_PLACE,
        says="Time of the last tick that the pass has applied, in seconds since 1970",
    ),
    Metric(
        name="privacy_ledger_restore_records", kind="gauge", labels=_PLACE,
        says="Records that a running restore has read; gone when it has ended",
    ),
    Metric(
        name="privacy_ledger_restore_records_per_second", kind="gauge", labels=_PLACE,
        says="Pace of a running restore",
    ),
    Metric(
        name="privacy_ledger_restore_eta_seconds", kind="gauge", labels=_PLACE,
        says="Time that a running restore has left",
    ),
    Metric(
        name="privacy_ledger_standby_left", kind="gauge", labels=_PLACE,
        says="Offsets of changelogs that this worker, which stands by for the owner, has not applied yet",
    ),
    Metric(
        name="privacy_ledger_projection_joining", kind="gauge", labels=("pass", "projection", "partition"),
        says="1 while a projection is brought up beside the work of its pass and knows some people only",
    ),
    Metric(
        name="privacy_ledger_key_cache_keys", kind="gauge", labels=("state",),
        says="Open keys of this process: opened (to read), sealing (to write)",
    ),
    Metric(
        name="privacy_ledger_key_cache_lookups_total", kind="counter", labels=("outcome",),
        says="Keys asked for, by where they were: hit (in memory), miss (in the keystore, or new)",
    ),
    Metric(
        name="privacy_ledger_key_releases_total", kind="counter",
        labels=("role", "purpose", "category", "outcome"),
        says="Keys asked for, by role, declared purpose (of a worker: its pass), category or kind, and "
        "whether they were released or withheld",
    ),
)  # fmt: skip


def table() -> str:
    """Return the metrics as the rows of a Markdown table, in the order of their declaration."""
    head = "| Metric | Kind | Labels | Says |\n|---|---|---|---|\n"
    return head + "".join(
        f"| `{one.name}` | {one.kind} | {', '.join(one.labels) or 'none'} | {one.says} |\n" for one in METRICS
    )
