"""What the runbook says of metrics and alerts is what a worker exposes."""

import re
from typing import Any, Final

import pytest
import yaml

from privacy_ledger.adapters.observe.metrics import METRICS, table
from privacy_ledger.domain import errors
from privacy_ledger.ports.observe import Standing
from tests.docs.documents import ROOT, blocks_of

RUNBOOK: Final = "processors/README.md"
ALERTS: Final = 8
_NAME: Final = re.compile(r"privacy_ledger_[a-z_]+")
_SELECTED: Final = re.compile(r"(privacy_ledger_[a-z_]+)\{([^}]*)\}")
_MATCHER: Final = re.compile(r'([a-z_]+)="([^"]*)"')
_BY: Final = re.compile(r"by \(([^)]*)\) \(\s*(?:min_over_time\()?(privacy_ledger_[a-z_]+)")
_LABELS: Final = {metric.name: set(metric.labels) for metric in METRICS}


def _alerts() -> list[dict[str, Any]]:
    (block,) = [block for block in blocks_of(RUNBOOK) if block.info == ("text", "alerts")]
    found: list[dict[str, Any]] = yaml.safe_load(block.body)
    return found


def test_the_table_of_metrics_is_the_declaration() -> None:
    """Row by row, in its order; `python -c` of the same call prints the table anew."""
    text = (ROOT / RUNBOOK).read_text(encoding="utf-8")
    assert table() in text, "put this into the runbook:\n" + table()


def test_there_are_alerts_for_what_needs_somebody() -> None:
    """Each has a name, an expression and a patience."""
    alerts = _alerts()
    assert len({alert["alert"] for alert in alerts}) == len(alerts) == ALERTS
    assert [set(alert) for alert in alerts] == [{"alert", "expr", "for"}] * ALERTS


@pytest.mark.parametrize("alert", _alerts(), ids=lambda alert: str(alert["alert"]))
def test_an_alert_asks_for_series_that_there_are(alert: dict[str, Any]) -> None:
    """Declared metrics, labels that these have, and states that there are."""
    said = alert["expr"]
    names = set(_NAME.findall(said))
    assert names
    assert names <= set(_LABELS)
    for name, matchers in _SELECTED.findall(said):
        pairs = _MATCHER.findall(matchers)
        assert pairs
        assert {label for label, _ in pairs} <= _LABELS[name]
        assert {value for label, value in pairs if label == "state"} <= set(Standing)
        assert {value for label, value in pairs if label == "pass"} <= {"core", "analytics"}
    for labels, name in _BY.findall(said):
        assert {label.strip() for label in labels.split(",")} <= _LABELS[name]


def test_every_outcome_that_stops_a_partition_is_explained() -> None:
    """The name in a label is the name in the table of errors."""
    text = (ROOT / RUNBOOK).read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `([A-Za-z]+)`", text, re.MULTILINE))
    assert {"LedgerRewound", "UnknownKey", "ControlUnreadable"} <= explained
    assert {name for name in explained if hasattr(errors, name)} >= {"Fenced", "KeyUnavailable"}
