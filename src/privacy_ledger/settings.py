"""Settings: the only place that reads the environment."""

import os
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

from privacy_ledger.adapters.kafka.settings import ClusterSettings
from privacy_ledger.adapters.keystore.address import KeystorePlace, place_of
from privacy_ledger.adapters.observe.health import LOOPBACK, HealthAddress

__all__ = ["SESSION_S_DEFAULT", "Settings", "from_environment"]

SESSION_S_DEFAULT: Final = 6
_SESSION_S: Final = range(6, 1801)
"""What brokers allow unless they are set otherwise."""
_STANDBYS: Final = range(64)

_DATA_HOME = "XDG_DATA_HOME"
_PORTS = 1 << 16
_Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]


class Settings(Struct, frozen=True, kw_only=True):
    """Where a home or a cluster is, and where its keys and stores lie."""

    home: Path
    is_home_named: bool = False
    keys: Path | None
    keystore: KeystorePlace | None
    key_backups: Path | None = None
    state: Path | None
    cluster: ClusterSettings | None
    topic_prefix: str
    partitions: int | None
    data_home: Path
    session_s: int = SESSION_S_DEFAULT
    standbys: int = 1
    health: HealthAddress | None = None
    traces: str | None = None
    api_keys: Path | None = None
    webhooks: Path | None = None
    geoip: Path | None = None

    @property
    def state_folder(self) -> Path:
        """Where workers keep their stores."""
        return self.state or self.data_home / "privacy-ledger" / "state"

    @property
    def api_keys_file(self) -> Path:
        """Where the keys of the HTTP service are written down, as hashes."""
        folder = self.home if self.cluster is None else self.data_home / "privacy-ledger"
        return self.api_keys or folder / "api-keys.json"


def from_environment(*, home: str | None = None, kafka: str | None = None) -> Settings:
    """Return the settings of this process; arguments win over the environment.

    `PRIVACY_LEDGER_HOME` (default `./ledger-home`), `PRIVACY_LEDGER_KEYS`,
    `PRIVACY_LEDGER_KEYSTORE` (a path or `postgresql://HOST/DATABASE`), `PRIVACY_LEDGER_STATE`,
    `PRIVACY_LEDGER_KEY_BACKUPS`, `PRIVACY_LEDGER_CLUSTER` (as `--kafka`),
    `PRIVACY_LEDGER_TOPIC_PREFIX`, `PRIVACY_LEDGER_PARTITIONS`, `PRIVACY_LEDGER_SESSION_S`,
    `PRIVACY_LEDGER_STANDBYS`, `PRIVACY_LEDGER_HEALTH` (where a worker answers health checks; default
    nowhere), `PRIVACY_LEDGER_TRACES` (the exporter of traces; default none),
    `PRIVACY_LEDGER_GEOIP` (a database of the places of addresses; default none),
    `PRIVACY_LEDGER_API_KEYS` and `PRIVACY_LEDGER_WEBHOOKS` (files of the HTTP service), and for the cluster
    `PRIVACY_LEDGER_SECURITY_PROTOCOL`,
    `PRIVACY_LEDGER_USERNAME`, `PRIVACY_LEDGER_PASSWORD`, `PRIVACY_LEDGER_CA_FILE`.

    Raises:
        ValueError: a variable has a value that cannot be used.
    """
    read = os.environ.get
    address = kafka or read("PRIVACY_LEDGER_CLUSTER")
    partitions = read("PRIVACY_LEDGER_PARTITIONS")
    return Settings(
        is_home_named=bool(home or read("PRIVACY_LEDGER_HOME")),
        home=Path(home or read("PRIVACY_LEDGER_HOME") or "ledger-home"),
        keys=_path(read("PRIVACY_LEDGER_KEYS")),
        keystore=_place(read("PRIVACY_LEDGER_KEYSTORE")),
        key_backups=_path(read("PRIVACY_LEDGER_KEY_BACKUPS")),
        state=_path(read("PRIVACY_LEDGER_STATE")),
        cluster=_cluster(address) if address else None,
        topic_prefix=read("PRIVACY_LEDGER_TOPIC_PREFIX") or "",
        partitions=int(partitions) if partitions else None,
        data_home=Path(read(_DATA_HOME) or Path.home() / ".local" / "share"),
        session_s=_number(read("PRIVACY_LEDGER_SESSION_S"), SESSION_S_DEFAULT, within=_SESSION_S),
        standbys=_number(read("PRIVACY_LEDGER_STANDBYS"), 1, within=_STANDBYS),
        health=_health(read("PRIVACY_LEDGER_HEALTH")),
        traces=read("PRIVACY_LEDGER_TRACES") or None,
        api_keys=_path(read("PRIVACY_LEDGER_API_KEYS")),
        webhooks=_path(read("PRIVACY_LEDGER_WEBHOOKS")),
        geoip=_path(read("PRIVACY_LEDGER_GEOIP")),
    )


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def _place(value: str | None) -> KeystorePlace | None:
    return place_of(value) if value else None


def _number(value: str | None, default: int, *, within: range) -> int:
    number = int(value or default)
    if number not in within:
        raise ValueError(f"a number is not within {within.start} and {within.stop - 1}")
    return number


def _cluster(address: str) -> ClusterSettings:
    """Return how the cluster is reached; unknown protocols are refused by the client itself."""
    read = os.environ.get
    secured = read("PRIVACY_LEDGER_SECURITY_PROTOCOL")
    protocol = msgspec.convert(secured or "PLAINTEXT", _Protocol, strict=True)
    return ClusterSettings(
        bootstrap=address,
        security_protocol=protocol,
        username=read("PRIVACY_LEDGER_USERNAME"),
        password=read("PRIVACY_LEDGER_PASSWORD"),
        ca_file=read("PRIVACY_LEDGER_CA_FILE"),
    )


def _health(value: str | None) -> HealthAddress | None:
    """Return `HOST:PORT`, with this machine alone for a host that is left out.

    Raises:
        ValueError: there is no port, or none of this form.
    """
    if not value:
        return None
    host, _, port = value.rpartition(":")
    number = int(port)
    if not 0 <= number < _PORTS:
        raise ValueError(port)
    return HealthAddress(host.strip("[]") or LOOPBACK, number)
