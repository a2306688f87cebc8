"""Spans of cycles and commands, and the gate that lets nothing of a person out."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.status import Status, StatusCode

from privacy_ledger.adapters.observe.tracing import ATTRIBUTES, SpanMeters, provider_of
from privacy_ledger.ports.observe import LABELS, Cycle, CycleOutcome, Seen
from tests.unit.home import home, played

PEOPLE: Final = ("4711001", "4711002", "grace.hopper-4711")
WAIT_S: Final = 120.0


class Traced:
    """A provider whose spans stay in memory, and meters on it that count cycles."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._memory = InMemorySpanExporter()
        self.provider: TracerProvider = provider_of(self._memory)
        self.meters = SpanMeters(self.provider)
        self.cycles = 0

    def note(self, seen: Seen) -> None:
        """Hand on what was seen."""
        self.cycles += isinstance(seen, Cycle)
        self.meters.note(seen)

    def spans(self) -> Sequence[ReadableSpan]:
        """Return every span that left."""
        self.provider.force_flush()
        return self._memory.get_finished_spans()


@pytest.fixture
def traced() -> Iterator[Traced]:
    """Yield a provider of the test's own, and end its thread."""
    own = Traced()
    yield own
    own.provider.shutdown()


def whole(spans: Sequence[ReadableSpan]) -> bytes:
    """Return all that an exporter could send of these spans."""
    return "\n".join(span.to_json() for span in spans).encode()


def spellings(token: bytes) -> tuple[bytes, ...]:
    """Return how a token may be written."""
    return (
        token.hex().encode(), token.hex().upper().encode(), base64.b64encode(token)[:20],
        base64.urlsafe_b64encode(token)[:20], str(token)[2:-1].encode(),
        str(int.from_bytes(token, "big")).encode(),
    )  # fmt: skip


async def test_each_cycle_is_a_span_without_anything_of_a_person(tmp_path: Path, traced: Traced) -> None:
    """Its attributes are known ones, and no reference, key or id is in any of them."""
    async with home(tmp_path, is_exact=False, meters=traced) as it:
        await it.take([played(name, event=f"event-of-{name}") for name in PEOPLE])
        await it.take([played(PEOPLE[0], event=f"event-of-{PEOPLE[0]}")])
        refs = [it.ref(name) for name in PEOPLE]
        await it.erasure().erase((refs[0],))
        keys = [row.key for row in await it.rows()]
    spans = traced.spans()
    said = whole(spans)
    tokens = {*refs, *keys, *(key[16:] for key in keys)}
    words = [word for token in tokens for word in spellings(token)] + [name.encode() for name in PEOPLE]
    assert len(spans) == traced.cycles > 0
    assert {name for span in spans for name in span.attributes or {}} <= ATTRIBUTES
    assert [word for word in words if word in said] == []
    assert sum(int(str((span.attributes or {})["records"])) for span in spans) >= len(keys)


def test_only_labels_and_figures_may_be_attributes() -> None:
    """The list of the metrics, and names of numbers."""
    figures = ATTRIBUTES - LABELS
    assert LABELS <= ATTRIBUTES
    assert figures == {"records", "unreadable", "written", "fold_ms", "commit_ms", "exit"}


def test_the_record_key_of_an_instrumentation_stays_here(traced: Traced) -> None:
    """Also in an event, a link, a name or a description; what is known passes."""
    token = os.urandom(16)
    tracer = traced.provider.get_tracer("an instrumentation of a Kafka client")
    with tracer.start_as_current_span("ledger.events.v1 send", kind=SpanKind.PRODUCER) as first:
        pass
    link = Link(first.get_span_context(), {"messaging.kafka.message.key": token.hex()})
    with tracer.start_as_current_span(f"send {token.hex()}", links=[link]) as span:
        span.set_attribute("messaging.kafka.message.key", token.hex())
        span.set_attribute("messaging.kafka.message.key", "ada")
        span.set_attribute("messaging.message.id", str(token))
        span.set_attribute("db.statement", "SELECT ref FROM identities WHERE id = 'ada@example.com'")
        span.set_attribute("topic", "ledger.events.v1")
        span.set_attribute("reason", token.hex())
        span.set_attribute("outcome", "ada@example.com")
        span.set_attribute("partition", 3)
        span.add_event("exception", {"exception.message": f"bad key {token.hex()}"})
        span.set_status(Status(StatusCode.ERROR, f"bad key {token.hex()}"))
    first_out, out = traced.spans()
    assert [word for word in spellings(token) if word in whole((first_out, out))] == []
    assert b"example.com" not in whole((out,))
    assert dict(out.attributes or {}) == {"topic": "ledger.events.v1", "partition": 3}
    assert (first_out.name, out.name, out.status.status_code) == (
        "ledger.events.v1 send", "span", StatusCode.ERROR,
    )  # fmt: skip


