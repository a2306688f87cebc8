"""Refuses settings of a Kafka client or of its host that lose, double or hide records.

aiokafka's own defaults are of that kind (one acknowledgement, no idempotence, offsets committed by
a timer, aborted records visible), so a setting that is left out is refused like a wrong one.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Final

from msgspec import Struct

from privacy_ledger.adapters.kafka.settings import Option
from privacy_ledger.domain.errors import UnsafeSettings

__all__ = ["Rule", "check", "safe_consumer", "safe_producer"]


class Rule(Struct, frozen=True):
    """One setting, the values that are safe, and what any other would do."""

    setting: str
    safe: Container[object]
    otherwise: str


_CLIENT: Final = (
    Rule(
        "metadata_max_age_ms",
        range(1000, 5001),
        "after a change of leaders a client may ask the old one for as long",
    ),
    Rule("request_timeout_ms", range(1000, 10_001), "a paused broker holds a client for as long"),
)
_PRODUCER: Final = (
    *_CLIENT,
    Rule("acks", ("all",), "an acknowledged record may be on one broker only"),
    Rule("enable_idempotence", (True,), "a retried record may be appended twice"),
)
_CONSUMER: Final = (
    *_CLIENT,
    Rule("enable_auto_commit", (False,), "an offset is committed before its record is folded"),
    Rule("isolation_level", ("read_committed",), "records of aborted transactions are folded"),
)
_WITHOUT_GROUP: Final = Rule("auto_offset_reset", ("none",), "a position outside the log passes unseen")
_IN_GROUP: Final = Rule(
    "auto_offset_reset", ("none", "earliest"), "records before the first start are skipped"
)
"""A member has no position in the log before its partition is acquired, so it may begin at the beginning."""


def safe_producer(options: Mapping[str, Option]) -> Mapping[str, Option]:
    """Return the options of a producer as they are.

    Raises:
        UnsafeSettings: one of them is missing or not safe.
    """
    check("producer", options, _PRODUCER)
    return options


def safe_consumer(options: Mapping[str, Option]) -> Mapping[str, Option]:
    """Return the options of a consumer as they are.

    Raises:
        UnsafeSettings: one of them is missing or not safe.
    """
    reset = _WITHOUT_GROUP if options.get("group_id") is None else _IN_GROUP
    check("consumer", options, (*_CONSUMER, reset))
    return options


def check(client: str, settings: Mapping[str, object], rules: Sequence[Rule]) -> None:
    """Compare settings with rules; `client` is named in the error.

    Raises:
        UnsafeSettings: the first setting that is missing or not safe.
    """
    for rule in rules:
        value = settings.get(rule.setting)
        if value is None or value not in rule.safe:
            raise UnsafeSettings(client=client, setting=rule.setting, value=value, otherwise=rule.otherwise)
