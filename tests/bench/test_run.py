"""The events fold to what is counted beside them, and the comparison bites, on a real broker."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from privacy_ledger.testing.broker import Broker
from tests.bench.bars import Kind
from tests.bench.compare import Compare
from tests.bench.events import PlainState, Population, Tally, decode_event, digest, plain, step
from tests.bench.measure import Figure
from tests.bench.plain import VIEW_TOPIC
from tests.bench.processes import ChildFailed, do
from tests.bench.run import QUICK, Bench
from tests.bench.source import SOURCE
from tests.bench.tasks import EngineFold, Noop

TINY = structs.replace(QUICK, events=1_500, subjects=200)


def test_the_step_folds_to_what_is_counted_apart_from_it() -> None:
    """Two ways to the same view."""
    tally, states = Tally(), dict[bytes, PlainState]()
    population = Population(50)

    for offset, (ref, event) in enumerate([*population.opening(), *population.events(500)]):
        tally.add(ref, event, offset=offset)
        decoded = decode_event(msgspec.json.encode(event))
        states[ref] = step(states.get(ref), decoded, offset)

    assert digest(states, plain) == tally.digest()


def test_a_view_that_differs_in_one_state_has_another_digest() -> None:
    """Otherwise nothing would be compared."""
    view = {b"a": [1, "x"], b"b": [2, "y"]}

    assert digest(view, list) != digest(view | {b"b": [3, "y"]}, list)
    assert digest(view, list) != digest({b"a": [1, "x"]}, list)


def test_the_events_are_the_same_each_time() -> None:
    """A rival folds the first events of ours."""
    first = list(Population(20).events(30))
    longer = list(Population(20).events(60))

    assert longer[:30] == first


@pytest.fixture
def bench(kafka: Broker, tmp_path: Path) -> Iterator[Bench]:
    """Yield a run on the shared broker, and delete its topics."""
    run = Bench(tmp_path, TINY, bootstrap=kafka.bootstrap)
    yield run
    run.drop(run.prefix)


@pytest.mark.kafka
def test_our_engine_is_measured_and_its_views_are_exact(bench: Bench) -> None:
    """Each way of it, transactional or not, and doing nothing."""
    Compare(bench, with_rivals=False).round(0)

    assert set(bench.figures) == {Kind.NOOP, Kind.CORE, Kind.CORE_EXACT, Kind.CORE_IDEMPOTENT}
    for (figure,) in bench.figures.values():
        assert figure.is_exact, figure.note
        assert figure.events == TINY.events
        assert figure.cpu_s > 0
        assert figure.peak_mb > 10


@pytest.mark.kafka
def test_a_view_without_de_duplication_is_not_the_one_with_it(bench: Bench) -> None:
    """Events are re-sent: a fold that counts one of them twice is found out."""
    expected = Compare(bench, with_rivals=False).expected
    prefix = f"{bench.prefix}twice."
    task = EngineFold(
        bootstrap=bench.bootstrap, folder=str(bench.fresh("twice")), prefix=prefix,
        source_prefix=f"{bench.prefix}source.", events=expected.events, targets=expected.targets,
        is_exact=False,
    )  # fmt: skip

    figure = bench.checked(do(task, Figure), topic=prefix + VIEW_TOPIC, digest=expected.each_once)

    assert not figure.is_exact
    assert "DIFFERENT" in figure.note


@pytest.mark.kafka
def test_a_rival_that_fails_is_told_and_ours_fails_the_run(bench: Bench) -> None:
    """A missing topic makes either fail."""
    broken = Noop(bootstrap="127.0.0.1:1", topic=SOURCE, targets=(0,))

    bench.measure(Kind.BYTEWAX, lambda: do(broken, Figure))

    assert "Noop" in bench.missing[Kind.BYTEWAX]
    with pytest.raises(ChildFailed):
        bench.measure(Kind.NOOP, lambda: do(broken, Figure))
