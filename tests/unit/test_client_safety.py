"""Clients and the host start with safe settings only, and say which setting is not."""

import ast
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from faust.types.enums import ProcessingGuarantee
from msgspec import structs

from privacy_ledger.adapters.kafka.safety import safe_consumer, safe_producer
from privacy_ledger.adapters.kafka.settings import (
    ClusterSettings,
    Option,
    client_options,
    group_options,
    producer_options,
    reader_options,
)
from privacy_ledger.bootstrap import Runtime, open_runtime
from privacy_ledger.domain.errors import UnsafeSettings
from privacy_ledger.settings import Settings
from processors.app import check_host, create_app

ROOT = Path(__file__).parents[2]
CLUSTER = ClusterSettings(bootstrap="127.0.0.1:1")
PRODUCER = producer_options(CLUSTER, transactional_id="core.0")
READER = reader_options(CLUSTER)
MEMBER = group_options(CLUSTER, group="core", session_ms=6000, partitions=1)
SECURITY = {
    "security_protocol", "sasl_mechanism", "sasl_plain_username", "sasl_plain_password", "ssl_context",
}  # fmt: skip
CHECKED = {
    "AIOKafkaProducer": "safe_producer",
    "AIOKafkaConsumer": "safe_consumer",
    "RowConsumer": "safe_consumer",
}


def changed(options: Mapping[str, Option], setting: str, value: Option) -> dict[str, Option]:
    """Return options with one value in place of another; None leaves the setting out."""
    others = {name: option for name, option in options.items() if name != setting}
    return others if value is None else {**others, setting: value}


@pytest.mark.parametrize("options", [READER, MEMBER], ids=["reader", "member"])
def test_the_settings_of_our_consumers_are_safe(options: Mapping[str, Option]) -> None:
    """They come back as they were."""
    assert safe_consumer(options) == options


@pytest.mark.parametrize("transactional_id", [None, "core.0"])
def test_the_settings_of_our_producers_are_safe(transactional_id: str | None) -> None:
    """The idempotent and the transactional one come back as they were."""
    options = producer_options(CLUSTER, transactional_id=transactional_id)

    assert safe_producer(options) == options


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("acks", 1),
        ("acks", 0),
        ("acks", None),
        ("enable_idempotence", False),
        ("enable_idempotence", None),
        ("metadata_max_age_ms", 300_000),
        ("request_timeout_ms", 40_000),
        ("request_timeout_ms", None),
    ],
)
def test_an_unsafe_producer_is_refused(setting: str, value: Option) -> None:
    """The values are aiokafka's own defaults, or fewer guarantees."""
    with pytest.raises(UnsafeSettings, match=f"The producer's setting {setting} is ") as refused:
        safe_producer(changed(PRODUCER, setting, value))

    assert (refused.value.client, refused.value.setting) == ("producer", setting)


@pytest.mark.parametrize(
    ("options", "setting", "value"),
    [
        (READER, "enable_auto_commit", True),
        (READER, "enable_auto_commit", None),
        (READER, "isolation_level", "read_uncommitted"),
        (READER, "isolation_level", None),
        (READER, "auto_offset_reset", "latest"),
        (READER, "auto_offset_reset", "earliest"),
        (READER, "auto_offset_reset", None),
        (MEMBER, "auto_offset_reset", "latest"),
        (MEMBER, "auto_offset_reset", None),
        (MEMBER, "enable_auto_commit", True),
        (MEMBER, "isolation_level", "read_uncommitted"),
        (MEMBER, "metadata_max_age_ms", 300_000),
    ],
)
def test_an_unsafe_consumer_is_refused(options: Mapping[str, Option], setting: str, value: Option) -> None:
    """A reader without a group must not even begin at the beginning by itself."""
    with pytest.raises(UnsafeSettings, match=f"The consumer's setting {setting} is ") as refused:
        safe_consumer(changed(options, setting, value))

    assert (refused.value.client, refused.value.setting) == ("consumer", setting)


def unchecked_clients(source: str) -> list[int]:
    """Return the lines in which an aiokafka client is made of something else than checked options.

    They are checked on the line, or where the name was assigned that stands there. Nothing that
    was checked may be given beside them.
    """
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in CHECKED
        and not _is_checked(node, CHECKED[node.func.id], source)
    ]


def _is_checked(call: ast.Call, by: str, source: str) -> bool:
    given = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg is None]
    beside = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
    return (
        len(given) == 1
        and (given[0].startswith(f"{by}(") or f" {given[0]} = {by}(" in source)
        and not call.args
        and beside.isdisjoint({*PRODUCER, *MEMBER})
    )


