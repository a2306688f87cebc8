"""What the client costs whoever imports it: little time, and nothing that the ledger itself needs."""

import json
import subprocess
import sys
from typing import Final

IMPORT_MS_MAX: Final = 100
ATTEMPTS: Final = 10
HEAVY: Final = frozenset(
    {
        "aiokafka", "asyncpg", "click", "cryptography", "faust", "httpx", "litestar", "opendp", "rich",
        "rocksdict", "sqlite3", "structlog",
    }
)  # fmt: skip
_IMPORT: Final = """
import json, sys, time
before = set(sys.modules)
began, used = time.perf_counter(), time.process_time()
import privacy_ledger.sdk
took, used = time.perf_counter() - began, time.process_time() - used
print(json.dumps([1000 * min(took, used), sorted(set(sys.modules) - before)]))
"""
_EMIT: Final = """
import json, sys
from datetime import UTC, datetime
from privacy_ledger.domain.events import VideoPaused
from privacy_ledger.sdk import Event, HttpTransport, SyncLedger
ledger = SyncLedger(HttpTransport("https://127.0.0.1:1", key="plk_x"), source="our-lms").open()
ledger.emit(Event.of("openedx:user_id:1", VideoPaused(video="v", occurred_at=datetime.now(UTC))))
ledger.close(timeout_s=0.2)
print(json.dumps(sorted(sys.modules)))
"""


def said(program: str) -> str:
    """Return what a program prints in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return done.stdout


def foreign(modules: list[str]) -> set[str]:
    """Return the packages that are neither the standard library's nor ours."""
    tops = {name.partition(".")[0] for name in modules}
    return {name for name in tops - sys.stdlib_module_names if not name.startswith("_")} - {"privacy_ledger"}


def test_the_client_is_imported_in_less_than_100_ms() -> None:
    """The best of several: other programs of the machine are not its cost."""
    took = min(json.loads(said(_IMPORT))[0] for _ in range(ATTEMPTS))

    assert took < IMPORT_MS_MAX


def test_the_client_brings_msgspec_and_the_standard_library() -> None:
    """No HTTP client, no asyncio, no ssl until they are used; of the ledger the domain alone."""
    _, modules = json.loads(said(_IMPORT))
    own = {".".join(name.split(".")[:2]) for name in modules if name.startswith("privacy_ledger.")}

    assert foreign(modules) <= {"msgspec", "typing_extensions"}
    assert own == {"privacy_ledger.domain", "privacy_ledger.sdk"}
    assert not {"asyncio", "http.client", "ssl", "email", "sqlite3"} & set(modules)


def test_a_client_that_sends_holds_no_rights_and_no_keys() -> None:
    """Nothing of the keystore, of Kafka, of the command or of cryptography is loaded by sending."""
    modules = json.loads(said(_EMIT))

    assert not HEAVY & {name.partition(".")[0] for name in modules}
    assert "privacy_ledger.bootstrap" not in modules
    assert not [
        name for name in modules if name.startswith(("privacy_ledger.adapters", "privacy_ledger.app"))
    ]
