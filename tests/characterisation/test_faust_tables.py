"""What Faust's tables, transactions and web server do; the pass engine uses none of them.

When one of these fails after an upgrade, Faust has changed: read the named source of the new
version, then update decision 0011 and this test. No failure here means a defect of the ledger.
"""

import asyncio
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import faust
import msgspec
from faust.tables.manager import TableManager
from faust.types import FutureMessage

from privacy_ledger.testing.broker import Broker
from tests.characterisation.stage import ROOT, Outcome, Stage, host_app, played, until

BACKLOG = 40
EVENTS = 30


async def deliver_during_a_restore(stage: Stage) -> Outcome:
    """Let events arrive between the seek that ends a restore and the moment that the flow resumes.

    That seek returns late here, as on a busy worker: when the events are delivered.
    """
    topic = await stage.create("source")
    await stage.produce(await stage.create_changelog("counts"), [b"1"])
    app, handled, streams = stage.app(), list[str](), list[faust.StreamT[bytes]]()
    app.Table("counts", key_type=bytes, value_type=bytes, partitions=1)
    restored, consumer = asyncio.Event(), app.consumer
    seek = consumer.perform_seek

    @app.agent(app.topic(topic, key_type=bytes, value_type=bytes))
    async def handle(stream: faust.StreamT[bytes]) -> None:
        streams.append(stream)
        async for value in stream:
            await restored.wait()
            handled.append(value.decode())

    async def late_seek() -> None:
        await seek()
        await stage.produce(topic, [b"%d" % number for number in range(BACKLOG)])
        # One event is in the agent's hand, all others wait in its queue.
        queue = cast("faust.ChannelT[bytes]", streams[0].channel).queue
        await until(lambda: queue.qsize() == BACKLOG - 1, what="the backlog is delivered")

    consumer.perform_seek = late_seek  # type: ignore[method-assign] # the one call that is made late
    await app.start()
    tables = cast("TableManager", app.tables)
    await until(tables.recovery.completed.is_set, what="the table is restored")
    restored.set()
    await stage.produce(topic, [b"late"])
    await until(lambda: "late" in handled, what="a later event is handled")
    return {"committed": await stage.commit(app, topic), "handled": handled}


def test_f3_events_that_arrive_while_a_table_is_restored_are_dropped(kafka: Broker, tmp_path: Path) -> None:
    """After a restore Faust empties the queues that its fetcher has filled, and commits stall for ever.

    Not ours: the source is paused until the store is restored, and then sought to the position.
    When it fails: the behaviour changed: read `faust/tables/recovery.py` (`on_recovery_completed`),
    then update decision 0011.
    """
    outcome = played(deliver_during_a_restore, kafka.bootstrap, tmp_path)

    assert outcome == {"committed": 1, "handled": ["0", "late"]}


async def hold_the_changelog_back(stage: Stage) -> Outcome:
    """Handle events whose changelog records do not leave, as with a slow broker."""
    topic = await stage.create("source")
    changelog = await stage.create_changelog("counts")
    await stage.produce(topic, [b"%d" % number for number in range(5)])
    app, handled = stage.app(), list[bytes]()
    table = app.Table("counts", key_type=bytes, value_type=bytes, partitions=1)

    @app.agent(app.topic(topic, key_type=bytes, value_type=bytes))
    async def handle(stream: faust.StreamT[bytes]) -> None:
        async for value in stream:
            table[value] = value
            handled.append(value)

    async def held_back(_message: FutureMessage, **_: bool) -> None:
        await asyncio.Event().wait()

    table.changelog_topic.publish_message = held_back  # type: ignore[method-assign,assignment] # the slow broker
    await app.start()
    await until(lambda: len(handled) == 5, what="the events are handled")
    return {"committed": await stage.commit(app, topic), "kept": await stage.read(changelog)}


def test_f4_offsets_are_committed_before_the_changelog_has_them(kafka: Broker, tmp_path: Path) -> None:
    """The flush before a commit gives up after a tenth of a second without progress.

    Not ours: states and position are one transaction, awaited record by record before it is
    committed; the committed offset is a lag figure.
    When it fails: the behaviour changed: read `faust/transport/producer.py` (`flush_atmost`), then
    update decision 0011.
    """
    outcome = played(hold_the_changelog_back, kafka.bootstrap, tmp_path)

    assert outcome == {"committed": 5, "kept": []}


