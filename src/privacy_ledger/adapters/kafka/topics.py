"""The declared topics in a cluster: what would change, changing it, and reading it back.

aiokafka's `alter_configs` resets every key that is not sent (a compacted topic becomes `delete`
without a word), and neither it nor `create_topics` raises what the cluster refuses. So the full
set goes out each time, every response is looked at, and the result is read back.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import UnknownTopicOrPartitionError, for_code
from msgspec import Struct

from privacy_ledger.adapters.kafka._clients import open_admin
from privacy_ledger.domain.errors import InvariantViolation, LogUnavailable
from privacy_ledger.domain.topics import Topic

__all__ = ["TopicChange", "apply", "open_admin", "plan", "remove"]

_REPLICATION: Final = 3
_MIN_INSYNC: Final = 2
_SETTLE_S: Final = 10.0
"""After a change the brokers learn of it one by one: read back for this long."""
_SETTLE_PAUSE_S: Final = 0.1
_SET_ON_TOPIC: Final = 1
"""The `config_source` of a value set on the topic itself."""


class TopicChange(Struct, frozen=True, kw_only=True):
    """One difference between a declared topic and the cluster; `text` tells it to an operator."""

    topic: str
    action: Literal["create", "alter", "refuse"]
    text: str
    partitions: int
    replication: int
    config: dict[str, str]


class _Found(Struct, frozen=True):
    partitions: int
    replication: int


async def plan(
    admin: AIOKafkaAdminClient,
    topics: Sequence[Topic],
    *,
    partitions: int,
    scale_ms: int | None = None,
    replication: int | None = None,
    prefix: str = "",
) -> tuple[TopicChange, ...]:
    """Return what differs from the declaration, in its order; nothing means no drift.

    Topics that are not declared are left alone. `replication` is otherwise three, or the number
    of brokers where there are fewer. A partition count is never changed: it is refused.

    Raises:
        LogUnavailable: the cluster did not answer, or hides its configuration.
    """
    if replication is None:
        cluster = await admin.describe_cluster()
        replication = min(_REPLICATION, len(cluster["brokers"]))
    described = await admin.describe_topics()
    found = {
        str(entry["topic"]): _Found(
            len(entry["partitions"]), min(len(p["replicas"]) for p in entry["partitions"])
        )
        for entry in described
        if entry["partitions"]
    }
    configs = await _read_configs(
        admin, [prefix + topic.name for topic in topics if prefix + topic.name in found]
    )
    changes: list[TopicChange] = []
    for topic in topics:
        name = prefix + topic.name
        change = _difference(
            topic,
            name=name,
            partitions=topic.partitions or partitions,
            replication=replication,
            scale_ms=scale_ms,
            # A broker may list a topic that another made a moment ago, and not know it when asked.
            found=found.get(name) if name in configs else None,
            config=configs.get(name, {}),
        )
        if change is not None:
            changes.append(change)
    return tuple(changes)


async def apply(
    admin: AIOKafkaAdminClient,
    topics: Sequence[Topic],
    *,
    partitions: int,
    scale_ms: int | None = None,
    replication: int | None = None,
    prefix: str = "",
) -> tuple[TopicChange, ...]:
    """Make the cluster as declared, verify it by reading back, and return what was changed.

    Idempotent. Nothing is changed if any topic is refused.

    Raises:
        InvariantViolation: a topic has another number of partitions or too few replicas.
        LogUnavailable: the cluster refused a change, or does not show it after ten seconds.
    """

    async def differences() -> tuple[TopicChange, ...]:
        return await plan(
            admin, topics, partitions=partitions, scale_ms=scale_ms, replication=replication, prefix=prefix
        )

    changes = await differences()
    refused = [change.text for change in changes if change.action == "refuse"]
    if refused:
        raise InvariantViolation(" ".join(refused))
    await _create(admin, [change for change in changes if change.action == "create"])
    await _alter(admin, [change for change in changes if change.action == "alter"])
    deadline = time.monotonic() + _SETTLE_S
    while changes and (left := await differences()):
        if time.monotonic() > deadline:
            raise LogUnavailable(f"The cluster does not show what was applied: {left[0].text} Apply again.")
        await asyncio.sleep(_SETTLE_PAUSE_S)
    return changes


async def remove(admin: AIOKafkaAdminClient, names: Sequence[str]) -> None:
    """Delete topics by their names in the cluster; those that are not there are passed over.

    Raises:
        LogUnavailable: the cluster refused, or still lists one after ten seconds.
    """
    deadline = time.monotonic() + _SETTLE_S
    while left := sorted(set(names) & set(await admin.list_topics())):
        response = await admin.delete_topics(left)
        for name, code, *_ in response.topic_error_codes:
            if code != UnknownTopicOrPartitionError.errno:
                _check_code(code, f"delete {name}")
        if time.monotonic() > deadline:
            raise LogUnavailable(f"The cluster still lists {left[0]}, which was deleted. Run it again.")
        await asyncio.sleep(_SETTLE_PAUSE_S)


def _difference(
    topic: Topic,
    *,
    name: str,
    partitions: int,
    replication: int,
    scale_ms: int | None,
    found: _Found | None,
    config: Mapping[str, str],
) -> TopicChange | None:
    # An existing topic keeps its replicas: a broker that is down now must not lower the bound.
    replicas = replication if found is None else found.replication
    wanted = topic.config(scale_ms=scale_ms)
    if replicas >= _REPLICATION:
        wanted["min.insync.replicas"] = str(_MIN_INSYNC)

    def change(action: Literal["create", "alter", "refuse"], text: str) -> TopicChange:
        return TopicChange(
            topic=name, action=action, text=text, partitions=partitions, replication=replicas, config=wanted
        )

    if found is None:
        return change(
            "create", f"{name} is not there: create it with {partitions} partitions, {replicas} replicas."
        )
    if found.partitions != partitions:
        return change(
            "refuse",
            f"{name} has {found.partitions} partitions, and {partitions} are declared. The order per person "
            "depends on the number: reshard into a new topic version.",
        )
    if found.replication < replication:
        return change(
            "refuse",
            f"{name} has {found.replication} replicas, and {replication} are declared. "
            "Reassign its partitions with Kafka's own tool.",
        )
    differing = sorted(key for key in wanted.keys() | config.keys() if wanted.get(key) != config.get(key))
    if not differing:
        return None
    details = ", ".join(f"{key} {config.get(key, 'unset')} → {wanted.get(key, 'unset')}" for key in differing)
    return change("alter", f"{name} differs: {details}.")


async def _read_configs(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return what is set on each topic itself; topics that the broker does not know are left out."""
    if not names:
        return {}
    responses = await admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    )
    configs: dict[str, dict[str, str]] = {}
    for response in responses:
        for code, _, _, name, entries in response.resources:
            if code == UnknownTopicOrPartitionError.errno:
                continue
            _check_code(code, f"describe {name}")
            configs[name] = {entry[0]: entry[1] for entry in entries if entry[3] == _SET_ON_TOPIC}
    return configs


async def _create(admin: AIOKafkaAdminClient, changes: Sequence[TopicChange]) -> None:
    if not changes:
        return
    response = await admin.create_topics(
        [NewTopic(c.topic, c.partitions, c.replication, topic_configs=c.config) for c in changes]
    )
    for name, code, *_ in response.topic_errors:
        _check_code(code, f"create {name}")


async def _alter(admin: AIOKafkaAdminClient, changes: Sequence[TopicChange]) -> None:
    if not changes:
        return
    responses = await admin.alter_configs(
        [ConfigResource(ConfigResourceType.TOPIC, c.topic, configs=c.config) for c in changes]
    )
    for response in responses:
        for code, _, _, name in response.resources:
            _check_code(code, f"alter {name}")


def _check_code(code: int, attempt: str) -> None:
    if code:
        raise LogUnavailable(
            f"The cluster refused to {attempt} ({for_code(code).__name__}). "
            "Check this client's rights and try again."
        )
