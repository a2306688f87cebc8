"""Every topic of the ledger, declared once: plan, apply, drift, compose and ACLs follow from it."""

from typing import Final, Literal

from msgspec import Struct

__all__ = [
    "ANALYTICS_PARTIALS",
    "ANALYTICS_RELEASES",
    "AUDIT_LEAVES",
    "CONTROL_HINTS",
    "DELETE_RETENTION_MS",
    "DLQ",
    "LEDGER_EVENTS",
    "LEDGER_REGISTRY",
    "LEDGER_UNATTRIBUTED",
    "PARTITIONS_DEFAULT",
    "PARTITIONS_EMBEDDED",
    "PASSES",
    "REQUESTS",
    "TOPICS",
    "Topic",
    "product_topic",
    "state_topic",
    "version_topics",
    "view_topic",
]

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
DELETE_RETENTION_MS: Final = 7 * DAY_MS
"""How long a tombstone stays after the cleaner first saw it: who reads slower misses a deletion."""
PARTITIONS_DEFAULT: Final = 16
PARTITIONS_EMBEDDED: Final = 4

Policy = Literal["compact", "delete"]


class Topic(Struct, frozen=True, kw_only=True):
    """One topic: its name, partitions (None: as many as the ledger) and full configuration."""

    name: str
    partitions: int | None
    policy: Policy
    holds: str
    retention_ms: int = -1
    max_compaction_lag_ms: int = DAY_MS
    writers: tuple[str, ...]
    readers: tuple[str, ...]

    def config(self, *, scale_ms: int | None = None) -> dict[str, str]:
        """Return the full Kafka configuration, every key each time.

        `alter_configs` resets what is not sent, so nothing is left out. `scale_ms` replaces the
        day-sized periods with that many milliseconds (tests of physical removal).
        """
        if self.policy == "delete":
            return {
                "cleanup.policy": "delete",
                "retention.ms": str(self.retention_ms),
                "message.timestamp.type": "LogAppendTime",
                "compression.type": "producer",
            }
        lag = self.max_compaction_lag_ms if scale_ms is None else scale_ms
        return {
            "cleanup.policy": "compact",
            "compression.type": "producer",
            "message.timestamp.type": "LogAppendTime",
            "max.compaction.lag.ms": str(lag),
            "segment.ms": str(lag),
            "min.cleanable.dirty.ratio": "0.1" if scale_ms is None else "0.01",
            "delete.retention.ms": str(DELETE_RETENTION_MS if scale_ms is None else scale_ms + 1000),
            "file.delete.delay.ms": "60000" if scale_ms is None else "1000",
        }


def state_topic(pass_name: str) -> str:
    """Return the name of a pass's private changelog."""
    return f"state.{pass_name}.v1"


def view_topic(name: str, version: int = 1) -> str:
    """Return the name of a projection's view, which is its changelog."""
    return f"view.{name}.v{version}"


def version_topics(view: str, version: int, *, folded_by: str, role: str) -> tuple[Topic, Topic]:
    """Return the two topics of a view's later version: its pass's private changelog, and the view.

    `role`: the role of the pass that folds the declared version, which folds this one too.
    """
    return (
        _compact(state_topic(folded_by), f"position and index of version {version} of {view}",
                 (role,), (role,)),
        _compact(view_topic(view, version), f"version {version} of {view}", (role,), _TEAM),
    )  # fmt: skip


def product_topic(product: str) -> str:
    """Return the name of a product's public topic (`_` becomes `-`: KIP-1109)."""
    return f"analytics.{product.replace('_', '-')}.v1"


def _compact(name: str, holds: str, writers: tuple[str, ...], readers: tuple[str, ...]) -> Topic:
    return Topic(
        name=name, partitions=None, policy="compact", holds=holds, writers=writers, readers=readers,
        max_compaction_lag_ms=DAY_MS if name.startswith("ledger.") else HOUR_MS,
    )  # fmt: skip


LEDGER_EVENTS: Final = "ledger.events.v1"
LEDGER_UNATTRIBUTED: Final = "ledger.unattributed.v1"
LEDGER_REGISTRY: Final = "ledger.registry.v1"
REQUESTS: Final = "requests.v1"
ANALYTICS_PARTIALS: Final = "analytics.partials.v1"
ANALYTICS_RELEASES: Final = "analytics.releases.v1"
AUDIT_LEAVES: Final = "audit.leaves.v1"
CONTROL_HINTS: Final = "control.hints.v1"
DLQ: Final = "dlq.v1"

_TEAM: Final = ("core", "privacy")
TOPICS: Final[tuple[Topic, ...]] = (
    _compact(LEDGER_EVENTS, "the ledger", ("ingest", "core", "eraser"), ("core", "analytics", "eraser")),
    Topic(name=LEDGER_UNATTRIBUTED, partitions=None, policy="delete", retention_ms=14 * DAY_MS,
          holds="events whose subject is unknown", writers=("ingest",), readers=("ingest", "core")),
    Topic(name=LEDGER_REGISTRY, partitions=1, policy="delete", holds="facts about no person",
          writers=("operator", "core"), readers=("ingest", "core", "analytics", "eraser", "operator")),
    _compact(state_topic("core"), "position, tags, index and work of the core pass", ("core",),
             ("core", "analytics")),
    _compact(state_topic("analytics"), "position and window state of the analytics pass",
             ("analytics",), ("analytics", "core")),
    _compact(view_topic("permissions"), "what may be done for whom, now", ("core",), ("ingest", *_TEAM)),
    _compact(view_topic("subject_view"), "profile, devices, location, counts", ("core",), _TEAM),
    _compact(view_topic("progress"), "enrolments, video, quizzes, certificates", ("core",), _TEAM),
    Topic(name=REQUESTS, partitions=None, policy="delete", retention_ms=1125 * DAY_MS,
          holds="progress of rights requests", writers=("eraser", "privacy", "core"),
          readers=("privacy", "eraser", "core")),
    _compact(ANALYTICS_PARTIALS, "sealed partial aggregates", ("analytics",), ("release",)),
    Topic(name=ANALYTICS_RELEASES, partitions=1, policy="delete", holds="budget and release ledger",
          writers=("release",), readers=("release", "operator")),
    Topic(name=product_topic("course_views_daily"), partitions=1, policy="compact",
          holds="anonymised daily course views", writers=("release",), readers=("analyst", "operator")),
    Topic(name=AUDIT_LEAVES, partitions=1, policy="delete", holds="Merkle leaf hashes and checkpoints",
          writers=("core", "eraser", "release"),
          readers=("operator", "privacy", "core")),
    Topic(name=CONTROL_HINTS, partitions=1, policy="delete", retention_ms=HOUR_MS,
          holds="hints whose loss is harmless", writers=("eraser", "operator"),
          readers=("core", "analytics")),
    Topic(name=DLQ, partitions=None, policy="delete", retention_ms=14 * DAY_MS,
          holds="pointers and redacted refusals", writers=("ingest", "core", "analytics"),
          readers=("operator", "core")),
)  # fmt: skip
"""Every topic. `partitions=None` follows the ledger's own count, so that passes co-partition.

The worker of `core` takes erasures up again: it reads what their stores answer for, notes their
progress and appends their leaves.
"""

PASSES: Final = frozenset(
    topic.name.removeprefix("state.").removesuffix(".v1")
    for topic in TOPICS
    if topic.name.startswith("state.")
)
"""The passes of the declaration; those of later versions of projections come and go beside them."""
