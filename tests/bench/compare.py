"""Our engine and its rivals over the same plain events, beside reading them and doing nothing."""

from importlib.util import find_spec
from typing import Final, NamedTuple

from tests.bench import kafka
from tests.bench.bars import Kind
from tests.bench.measure import Figure
from tests.bench.plain import VIEW_TOPIC
from tests.bench.processes import do
from tests.bench.run import Bench
from tests.bench.source import SOURCE
from tests.bench.tasks import (
    EngineFold,
    Expected,
    Fill,
    FoldBytewax,
    FoldFaust,
    FoldQuixstreams,
    Noop,
    NoopRdkafka,
    Rival,
)

__all__ = ["Compare"]

FAUST_SOURCE: Final = "source-faust."
RIVAL_SOURCE: Final = "source-rivals."
MISSING: Final = "{} is not installed; `poe bench` adds the group `bench`"
ENGINES: Final = (
    (Kind.CORE, False, True),
    (Kind.CORE_EXACT, True, True),
    (Kind.CORE_IDEMPOTENT, False, False),
)


class _Rival(NamedTuple):
    """A rival: its package, the source that it folds, and its view where that is its own changelog."""

    package: str
    task: type[Rival]
    source: str
    changelog: str | None = None


RIVALS: Final = {
    Kind.FAUST: _Rival("faust", FoldFaust, FAUST_SOURCE),
    Kind.FAUST_BARE: _Rival("faust", FoldFaust, FAUST_SOURCE, "{group}-state-changelog"),
    Kind.QUIX: _Rival("quixstreams", FoldQuixstreams, RIVAL_SOURCE),
    Kind.QUIX_BARE: _Rival(
        "quixstreams", FoldQuixstreams, RIVAL_SOURCE, "changelog__{group}--{topic}--default"
    ),
    Kind.BYTEWAX: _Rival("bytewax", FoldBytewax, RIVAL_SOURCE),
}
"""A slow rival folds the first events only. As it is used, it writes its state to an output topic, beside
its own changelog; without an output its changelog is read as the view, which is the least it can do."""


class Compare:
    """Measured over one partition, each kind into topics of its own."""

    def __init__(self, bench: Bench, *, with_rivals: bool) -> None:
        """Write the sources: a rival's holds the first events of ours."""
        self._bench = bench
        size = bench.size
        self._sources = {"source.": self._fill("source.", size.events)}
        self._rivals = RIVALS if with_rivals else {}
        if with_rivals:
            self._sources[FAUST_SOURCE] = self._fill(FAUST_SOURCE, size.faust_events)
            self._sources[RIVAL_SOURCE] = self._fill(RIVAL_SOURCE, size.rival_events)
        for name, rival in self._rivals.items():
            if find_spec(rival.package) is None:
                bench.missing[name] = MISSING.format(rival.package)
        self._has_rdkafka = with_rivals and find_spec("confluent_kafka") is not None
        if with_rivals and not self._has_rdkafka:
            bench.missing[Kind.NOOP_RDKAFKA] = MISSING.format("confluent-kafka")

    @property
    def expected(self) -> Expected:
        """What lies in our own source."""
        return self._sources["source."]

    def round(self, number: int) -> None:
        """Measure doing nothing, our engine in each of its ways, and the rivals."""
        bench = self._bench
        topic = f"{bench.prefix}source.{SOURCE}"
        noop = Noop(bootstrap=bench.bootstrap, topic=topic, targets=self.expected.targets)
        bench.measure(Kind.NOOP, lambda: do(noop, Figure))
        if self._has_rdkafka:
            (last,) = self.expected.targets
            other = NoopRdkafka(bootstrap=bench.bootstrap, topic=topic, target=last)
            bench.measure(Kind.NOOP_RDKAFKA, lambda: do(other, Figure))
        for name, is_exact, is_transactional in ENGINES:
            bench.measure(name, lambda: self._engine(name, number, is_exact, is_transactional))  # noqa: B023 - called at once
        for name, rival in self._rivals.items():
            bench.measure(name, lambda: self._rival(rival, number))  # noqa: B023 - see above

    def _fill(self, name: str, events: int) -> Expected:
        bench = self._bench
        fill = Fill(
            bootstrap=bench.bootstrap, prefix=bench.prefix + name, events=events,
            subjects=bench.size.subjects,
        )  # fmt: skip
        return do(fill, Expected)

    def _engine(self, name: str, number: int, is_exact: bool, is_transactional: bool) -> Figure:  # noqa: FBT001 - a row of the table
        bench, expected = self._bench, self.expected
        own = f"{name.replace(' ', '-').replace(',', '')}-{number}"
        prefix = f"{bench.prefix}{own}."
        task = EngineFold(
            bootstrap=bench.bootstrap, folder=str(bench.fresh(own)), prefix=prefix,
            source_prefix=f"{bench.prefix}source.", events=expected.events, targets=expected.targets,
            is_exact=is_exact, is_transactional=is_transactional,
        )  # fmt: skip
        digest = expected.each_once if is_exact else expected.all_events
        figure = bench.checked(do(task, Figure), topic=prefix + VIEW_TOPIC, digest=digest)
        bench.drop(prefix)
        return figure

    def _rival(self, rival: _Rival, number: int) -> Figure:
        bench, expected = self._bench, self._sources[rival.source]
        group = f"{bench.prefix}{rival.package}{'-bare' if rival.changelog else ''}-{number}"
        topic = f"{bench.prefix}{rival.source}{SOURCE}"
        output = None if rival.changelog else f"{group}.view"
        if output is not None:
            bench.create((kafka.topic(output),), prefix="")
        task = rival.task(
            bootstrap=bench.bootstrap, folder=str(bench.fresh(group)), source=topic, group=group,
            output=output, events=expected.events,
        )  # fmt: skip
        view = output or str(rival.changelog).format(group=group, topic=topic)
        figure = bench.checked(do(task, Figure), topic=view, digest=expected.all_events, written_by="rival")
        bench.drop(view)
        return figure
