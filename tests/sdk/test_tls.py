"""The key goes only to whom the system trusts, and a fork does not disturb a connection by TLS."""

import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from privacy_ledger.sdk import Flushed, HttpTransport, SyncLedger
from tests.sdk.service import KEY, QUICK, granted, serving


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return a certificate for `localhost` with its private key, in one file."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, SHA256())
    )  # fmt: skip
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        made.public_bytes(Encoding.PEM)
        + private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return path


def context(certificate: Path) -> ssl.SSLContext:
    """Return what a service with this certificate speaks."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(certificate)
    return found


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_events_go_by_tls_to_whom_the_system_trusts(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one connection, which a child of a fork leaves as it is."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(context(certificate)) as service:
        transport = HttpTransport(f"https://localhost:{service.port}", key=KEY)
        with SyncLedger(transport, source="our-lms", limits=QUICK) as ledger:
            ledger.emit(granted(0))
            first = ledger.flush()
            child = os.fork()
            if not child:
                ledger.emit(granted(1))
                os._exit(0 if ledger.close() == Flushed(sent=1) else 1)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            ledger.emit(granted(2))
            second = ledger.flush()

    assert (first, second, code) == (Flushed(sent=1), Flushed(sent=2), 0)
    assert service.ids == ["granted-0", "granted-1", "granted-2"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_nothing_goes_to_whom_the_system_does_not_trust(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """An unknown certificate, or one of another name."""
    if host != "localhost":
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(context(certificate)) as service:
        ledger = SyncLedger(
            HttpTransport(f"https://{host}:{service.port}", key=KEY), source="our-lms", limits=QUICK
        ).open()
        ledger.emit(granted())
        flushed = ledger.close(timeout_s=0.5)

    assert flushed == Flushed(pending=1)
    assert service.requests == []
