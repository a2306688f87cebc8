"""The compose file publishes on loopback only, and runs our code with as little as it needs."""

import asyncio
import shutil
import subprocess
import sys
from asyncio.subprocess import DEVNULL
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from privacy_ledger.adapters.keystore.address import PostgresAddress, place_of
from privacy_ledger.adapters.observe.board import Board
from privacy_ledger.adapters.observe.health import HealthAddress, HealthPages, serving
from privacy_ledger.ports.observe import Assigned, Standing, Stands

COMPOSE_FILE: Final = Path(__file__).parents[2] / "docker-compose.yml"
OURS: Final = ("init", "worker")
COMMAND_TIMEOUT_S: Final = 60


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """Return the services of the compose file, by name."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    return found


def test_every_published_port_is_on_loopback(services: dict[str, dict[str, Any]]) -> None:
    """No service is reachable from another machine."""
    published = [port for service in services.values() for port in service.get("ports", [])]

    assert published
    assert [port for port in published if not str(port).startswith("127.0.0.1:")] == []


def test_no_service_leaves_its_own_network(services: dict[str, dict[str, Any]]) -> None:
    """Services share the project's own network and no host namespace."""
    assert [name for name, service in services.items() if "network_mode" in service or "pid" in service] == []


@pytest.mark.parametrize("name", ["kafka", "postgres", *OURS])
def test_a_service_gains_no_privilege(services: dict[str, dict[str, Any]], name: str) -> None:
    """Capabilities are dropped and no new privilege can be had."""
    service = services[name]

    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "cap_add" not in service


@pytest.mark.parametrize("name", OURS)
def test_our_code_is_not_root_and_cannot_write_its_image(
    services: dict[str, dict[str, Any]], name: str
) -> None:
    """The worker runs as a user of its own on a read-only file system."""
    service = services[name]

    assert service["user"].split(":")[0].isdigit()
    assert int(service["user"].split(":")[0]) > 0
    assert service["read_only"] is True
    assert f"USER {service['user']}" in service["build"]["dockerfile_inline"]


@pytest.mark.parametrize("name", ["kafka", "postgres", "worker"])
def test_a_lasting_service_has_a_health_check(services: dict[str, dict[str, Any]], name: str) -> None:
    """What runs on is watched."""
    assert services[name]["healthcheck"]["test"]


async def test_the_worker_is_healthy_when_it_is_ready(services: dict[str, dict[str, Any]]) -> None:
    """The very command of the check, at the address that the worker is told, on its own loopback."""
    address = services["worker"]["environment"]["PRIVACY_LEDGER_HEALTH"]
    kind, *command = services["worker"]["healthcheck"]["test"]
    assert (kind, command[0], f"http://{address}/readyz" in command[-1]) == ("CMD", "python", True)
    assert address.startswith("127.0.0.1:")
    board = Board()
    pages = HealthPages(
        readiness=lambda: board.readiness(("core",)), metrics=bytes, metrics_type="text/plain"
    )
    codes = []
    async with serving(HealthAddress("127.0.0.1", 0), pages) as served:
        code = command[-1].replace(address, str(served))
        for state in (Standing.ACQUIRING, Standing.RUNNING, Standing.STOPPED):
            board.note(Assigned(pass_name="core", partitions=(0,)))
            board.note(Stands(pass_name="core", partition=0, standing=state))
            check = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=DEVNULL)
            codes.append(await asyncio.wait_for(check.wait(), COMMAND_TIMEOUT_S))
    assert codes == [1, 0, 1]


def test_the_worker_waits_for_a_healthy_broker_and_its_topics(services: dict[str, dict[str, Any]]) -> None:
    """Order: broker and keystore healthy, topics applied, worker started."""
    assert services["worker"]["depends_on"] == {
        "kafka": {"condition": "service_healthy"},
        "postgres": {"condition": "service_healthy"},
        "init": {"condition": "service_completed_successfully"},
    }


def test_keys_and_data_lie_in_different_volumes(services: dict[str, dict[str, Any]]) -> None:
    """A copy of one volume is never enough to read the data."""
    mounts = dict(volume.split(":")[::-1] for volume in services["worker"]["volumes"])
    environment = services["worker"]["environment"]

    keys = mounts[environment["PRIVACY_LEDGER_KEYS"]]
    state = mounts[str(Path(environment["PRIVACY_LEDGER_STATE"]).parent)]
    (keystore,) = (volume.split(":")[0] for volume in services["postgres"]["volumes"])

    assert len({keys, state, keystore}) == 3


def test_the_keystore_is_the_database_of_the_file(services: dict[str, dict[str, Any]]) -> None:
    """User, password, host and database are those that the server is started with; no port is published."""
    server = services["postgres"]["environment"]
    place = place_of(services["worker"]["environment"]["PRIVACY_LEDGER_KEYSTORE"])

    assert isinstance(place, PostgresAddress)
    assert place.url == (
        f"postgresql://{server['POSTGRES_USER']}:{server['POSTGRES_PASSWORD']}@postgres:5432/"
        f"{server['POSTGRES_DB']}"
    )
    assert "ports" not in services["postgres"]


def test_what_the_image_copies_is_in_the_project(services: dict[str, dict[str, Any]]) -> None:
    """The image builds from files that exist."""
    dockerfile = services["worker"]["build"]["dockerfile_inline"]
    copied = [
        name for line in dockerfile.splitlines() if line.startswith("COPY ") for name in line.split()[1:-1]
    ]

    assert copied
    assert [name for name in copied if not (COMPOSE_FILE.parent / name).exists()] == []


def test_compose_accepts_the_file() -> None:
    """The client itself reads the file without complaint."""
    client = _compose_client()
    if client is None:
        pytest.skip("no `docker compose` client on this machine")

    run = subprocess.run(
        [*client, "-f", str(COMPOSE_FILE), "config", "-q"],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )

    assert (run.returncode, run.stderr) == (0, "")


def _compose_client() -> list[str] | None:
    docker = shutil.which("docker")
    if docker is None:
        return None
    client = [docker, "compose"]
    answer = subprocess.run([*client, "version"], capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False)
    return client if answer.returncode == 0 else None
