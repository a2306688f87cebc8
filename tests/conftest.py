"""Shared fixtures: a real Kafka broker and a real PostgreSQL, and a line on what they were.

Without them the tests that ask are skipped, and the closing lines say so; with
`PRIVACY_LEDGER_REQUIRE_KAFKA=1` and `PRIVACY_LEDGER_REQUIRE_POSTGRES=1` they fail.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

import pytest

from privacy_ledger.testing.broker import (
    Broker,
    BrokerProcess,
    BrokerStartFailed,
    BrokerUnavailable,
    running_broker,
    running_process,
)
from privacy_ledger.testing.broker_cluster import running_cluster
from privacy_ledger.testing.postgres import PostgresProcess, PostgresUnavailable, running_postgres

KAFKA_FIXTURES = frozenset({"kafka", "broker_process", "broker_cluster"})
KAFKA_TEST_TIMEOUT_S = 180


@dataclass
class _KafkaReport:
    ran: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)


T = TypeVar("T")
_REPORT = pytest.StashKey[_KafkaReport]()
_NO_POSTGRES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Yield one broker for the whole run, started when the first test asks. Use topics of your own."""
    with ExitStack() as stack:
        broker = _enter(stack, running_broker(), config=request.config)
        request.config.stash[_REPORT].ran.append(f"{broker.kind} {broker.bootstrap}")
        yield broker


@pytest.fixture
def broker_process(request: pytest.FixtureRequest) -> Iterator[BrokerProcess]:
    """Yield a broker of the test's own, to kill, pause and restart; always run from Kafka's jars."""
    with ExitStack() as stack:
        process = _enter(stack, running_process(), config=request.config)
        request.config.stash[_REPORT].ran.append("jars, one for each test that kills or pauses it")
        yield process


@pytest.fixture
def broker_cluster(request: pytest.FixtureRequest) -> Iterator[tuple[BrokerProcess, ...]]:
    """Yield three brokers of one cluster, the test's own, to kill, pause and restart."""
    with ExitStack() as stack:
        processes = _enter(stack, running_cluster(), config=request.config)
        request.config.stash[_REPORT].ran.append("jars, three for each test of a cluster")
        yield processes


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[PostgresProcess]:
    """Yield one PostgreSQL server for the whole run. Use databases of your own."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running_postgres())
        except PostgresUnavailable as unavailable:
            request.config.stash[_NO_POSTGRES].append(str(unavailable))
            if os.environ.get("PRIVACY_LEDGER_REQUIRE_POSTGRES") == "1":
                pytest.fail(f"PostgreSQL is required and there is none: {unavailable}", pytrace=False)
            pytest.skip(f"no PostgreSQL: {unavailable}")
        yield server


def pytest_configure(config: pytest.Config) -> None:
    """Make the places where the fixtures leave word."""
    config.stash[_REPORT] = _KafkaReport()
    config.stash[_NO_POSTGRES] = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that ask for a broker, early enough for `-m kafka`."""
    for item in items:
        if KAFKA_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            continue
        item.add_marker(pytest.mark.kafka)
        if item.get_closest_marker("timeout") is None:
            # The first test must not pay for fetching the broker.
            item.add_marker(pytest.mark.timeout(KAFKA_TEST_TIMEOUT_S, func_only=True))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Iterator[None]:
    """Say which broker the tests ran on, or why on none; only pytest's count comes after it."""
    yield
    report = config.stash[_REPORT]
    for broker in dict.fromkeys(report.ran):
        terminalreporter.write_line(f"KAFKA: ran on {broker}")
    for reason in dict.fromkeys(report.missed):
        terminalreporter.write_line(f"KAFKA: NOT RUN: {reason}")
    no_postgres = config.stash[_NO_POSTGRES]
    for reason in dict.fromkeys(no_postgres):
        terminalreporter.write_line(f"POSTGRESQL: NOT RUN: {reason}")


def _enter(stack: ExitStack, source: AbstractContextManager[T], *, config: pytest.Config) -> T:
    try:
        return stack.enter_context(source)
    except BrokerUnavailable as unavailable:
        _refuse(unavailable.reason, config=config)
    except BrokerStartFailed as failure:
        config.stash[_REPORT].missed.append(str(failure).partition("\n")[0])
        raise


def _refuse(reason: str, *, config: pytest.Config) -> NoReturn:
    reason = " ".join(reason.split())
    config.stash[_REPORT].missed.append(reason)
    if os.environ.get("PRIVACY_LEDGER_REQUIRE_KAFKA") == "1":
        pytest.fail(f"A Kafka broker is required and there is none: {reason}", pytrace=False)
    pytest.skip(f"no Kafka broker: {reason}")
