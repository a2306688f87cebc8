"""Moving a processor between passes: fence the old pass, leave a mark in its state, and learn where it stood.

The new pass writes the mark as the newest owner of the old pass's writer, in one transaction that
nobody else can follow up: whoever ran the processor there can write nothing more, and whoever
starts there again with a build that does not know of the move finds the mark and refuses.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, TypeVar

import msgspec

from privacy_ledger.domain.errors import ProcessorMoved
from privacy_ledger.domain.topics import PASSES, state_topic, view_topic
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.engine.cycle import POSITION_KEY, PartitionCycle
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.logging import get_logger
from privacy_ledger.ports.codec import StateCodec
from privacy_ledger.ports.keys import KeyVault
from privacy_ledger.ports.log import EventLog, NewRecord
from privacy_ledger.ports.passes import PassPosition
from privacy_ledger.streams.protocol import Processor
from privacy_ledger.streams.roster import MOVED, ROSTER, Claim, Moved
from privacy_ledger.streams.states import GENERATIONS, SHREDS, Changes, Table

__all__ = ["claim_moved", "refuse_unclaimed"]

T = TypeVar("T")
READ: Final = 5000

log_line = get_logger()


async def refuse_unclaimed(
    log: EventLog, declaration: PassDeclaration, partition: int, *, cycle: PartitionCycle
) -> None:
    """Refuse a processor that another pass runs, where the build says no word of where it comes from.

    Whether this partition holds rows of its view says nothing: nobody may live in it yet. So a view
    with a record anywhere is asked for its writer: the pass that has the processor in its roster here.

    Raises:
        ProcessorMoved: another pass runs it.
    """
    known = cycle.roll.known()
    untold = [
        one
        for one in declaration.processors
        if one.table.view is not None and one.table.name in declaration.publishes
        if one.name not in known and not one.moved_from
    ]
    if not untold:
        return
    # A pass that has written nothing here runs nothing here: a new cluster is asked no more than this.
    others = [
        one for one in sorted(PASSES - {declaration.name}) if await log.end(state_topic(one), partition)
    ]
    for processor in untold if others else ():
        if await _is_written(log, view_topic(processor.table.view or "", processor.table.version)):
            for other in others:
                if await _is_run_by(log, other, partition, processor.name.encode()):
                    raise ProcessorMoved(
                        processor=processor.name, runs_in=f"the pass {other}",
                        partition=partition, to=declaration.name,
                    )  # fmt: skip


async def _is_written(log: EventLog, topic: str) -> bool:
    for partition in range(log.partitions(topic)):
        if await log.end(topic, partition) > 0:
            return True
    return False


async def _is_run_by(log: EventLog, other: str, partition: int, key: bytes) -> bool:
    """Return whether a pass has a processor in its roster, and no mark that it moved on."""
    standing = await log.latest(state_topic(other), partition, ROSTER.code + key)
    if standing is None or standing.value is None:
        return False
    mark = await log.latest(state_topic(other), partition, MOVED.code + key)
    return mark is None or mark.value is None


async def claim_moved(
    log: EventLog,
    declaration: PassDeclaration,
    partition: int,
    *,
    cycle: PartitionCycle,
    states: StateCodec,
    vault: KeyVault,
    now: datetime,
) -> dict[str, Claim]:
    """Take over what moved here and was not taken yet; return what was found, by processor.

    `cycle` is opened over restored states, and of no use where there are claims: the old pass may
    have written since. Each claim is made once: the roster keeps how many moves it knows. A crash
    before that makes it again, which fences the old pass once more and changes nothing else.
    """
    claims: dict[str, Claim] = {}
    for processor in declaration.processors:
        moves = len(processor.moved_from)
        standing = cycle.load(ROSTER, processor.name.encode())
        if not moves or (standing is not None and standing.moves >= moves):
            continue
        mark = Moved(to=declaration.name, moves=moves)
        for old in dict.fromkeys(processor.moved_from):
            if old == declaration.name:
                continue
            await _leave_mark(log, old, partition, processor, mark, states=states, now=now)
            found = await _read_old(log, old, partition, processor, states=states, vault=vault, now=now)
            before = claims.get(processor.name)
            claims[processor.name] = found if before is None else _later(before, found)
        log_line.info(
            "processor taken over", pass_name=declaration.name, partition=partition,
            state=processor.name, offset=claims[processor.name].position,
        )  # fmt: skip
    return claims


async def _leave_mark(
    log: EventLog,
    old: str,
    partition: int,
    processor: Processor[object],
    mark: Moved,
    *,
    states: StateCodec,
    now: datetime,
) -> None:
    """Fence the old pass's writer of this partition and say in its state where the processor went."""
    key = processor.name.encode()
    ((value,),) = states.seal((Changes(MOVED, {key: mark}),), generation=lambda _: 0, now=now)
    record = NewRecord(partition, MOVED.code + key, value)
    await log.supersede([(state_topic(old), record)], writer=f"{old}.{partition}")


async def _read_old(
    log: EventLog,
    old: str,
    partition: int,
    processor: Processor[object],
    *,
    states: StateCodec,
    vault: KeyVault,
    now: datetime,
) -> Claim:
    """Return where the old pass stood, and destroy the view keys that it had decided to destroy."""
    newest = await _newest(log, old, partition)
    position = newest.get(POSITION_KEY)
    numbers = _rows(newest, GENERATIONS, states)
    for key, shred in _rows(newest, SHREDS, states).items():
        if shred.group == "view":
            vault.shred(SubjectRef(key[:16]), now=now, group=states.group(processor.table), below=shred.below)
    standing = _rows(newest, ROSTER, states).get(processor.name.encode())
    return Claim(
        position=-1 if position is None else msgspec.msgpack.decode(position, type=PassPosition).offset,
        generation=max(numbers.values(), default=0),
        identity=None if standing is None else standing.identity,
    )


async def _newest(log: EventLog, old: str, partition: int) -> Mapping[bytes, bytes]:
    """Return the newest values of the few kinds of rows that a move looks at."""
    kinds = {table.code for table in (GENERATIONS, SHREDS, ROSTER)}
    newest: dict[bytes, bytes] = {}
    after = -1
    while rows := await log.read(state_topic(old), partition, after=after, limit=READ):
        for row in rows:
            if row.key != POSITION_KEY and row.key[:1] not in kinds:
                continue
            if row.value is None:
                newest.pop(row.key, None)
            else:
                newest[row.key] = row.value
        after = rows[-1].offset
    return newest


def _rows(newest: Mapping[bytes, bytes], table: Table[T], states: StateCodec) -> dict[bytes, T]:
    """Return the rows of a table that holds no values of a person."""
    items = [(key[1:], value) for key, value in newest.items() if key[:1] == table.code]
    opened = states.open_many(table, items)
    return {key: value for (key, _), value in zip(items, opened, strict=True) if value is not None}


def _later(one: Claim, other: Claim) -> Claim:
    """Return what holds for both of two earlier passes."""
    return Claim(
        position=max(one.position, other.position),
        generation=max(one.generation, other.generation),
        identity=other.identity or one.identity,
    )
