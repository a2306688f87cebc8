"""Log lines keep to their fixed keys, whatever a call hands over."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from privacy_ledger.logging import LOG_KEYS, configure, get_logger


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave logging as it was."""
    yield
    structlog.reset_defaults()


def _lines(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines()]


def test_a_key_that_is_not_known_is_dropped_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """No value can slip in beside the vocabulary."""
    configure(level="INFO", as_json=True)
    get_logger().info("erasing", partition=3, email="ada@example.com", name="Ada")
    said = capsys.readouterr().err
    (line,) = _lines(said)
    assert (line["event"], line["partition"], line["count"]) == ("erasing", 3, 2)
    assert set(line) <= LOG_KEYS
    assert "Ada" not in said
    assert "ada@" not in said


def test_a_traceback_is_not_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    """Frames hold values: an error is named by its class."""
    configure(level="INFO", as_json=True)
    try:
        raise ValueError("ada@example.com")  # noqa: TRY301 - the case
    except ValueError:
        get_logger().error("cycle failed", exc_info=True)
    (line,) = _lines(capsys.readouterr().err)
    assert set(line) == {"event", "level", "timestamp", "count"}


def test_lines_below_the_level_are_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for one event, as text as well."""
    configure(level="WARNING")
    get_logger().info("restoring", records=5)
    get_logger().warning("fenced", pass_name="core", partition=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in ("fenced", "core", "partition=1"))
