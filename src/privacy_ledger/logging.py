"""Structured logs with a fixed vocabulary: unknown keys are dropped, so no value can slip in."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Final

import structlog

__all__ = ["LOG_KEYS", "configure", "get_logger", "only_known_keys"]

LOG_KEYS: Final = frozenset(
    {
        "event", "level", "timestamp", "subject_ref", "request_id", "event_type", "topic",
        "partition", "offset", "purpose", "refusal", "duration_ms", "pass_name", "records",
        "rate", "eta_s", "reason", "state", "count",
    }
)  # fmt: skip
"""The only keys that a log line may have."""

Event = MutableMapping[str, object]


def only_known_keys(_logger: object, _method: str, event: Event) -> Event:
    """Return the event with unknown keys dropped and counted."""
    dropped = [key for key in event if key not in LOG_KEYS]
    for key in dropped:
        del event[key]
    if dropped:
        event["count"] = len(dropped)
    return event


def configure(*, level: str = "WARNING", as_json: bool = False) -> None:
    """Send logs to standard error: one line each, as text or JSON; no exception locals, ever."""
    renderer = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            only_known_keys,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Client libraries print addresses and keys; only their errors matter here, and not verbatim.
    for name in ("aiokafka", "faust", "mode", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def get_logger() -> structlog.stdlib.BoundLogger:
    """Return the logger that every module uses."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger
