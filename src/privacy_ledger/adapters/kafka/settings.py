"""The settings of every Kafka client, in one place.

They are measured, not guessed: with aiokafka's defaults a paused broker stalled consumers for
minutes without an exception, and a new group member waited 50 seconds.
"""

import ssl
from typing import Final, Literal

from msgspec import Struct

from privacy_ledger.domain.errors import HomeUnusable

__all__ = [
    "REQUEST_TIMEOUT_MS",
    "ClusterSettings",
    "Option",
    "client_options",
    "fetch_bytes",
    "group_options",
    "producer_options",
    "reader_options",
    "tail_options",
]

_METADATA_MAX_AGE_MS: Final = 3000
REQUEST_TIMEOUT_MS: Final = 8000
"""After this long a client gives an answer up, and mostly asks again."""
_RETRY_BACKOFF_MS: Final = 10
_TRANSACTION_TIMEOUT_MS: Final = 8000
_HEARTBEAT_INTERVAL_MS: Final = 1000
_REBALANCE_TIMEOUT_MS: Final = 10_000
_BATCH_BYTES: Final = 512 * 1024
_FETCH_BYTES: Final = 4 * 1024 * 1024
_FETCH_BYTES_PER_ROW: Final = 4 * 1024
_SPOT_BYTES: Final = 64 * 1024
_GROUP_FETCH_BYTES: Final = 8 * 1024 * 1024
"""A backlog is folded in polls of some thousand records: the more in one cycle, the fewer states to write."""
_GROUP_ANSWER_BYTES: Final = 2 * _GROUP_FETCH_BYTES
_FETCH_BYTES_MIN: Final = _BATCH_BYTES
_BUFFER_BYTES: Final = 64 * 1024 * 1024
"""aiokafka keeps one answer per partition until it is asked for its rows: all of them together."""
_TAIL_BUFFER_BYTES: Final = 16 * 1024 * 1024
_TAIL_WAIT_MS: Final = 500
_FETCH_WAIT_MS: Final = 50
"""A client has one fetch in flight per broker: a longer wait would hold up a seek for as long."""

Option = str | int | bool | ssl.SSLContext | None


class ClusterSettings(Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """How a Kafka cluster is reached; `repr` leaves the password out."""

    bootstrap: str
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str | None = None
    password: str | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    client_id: str = "privacy-ledger"

    def __repr__(self) -> str:
        """Return address, protocol and user name."""
        return f"ClusterSettings({self.bootstrap!r}, {self.security_protocol}, username={self.username!r})"


def client_options(cluster: ClusterSettings) -> dict[str, Option]:
    """Return what every client needs, the admin client included.

    Raises:
        HomeUnusable: a certificate file cannot be used.
    """
    options: dict[str, Option] = {
        "bootstrap_servers": cluster.bootstrap,
        "client_id": cluster.client_id,
        "metadata_max_age_ms": _METADATA_MAX_AGE_MS,
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        "retry_backoff_ms": _RETRY_BACKOFF_MS,
        "security_protocol": cluster.security_protocol,
    }
    if cluster.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = cluster.sasl_mechanism
        options["sasl_plain_username"] = cluster.username
        options["sasl_plain_password"] = cluster.password
    if cluster.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(cluster)
    return options


def producer_options(cluster: ClusterSettings, *, transactional_id: str | None = None) -> dict[str, Option]:
    """Return the options of an idempotent or, with an id, transactional producer.

    Nothing is compressed: payloads are sealed, and sealed bytes do not shrink.
    """
    options = client_options(cluster) | {
        "acks": "all",
        "enable_idempotence": True,
        "compression_type": None,
        "max_batch_size": _BATCH_BYTES,
    }
    if transactional_id is not None:
        options["transactional_id"] = transactional_id
        options["transaction_timeout_ms"] = _TRANSACTION_TIMEOUT_MS
    return options


def reader_options(cluster: ClusterSettings) -> dict[str, Option]:
    """Return the options of a consumer without a group, which reads committed records only.

    A position outside the log is an error here, never a silent jump.
    """
    return client_options(cluster) | {
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "max_partition_fetch_bytes": _FETCH_BYTES,
        "fetch_max_wait_ms": _FETCH_WAIT_MS,
    }


def fetch_bytes(rows: int) -> int:
    """Return how much of a partition one request may bring to a reader that wants so many rows."""
    return min(_FETCH_BYTES, max(_FETCH_BYTES_PER_ROW * rows, _SPOT_BYTES))


def group_options(
    cluster: ClusterSettings, *, group: str, session_ms: int, partitions: int
) -> dict[str, Option]:
    """Return the options of a consumer in a group; its committed offsets are a lag figure only.

    One member may have to read all `partitions`: what waits for the engine is bounded for them all.
    """
    return reader_options(cluster) | {
        "group_id": group,
        "session_timeout_ms": session_ms,
        "heartbeat_interval_ms": _HEARTBEAT_INTERVAL_MS,
        "rebalance_timeout_ms": _REBALANCE_TIMEOUT_MS,
        "max_partition_fetch_bytes": _share_of(_BUFFER_BYTES, partitions, at_most=_GROUP_FETCH_BYTES),
        "fetch_max_bytes": _GROUP_ANSWER_BYTES,
    }


def tail_options(cluster: ClusterSettings, *, places: int) -> dict[str, Option]:
    """Return the options of a consumer that follows up to so many partitions without haste."""
    return reader_options(cluster) | {
        "max_partition_fetch_bytes": _share_of(_TAIL_BUFFER_BYTES, places, at_most=_FETCH_BYTES),
        "fetch_max_wait_ms": _TAIL_WAIT_MS,
    }


def _share_of(total: int, places: int, *, at_most: int) -> int:
    """Return each place's part of a buffer; never less than one batch of our own producers."""
    return max(_FETCH_BYTES_MIN, min(at_most, total // max(1, places)))


def _ssl_context(cluster: ClusterSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=cluster.ca_file)
        if cluster.certificate_file is not None:
            context.load_cert_chain(cluster.certificate_file, cluster.key_file)
    except (OSError, ValueError) as error:
        raise HomeUnusable(
            f"The TLS files for Kafka at {cluster.bootstrap} cannot be used ({type(error).__name__}). "
            "Check the CA, certificate and key files."
        ) from error
    return context
