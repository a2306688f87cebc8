"""The ledger read by a group of workers: membership, shares, and rows."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec
from aiokafka import AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError
from msgspec import Struct

from privacy_ledger.adapters.kafka._clients import (
    DELIVERY_TIMEOUT_S,
    STOP_TIMEOUT_S,
    discard,
    open_producer,
    translated_errors,
)
from privacy_ledger.adapters.kafka._consumer import RowConsumer
from privacy_ledger.adapters.kafka.safety import safe_consumer
from privacy_ledger.adapters.kafka.settings import ClusterSettings, group_options
from privacy_ledger.domain.errors import Fenced, LogUnavailable
from privacy_ledger.ports.log import Row
from privacy_ledger.ports.transport import Claim, Member, OutOfRange, Plan, Share

__all__ = ["GroupMember", "GroupSource"]

PROTOCOL: Final = "warm"
"""The name under which workers agree on how a group is divided: all of them must know it."""
POLL_GRACE_S: Final = 1.0
FETCH_S: Final = 0.01
_VERSION: Final = 0


class GroupMember(Struct, frozen=True, kw_only=True):
    """Who a worker is in a group.

    `identity` None: the group gives a new name at each start, and a restart is another worker.
    Otherwise it is the worker's own for good: a restart within the session changes nothing for
    anybody. `writer` is then the transactional id whose newest owner is the one worker that runs
    under it.
    """

    group: str
    session_ms: int
    identity: str | None = None
    writer: str = ""
    leaves_at_stop: bool = True


class GroupSource:
    """`Source` on a topic of the cluster."""

    def __init__(
        self,
        cluster: ClusterSettings,
        member: GroupMember,
        *,
        topic: str,
        partitions: int,
        plan: Plan,
    ) -> None:
        """Describe the member; `plan` divides the group where this member leads it."""
        self._cluster = cluster
        self._identity = member
        self._topic = topic
        self._plan = plan
        options = group_options(
            cluster, group=member.group, session_ms=member.session_ms, partitions=partitions
        )
        if member.identity is not None:
            options["group_instance_id"] = member.identity
        self._options = options
        self._consumer: RowConsumer | None = None
        self._fence: AIOKafkaProducer | None = None
        self._divided = 0

    async def join(self, member: Member) -> None:
        """Join the group; `member` is told of every share until `leave`."""
        assignor = _Assignor(self._topic, self._plan, member)
        self._consumer = consumer = RowConsumer(
            **safe_consumer(self._options), partition_assignment_strategy=(assignor,)
        )
        consumer.subscribe([self._topic], listener=_Listener(consumer, assignor, member, self._note_division))
        with translated_errors(self._cluster):
            await consumer.start()

    async def poll(self, *, timeout_s: float, limit: int) -> Mapping[int, Sequence[Row]]:
        """Return at most `limit` rows of the resumed partitions; none while the group is divided.

        aiokafka holds one answer per partition and asks for more when that is taken. So what a
        partition got after it, since the last poll, is waited for as well: a moment, unless there
        is much already.
        """
        rows = await self._rows(timeout_s=timeout_s, limit=limit)
        # What a request returns was taken right before: it belongs to the division of this moment.
        divided, left = self._divided, limit - sum(map(len, rows.values()))
        if not rows or left < max(1, limit // 2):
            return rows
        try:
            more = await self._rows(timeout_s=FETCH_S, limit=left)
        except (OutOfRange, LogUnavailable):
            more = {}  # the next poll meets it again; what was read is not lost
        if divided != self._divided:
            return more  # whoever owns a partition now reads again from its own position on
        return {place: [*rows.get(place, ()), *more.get(place, ())] for place in rows.keys() | more.keys()}

    async def _rows(self, *, timeout_s: float, limit: int) -> Mapping[int, Sequence[Row]]:
        consumer = self._joined()
        with translated_errors(self._cluster):
            try:
                # It waits for a rebalance to end without a limit of its own. Cancelled there, or
                # while it waits for rows, it has not moved a position.
                async with asyncio.timeout(timeout_s + POLL_GRACE_S):
                    fetched = await consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=limit)
            except TimeoutError:
                return {}
            except NoOffsetForPartitionError:
                return {}  # a partition that nobody has resumed yet
            except OffsetOutOfRangeError as error:
                raise OutOfRange(
                    frozenset((self._topic, place.partition) for place in error.args[0])
                ) from None
        return {place.partition: rows for place, rows in fetched.items()}

    def _note_division(self) -> None:
        self._divided += 1

    def pause(self, partition: int) -> None:
        """Return no more rows of a partition."""
        place = TopicPartition(self._topic, partition)
        self._joined().let_go(place)
        self._joined().pause(place)

    def resume(self, partition: int, *, offset: int) -> None:
        """Return rows of a partition again, from this offset on."""
        place = TopicPartition(self._topic, partition)
        self._joined().seek(place, offset)
        self._joined().resume(place)

    async def behind(self, partition: int) -> int | None:
        """Return how many offsets a partition is behind its stable end as last seen; None before."""
        place = TopicPartition(self._topic, partition)
        consumer = self._joined()
        if place not in consumer.assignment():
            return None
        end: int | None = consumer.last_stable_offset(place)
        with translated_errors(self._cluster):
            return None if end is None else max(0, end - int(await consumer.position(place)))

    async def commit_lag(self, offsets: Mapping[int, int]) -> None:
        """Commit offsets to the group, for those who watch the lag.

        The group itself would take them from two workers under one identity. So a named worker
        commits through the writer of its identity, which its newest owner alone may use.

        Raises:
            Fenced: a newer worker runs under this one's identity.
        """
        places = {TopicPartition(self._topic, partition): offset for partition, offset in offsets.items()}
        if self._identity.identity is None:
            with translated_errors(self._cluster):
                await self._joined().commit(places)
            return
        producer = self._fence
        if producer is None:
            producer = self._fence = await open_producer(
                self._cluster, transactional_id=self._identity.writer
            )
        try:
            with translated_errors(self._cluster):
                async with asyncio.timeout(DELIVERY_TIMEOUT_S):
                    await producer.begin_transaction()
                    await producer.send_offsets_to_transaction(places, self._identity.group)
                    await producer.commit_transaction()
        except BaseException as error:
            # A producer whose transaction broke off is given up.
            self._fence = None
            await asyncio.shield(discard(producer))
            if isinstance(error, Fenced):
                raise self._not_alone() from error
            raise

    async def leave(self) -> None:
        """Close; a member that keeps its place is given it back within its session."""
        consumer, self._consumer = self._consumer, None
        fence, self._fence = self._fence, None
        if fence is not None:
            await discard(fence)
        if consumer is None:
            return
        if self._identity.leaves_at_stop and consumer._coordinator is not None:  # noqa: SLF001
            # aiokafka never lets a member with a name of its own leave; the cluster does.
            consumer._coordinator._group_instance_id = None  # noqa: SLF001
        with translated_errors(self._cluster):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await consumer.stop()

    def _joined(self) -> RowConsumer:
        if self._consumer is None:
            raise Fenced("This worker has left the group. Join it again.")
        return self._consumer

    def _not_alone(self) -> Fenced:
        return Fenced(
            f"Another worker runs as {self._identity.identity} in {self._identity.group}: its state folder "
            "is a copy of this one's. Stop one of them, and remove the file `identity` from its copy."
        )


class _Assignor:
    """Divides the group by the engine's plan. An instance: aiokafka's own keep their state in a class."""

    name = PROTOCOL

    def __init__(self, topic: str, plan: Plan, member: Member) -> None:
        self._topic = topic
        self._plan = plan
        self._member = member
        self.share = Share()

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Return what this worker claims when it joins."""
        claim = Claim(round=self.share.round, owned=self.share.owned, warm=tuple(sorted(self._member.warm())))
        return ConsumerProtocolMemberMetadata(_VERSION, list(topics), msgspec.msgpack.encode(claim))

    def assign(
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Return every member's share; called in the one worker that leads the group."""
        claims = {name: _claim(metadata.user_data) for name, metadata in members.items()}
        shares = self._plan(claims, sorted(cluster.partitions_for_topic(self._topic) or ()))
        return {
            name: ConsumerProtocolMemberAssignment(
                _VERSION, [(self._topic, list(share.owned))], msgspec.msgpack.encode(share)
            )
            for name, share in shares.items()
        }

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Keep the share that the leader gave."""
        owned = tuple(sorted(place.partition for place in assignment.partitions()))
        given = msgspec.msgpack.decode(assignment.user_data, type=Share)
        self.share = Share(round=given.round, owned=owned, followed=given.followed)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka is untyped
    """Hands shares on; aiokafka heartbeats only after these return, and swallows what they raise."""

    def __init__(
        self,
        consumer: RowConsumer,
        assignor: _Assignor,
        member: Member,
        note_division: Callable[[], None],
    ) -> None:
        self._consumer = consumer
        self._assignor = assignor
        self._member = member
        self._note_division = note_division

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Everything is revoked at every rebalance."""
        self._consumer.let_go(*revoked)
        self._note_division()
        self._member.revoked()

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Pause what was assigned before anybody is told."""
        if assigned:
            self._consumer.pause(*assigned)
        for place in assigned:
            # A position, so that nobody asks the group for one; each is resumed from its own.
            self._consumer.seek(place, 0)
        self._member.assigned(self._assignor.share)


def _claim(user_data: bytes) -> Claim:
    """Return a member's claim; one that cannot be read claims nothing."""
    try:
        return msgspec.msgpack.decode(user_data, type=Claim)
    except msgspec.DecodeError:
        return Claim()