@pytest.mark.parametrize(
    ("call", "lines"),
    [
        ("AIOKafkaProducer(**safe_producer(o))", []),
        ("AIOKafkaConsumer(**safe_consumer(o), partition_assignment_strategy=(a,))", []),
        ("if True:\n    self.o = safe_consumer(o)\nAIOKafkaConsumer(**self.o)", []),
        ("AIOKafkaProducer(**o)", [1]),
        ("AIOKafkaProducer(**safe_consumer(o))", [1]),
        ("AIOKafkaProducer()", [1]),
        ("AIOKafkaConsumer(**safe_consumer(o), auto_offset_reset='latest')", [1]),
        ("AIOKafkaConsumer('topic', **safe_consumer(o))", [1]),
    ],
)
def test_a_client_made_past_the_check_is_found(call: str, lines: list[int]) -> None:
    """The search below bites."""
    assert unchecked_clients(call) == lines


def test_no_client_is_made_past_the_check() -> None:
    """Wherever the product makes one, its options are those of `safe_producer` or `safe_consumer`."""
    sources = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("processors/*.py")])
    found = {
        path.name: lines
        for path in sources
        if "testing" not in path.parts and (lines := unchecked_clients(path.read_text(encoding="utf-8")))
    }

    assert len(sources) > 50
    assert found == {}


@pytest_asyncio.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[Runtime]:
    """Yield a runtime that a host can be made for; no broker is asked."""
    settings = Settings(
        home=tmp_path / "home",
        keys=tmp_path / "keys",
        keystore=None,
        state=tmp_path / "state",
        cluster=None,
        topic_prefix="",
        partitions=1,
        data_home=tmp_path / "data",
    )
    async with open_runtime(settings, prepare=False) as opened:
        yield opened


async def test_the_environment_does_not_change_the_host(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust would let each of these variables override what the program says."""
    for name, value in {
        "PROCESSING_GUARANTEE": "exactly_once",
        "APP_WEB_ENABLED": "1",
        "STREAM_WAIT_EMPTY": "no",
        "PRODUCER_ACKS": "0",
        "BROKER_URL": "kafka://elsewhere.example.com",
    }.items():
        monkeypatch.setenv(name, value)

    conf = create_app(runtime).conf

    assert str(conf.processing_guarantee) == str(ProcessingGuarantee.AT_LEAST_ONCE)
    assert (conf.web_enabled, conf.stream_wait_empty, conf.producer_acks) == (False, True, -1)
    assert "elsewhere.example.com" not in {url.host for url in conf.broker}


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
async def test_the_host_shows_the_brokers_what_every_client_shows(
    runtime: Runtime, protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
) -> None:
    """Compared as Faust hands it to aiokafka; else a secured cluster would turn the worker away."""
    cluster = ClusterSettings(
        bootstrap="kafka.example.com:9093", security_protocol=protocol, username="worker", password="made up"
    )
    conf = create_app(
        structs.replace(runtime, settings=structs.replace(runtime.settings, cluster=cluster))
    ).conf

    shown = {key: one for key, one in credentials_to_aiokafka_auth(conf.broker_credentials).items() if one}

    expected = {key: one for key, one in client_options(cluster).items() if key in SECURITY}
    assert shown.keys() == expected.keys()
    shown.pop("ssl_context", None)
    assert shown.items() <= expected.items()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("processing_guarantee", ProcessingGuarantee.EXACTLY_ONCE),
        ("web_enabled", True),
        ("stream_wait_empty", False),
        ("producer_acks", 1),
        ("producer_threaded", True),
        ("topic_allow_declare", True),
        ("table_standby_replicas", 1),
    ],
)
async def test_an_unsafe_host_is_refused(runtime: Runtime, setting: str, value: object) -> None:
    """`exactly_once` first of all: it loses events (decision 0011)."""
    app = create_app(runtime)
    object.__setattr__(app.conf, setting, value)  # past Faust's warning that the setting was read before

    with pytest.raises(UnsafeSettings, match=f"The host's setting {setting} is ") as refused:
        check_host(app)

    assert (refused.value.client, refused.value.setting) == ("host", setting)


async def test_a_host_with_a_table_is_refused(runtime: Runtime) -> None:
    """State lies in the engine's stores; tables of Faust lose and double events."""
    app = create_app(runtime)
    app.Table("counts", key_type=bytes, value_type=bytes)

    with pytest.raises(UnsafeSettings, match="The host's setting tables is 1: "):
        check_host(app)


def test_the_error_names_client_setting_value_and_remedy() -> None:
    """Nothing else of the settings, of which one is a password, is quoted."""
    options = PRODUCER | {"acks": 1, "sasl_plain_password": "made up"}

    with pytest.raises(UnsafeSettings) as refused:
        safe_producer(options)

    assert str(refused.value) == (
        "The producer's setting acks is 1: an acknowledged record may be on one broker only. "
        "Set it back to the value in the code, and start again."
    )
