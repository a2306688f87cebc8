"""`Meters` as OpenTelemetry spans: one per cycle, and one per command.

Every span of the process leaves through one gate, which lets nothing but known attributes pass.
An instrumentation of a Kafka client would put the key of the record on each span; it stays here.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from importlib.metadata import version as installed
from threading import Thread
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.trace.status import Status, StatusCode

from privacy_ledger.adapters.clock import SystemClock
from privacy_ledger.domain.errors import HomeUnusable
from privacy_ledger.logging import get_logger
from privacy_ledger.ports.observe import LABELS, Cycle, CycleOutcome, Meters, Seen

__all__ = ["ATTRIBUTES", "Gate", "SpanMeters", "provider_of", "traced"]

ATTRIBUTES: Final = LABELS | {"records", "unreadable", "written", "fold_ms", "commit_ms", "exit"}
"""The only attributes that a span may have outside of this process."""
FLUSH_S: Final = 2.0
"""A collector that does not answer holds up the end of a command for so long at most."""
_EXPORTERS: Final = "opentelemetry_traces_exporter"
_WORDS: Final = re.compile(r"[A-Za-z0-9 ._-]{1,80}")
_TOKEN: Final = re.compile(r"[0-9A-Fa-f]{16}")
log_line = get_logger()


class SpanMeters:
    """Makes spans on a provider."""

    def __init__(self, provider: TracerProvider) -> None:
        """Take the provider."""
        self._tracer = provider.get_tracer("privacy_ledger")
        self._clock = SystemClock()

    def note(self, seen: Seen) -> None:
        """Make a span of a cycle, which has just ended."""
        if not isinstance(seen, Cycle):
            return
        end = int(self._clock.now().timestamp() * 1_000_000_000)
        start = end - int((seen.fold_s + seen.commit_s) * 1_000_000_000)
        attributes: dict[str, str | int] = {
            "pass": seen.pass_name,
            "partition": seen.partition,
            "outcome": str(seen.outcome),
            "records": seen.records,
            "unreadable": seen.unreadable,
            "written": seen.writes,
            "fold_ms": round(seen.fold_s * 1000),
            "commit_ms": round(seen.commit_s * 1000),
        }
        span = self._tracer.start_span("cycle", attributes=attributes, start_time=start)
        if seen.outcome is not CycleOutcome.COMMITTED:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end)

    @contextmanager
    def command(self, name: str) -> Iterator[None]:
        """Make a span of what runs inside, with the exit code that ends it."""
        with self._tracer.start_as_current_span(
            "command", attributes={"command": name}, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except SystemExit as end:
                span.set_attribute("exit", end.code if isinstance(end.code, int) else 1)
                raise


class Gate(SpanExporter):
    """Hands spans on with their known attributes only, and without events and links."""

    def __init__(self, exporter: SpanExporter) -> None:
        """Take who sends them."""
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send what may be seen of these spans."""
        result = self._exporter.export([_discreet(span) for span in spans])
        if result is not SpanExportResult.SUCCESS:
            log_line.warning("traces not exported", count=len(spans))
        return result

    def shutdown(self) -> None:
        """End the exporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Let the exporter send what it holds."""
        return self._exporter.force_flush(timeout_millis)


def _discreet(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=span.name if _is_plain(span.name) else "span",
        context=span.get_span_context(),
        parent=span.parent,
        resource=span.resource,
        attributes=_known(span.attributes or {}),
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _known(attributes: Mapping[str, object]) -> dict[str, str | int | float | bool]:
    """Return the attributes that may be seen: a known name, and a figure or plain words."""
    return {
        name: value
        for name, value in attributes.items()
        if name in ATTRIBUTES
        and isinstance(value, str | int | float)
        and (not isinstance(value, str) or _is_plain(value))
    }


def _is_plain(text: str) -> bool:
    """Return whether a text is short words, and no part of it looks like a reference or a key."""
    return _WORDS.fullmatch(text) is not None and _TOKEN.search(text) is None


def provider_of(exporter: SpanExporter) -> TracerProvider:
    """Return a provider whose spans leave through the gate, in the background and bounded."""
    build = installed("privacy-ledger")
    resource = Resource.create({"service.name": "privacy-ledger", "service.version": build})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Gate(exporter)))
    return provider


@contextmanager
def traced(exporter: str, *, command: str | None) -> Iterator[Meters]:
    """Yield meters that send spans to a named exporter; a command has a span around its own.

    Raises:
        HomeUnusable: no exporter of that name is installed, or another provider is set up.
    """
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        raise HomeUnusable(
            "This process has another tracer provider, whose spans would carry record keys. Start "
            "it without `opentelemetry-instrument`, or unset PRIVACY_LEDGER_TRACES."
        )
    provider = provider_of(_exporter(exporter))
    trace.set_tracer_provider(provider)
    spans = SpanMeters(provider)
    try:
        if command is None:
            yield spans
        else:
            with spans.command(command):
                yield spans
    finally:
        last = Thread(target=provider.shutdown, daemon=True)
        last.start()
        last.join(FLUSH_S)


def _exporter(name: str) -> SpanExporter:
    """Return the exporter that is installed under a name; its own variables say where it sends to."""
    if name == "console":  # standard output is for the result
        return ConsoleSpanExporter(out=sys.stderr)
    found = list(entry_points(group=_EXPORTERS, name=name))
    if not found:
        raise HomeUnusable(
            "PRIVACY_LEDGER_TRACES names an exporter that is not installed. Install one, such as "
            "`opentelemetry-exporter-otlp-proto-http` for `otlp_proto_http`, or unset it."
        )
    made: SpanExporter = found[0].load()()
    return made