@contextmanager
def counting(stage: Stage, topic: str, *arguments: str) -> Iterator[Path]:
    """Run the counting application by Faust's own command, and kill it; yields its progress file."""
    progress = stage.folder / "progress.json"
    progress.unlink(missing_ok=True)
    env = {
        **os.environ,
        "COUNTING_APP": stage.prefix + "app",
        "COUNTING_BROKER": stage.cluster.bootstrap,
        "COUNTING_TOPIC": topic,
        "COUNTING_PROGRESS": str(progress),
    }
    command = [sys.executable, "-m", "faust", "-A", "tests.characterisation.counting", "worker", *arguments]
    with (stage.folder / "counting.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        yield progress
    finally:
        process.kill()
        process.wait()


def counted(progress: Path, *, handled: int) -> int | None:
    """Return what is counted once so many events are handled and the store says that it has all."""
    if not progress.exists():
        return None
    done, count, kept_to = msgspec.json.decode(progress.read_bytes(), type=tuple[int, int, int | None])
    return count if done == handled and kept_to == count - 1 else None


async def test_f5_a_table_is_ahead_of_the_offsets_after_a_crash(stage: Stage) -> None:
    """The store is written at once, the offset later: after kill -9 the same events count again.

    Not ours: the position lies in the changelog transaction and in the store batch of the states
    that it belongs to.
    When it fails: the behaviour changed: read `faust/tables/base.py` and `faust/stores/rocksdb.py`,
    then update decision 0011.
    """
    topic = await stage.create("source")
    await stage.create_changelog("counts")
    await stage.produce(topic, [b"event"] * EVENTS)
    counts: list[int | None] = []
    for _ in range(2):
        with counting(stage, topic, "--without-web") as progress:
            await until(
                lambda path=progress: counted(path, handled=EVENTS) is not None,  # type: ignore[misc] # no type for it
                what="the events are counted",
            )
            counts.append(counted(progress, handled=EVENTS))

    assert counts == [EVENTS, 2 * EVENTS]


async def send_to_another_partition(stage: Stage) -> Outcome:
    """Let an event of partition 0 make an output in partition 1, and commit."""
    topic = await stage.create("source", partitions=2)
    output = await stage.create("output", partitions=2)
    app, handled = stage.app(processing_guarantee="exactly_once"), list[bytes]()
    target = app.topic(output, key_type=bytes, value_type=bytes)

    @app.agent(app.topic(topic, key_type=bytes, value_type=bytes))
    async def handle(stream: faust.StreamT[bytes]) -> None:
        async for value in stream:
            await (await target.send(key=b"key", value=value, partition=1))
            handled.append(value)

    @app.agent(target)
    async def take(stream: faust.StreamT[bytes]) -> None:
        """Subscribe: Faust knows transactions only for topics that it reads."""
        async for _ in stream:
            continue

    await app.start()
    await stage.produce(topic, [b"event"], partition=0)
    await until(lambda: len(handled) == 1, what="the event is handled")
    committed = await stage.commit(app, topic)
    async with asyncio.timeout(60):
        while committed is None:  # what a transaction committed is readable a little later
            committed = await stage.committed(topic)
    return {
        "committed": committed,
        "seen": await stage.read(output, partition=1),
        "written": await stage.read(output, partition=1, isolation="read_uncommitted"),
    }


def test_f6_exactly_once_commits_the_offset_without_the_output(kafka: Broker, tmp_path: Path) -> None:
    """The transaction is picked by the output's partition, the offset's by the source's.

    So the offset is committed while the output stays in an open transaction, which a successor
    aborts: the event is lost.

    Not ours: one transactional id per pass and source partition carries outputs, states and
    position whatever partitions they go to; `exactly_once` is refused at start-up.
    When it fails: the behaviour changed: read `faust/transport/consumer.py` (`TransactionManager`),
    then update decision 0011.
    """
    outcome = played(send_to_another_partition, kafka.bootstrap, tmp_path)

    assert outcome == {"committed": 1, "seen": [], "written": ["event"]}


async def test_f13_the_worker_command_serves_table_data_though_the_web_is_off(stage: Stage) -> None:
    """`faust worker` forces `web_enabled=True`, by default for every address, without a password.

    Not ours: the engine is hosted through `faust.Worker` with the web server off, and the check of
    the host's settings refuses it on; a test of a whole worker finds no listening socket.
    When it fails: the behaviour changed: read `faust/cli/worker.py` (`_init_worker_options`), then
    update decision 0011.
    """
    topic = await stage.create("source")
    await stage.create_changelog("counts")
    await stage.produce(topic, [b"event"] * EVENTS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    declared = host_app("declared", stage.cluster.bootstrap, stage.folder).conf
    with counting(stage, topic, "--web-bind", "127.0.0.1", "--web-port", str(port)) as progress:
        await until(lambda: counted(progress, handled=EVENTS) is not None, what="the events are counted")
        served = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/table/counts/key/")

    assert (declared.web_enabled, declared.web_bind) == (False, "0.0.0.0")  # noqa: S104 - Faust's default
    assert served == b"%d" % EVENTS


def _get(url: str) -> bytes | None:
    """Return what is served there; None where nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - the URL is ours
            return bytes(answer.read())
    except OSError:
        return None