@pytest.mark.parametrize("outcome", list(CycleOutcome))
def test_a_cycle_without_a_commit_is_an_error(traced: Traced, outcome: CycleOutcome) -> None:
    """And its span lasts as long as it did."""
    traced.note(
        Cycle(
            pass_name="core", partition=7, outcome=outcome, records=3, unreadable=0, writes=9,
            decided={}, fold_s=0.25, commit_s=0.5,
        )
    )  # fmt: skip
    (span,) = traced.spans()
    assert span.start_time is not None
    assert span.end_time is not None
    assert (span.end_time - span.start_time) // 1_000_000 == 750
    assert (span.status.status_code is StatusCode.ERROR) is (outcome is not CycleOutcome.COMMITTED)


def test_cycles_inside_a_command_are_part_of_its_trace(traced: Traced) -> None:
    """With the exit code that ended it."""
    with suppress(SystemExit), traced.meters.command("consent grant"):
        traced.note(
            Cycle(
                pass_name="core", partition=7, outcome=CycleOutcome.COMMITTED, records=3, unreadable=0,
                writes=9, decided={}, fold_s=0.1, commit_s=0.1,
            )
        )  # fmt: skip
        sys.exit(5)
    cycle, command = traced.spans()
    context = command.get_span_context()
    assert cycle.parent is not None
    assert context is not None
    assert cycle.parent.span_id == context.span_id
    assert dict(command.attributes or {}) == {"command": "consent grant", "exit": 5}


# The command ----------------------------------------------------------------------------------


def _environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PRIVACY_LEDGER_")}
    own = {"PRIVACY_LEDGER_KEYS": str(folder / "keys"), "XDG_DATA_HOME": str(folder / "data")}
    return {**kept, **own, **more}


def _run(folder: Path, *words: str, prelude: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys\n{prelude}\nfrom privacy_ledger.interfaces.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", code, "--json", "--home", str(folder / "home"), *words],
        env=_environment(folder, **more), capture_output=True, text=True, check=False, timeout=WAIT_S,
    )  # fmt: skip


def _spans(err: str) -> list[dict[str, Any]]:
    """Return the spans that the console exporter wrote, one JSON document after the other."""
    decoder, found = json.JSONDecoder(), []
    while (start := err.find("{")) >= 0:
        document, end = decoder.raw_decode(err[start:])
        found.append(document)
        err = err[start + end :]
    return found


def test_a_command_and_its_cycles_leave_as_one_trace(tmp_path: Path) -> None:
    """On standard error for the console; standard output keeps its one document."""
    done = _run(tmp_path, "init", PRIVACY_LEDGER_TRACES="console")
    spans = _spans(done.stderr)
    (command,) = [span for span in spans if span["name"] == "command"]
    cycles = [span for span in spans if span["name"] == "cycle"]
    assert (done.returncode, json.loads(done.stdout)["partitions"]) == (0, 4)
    assert command["attributes"] == {"command": "init", "exit": 0}
    assert len(cycles) >= 8
    assert {span["context"]["trace_id"] for span in spans} == {command["context"]["trace_id"]}


def test_a_worker_leaves_its_cycles_and_no_command(tmp_path: Path) -> None:
    """A trace that lasts for days would never be seen."""
    words = ["-m", "privacy_ledger", "--home", str(tmp_path / "home"), "worker", "run"]
    said = tmp_path / "said"
    with said.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, *words], env=_environment(tmp_path, PRIVACY_LEDGER_TRACES="console"),
            stdout=subprocess.DEVNULL, stderr=out,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + WAIT_S
        while '"cycle"' not in said.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        worker.send_signal(signal.SIGTERM)
        worker.wait(WAIT_S)
    finally:
        worker.kill()
    assert worker.returncode == 0
    assert {span["name"] for span in _spans(said.read_text())} == {"cycle"}


def test_an_exporter_that_is_not_installed_is_named_with_the_way_out(tmp_path: Path) -> None:
    """A plain sentence, and nothing was done."""
    done = _run(tmp_path, "init", PRIVACY_LEDGER_TRACES="otlp_of_nowhere")
    assert (done.returncode, json.loads(done.stdout)["exit"]) == (1, 1)
    assert "opentelemetry-exporter-otlp-proto-http" in done.stderr
    assert not (tmp_path / "home").exists()


def test_without_the_extra_a_command_says_what_to_install(tmp_path: Path) -> None:
    """Only when traces were asked for."""
    gone = "sys.modules['opentelemetry'] = None"
    asked = _run(tmp_path, "version", prelude=gone, PRIVACY_LEDGER_TRACES="console")
    silent = _run(tmp_path, "version", prelude=gone)
    assert (asked.returncode, "privacy-ledger[otel]" in asked.stderr) == (1, True)
    assert (silent.returncode, silent.stderr) == (0, "")


def test_nothing_is_loaded_by_a_command_that_is_not_traced(tmp_path: Path) -> None:
    """From its start to its end."""
    watch = (
        "import atexit; atexit.register(lambda: print([m for m in sys.modules "
        "if m.split('.')[0] in ('prometheus_client', 'opentelemetry')], file=sys.stderr))"
    )
    done = _run(tmp_path, "init", prelude=watch)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
