"""Several real brokers in one cluster, from Kafka's jars, for tests that kill or pause one of them."""

import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from privacy_ledger.testing._kafka_jars import random_id
from privacy_ledger.testing.broker import BrokerProcess, Node, free_ports, kafka_distribution

__all__ = ["running_cluster"]

_INTERNAL = ("transaction.state.log", "share.coordinator.state.topic")
_CLUSTER_TIMES: Mapping[str, str] = {
    # A node that is busy must not look dead; one that is dead must be replaced within seconds.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "replica.lag.time.max.ms": "3000",
    "replica.fetch.wait.max.ms": "200",
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.fetch.timeout.ms": "1000",
    "controller.quorum.election.backoff.max.ms": "500",
    "unclean.leader.election.enable": "false",
}


@contextmanager
def running_cluster(
    nodes: int = 3, *, overrides: Mapping[str, str] | None = None
) -> Iterator[tuple[BrokerProcess, ...]]:
    """Yield brokers of one cluster, each to be killed, paused and restarted; stop them afterwards.

    Every partition has a replica on each of them, and a record is acknowledged by all but one.

    Raises:
        BrokerUnavailable: Java or the jars cannot be had here.
        BrokerStartFailed: a broker did not come up.
    """
    distribution = kafka_distribution()
    copies, acks = str(nodes), str(max(1, nodes - 1))
    settings = {
        "default.replication.factor": copies,
        "min.insync.replicas": acks,
        **{f"{topic}.replication.factor": copies for topic in ("offsets.topic", *_INTERNAL)},
        **{f"{topic}.min.isr": acks for topic in _INTERNAL},
        **_CLUSTER_TIMES,
        **(overrides or {}),
    }
    ports = [free_ports() for _ in range(nodes)]
    voters = ",".join(f"{number}@127.0.0.1:{port}" for number, (_, port) in enumerate(ports, start=1))
    cluster_id = random_id()
    with ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="privacy-ledger-kafka-", ignore_cleanup_errors=True)
        root = Path(stack.enter_context(folder))
        processes = tuple(
            BrokerProcess(
                distribution, data_dir=root / str(number), overrides=settings,
                node=Node(number, mine, voters, cluster_id),
            )
            for number, mine in enumerate(ports, start=1)
        )  # fmt: skip
        with ThreadPoolExecutor(nodes) as pool:
            for process in processes:
                stack.callback(process.kill)
            # One alone is never ready: it takes most of them to elect a controller.
            list(pool.map(BrokerProcess.start, processes))
        yield processes
