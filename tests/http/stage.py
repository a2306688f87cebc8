"""The service in this process over a home of its own, and made-up requests to it."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from privacy_ledger.adapters.api_keys import ApiKeyFile, Keyring
from privacy_ledger.adapters.clock import SystemClock
from privacy_ledger.adapters.ids import SystemIds
from privacy_ledger.adapters.webhook_secrets import Webhooks, read_webhooks
from privacy_ledger.bootstrap import Runtime, open_runtime
from privacy_ledger.interfaces.cli.api import readers_of
from privacy_ledger.interfaces.http.limits import RATE_DEFAULT
from privacy_ledger.interfaces.http.wiring import Wired, wire
from tests.cli.cli import Cli

FORMATS: Final = ("cloudevents", "cmcd", "openedx", "xapi")
NDJSON: Final = "application/x-ndjson"
PROBLEM: Final = "application/problem+json"
SECRET: Final = "whsec_of_a_test"


@dataclass
class Stage:
    """A running service, and a key that may send."""

    runtime: Runtime
    wired: Wired
    keys: ApiKeyFile
    client: httpx.AsyncClient
    key: str

    async def post(
        self,
        path: str,
        body: bytes,
        *,
        media: str | None = "application/json",
        key: str | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Return the answer to a post; with the stage's key, another one, or (None) without."""
        sent = dict(headers or {})
        if media is not None:
            sent["Content-Type"] = media
        if key is not None:
            sent["Authorization"] = f"Bearer {key or self.key}"
        return await self.client.post(path, content=body, headers=sent)

    async def events(
        self, *lines: bytes, key: str | None = "", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Return the answer to lines of the platform's log, posted as one array."""
        return await self.post("/v1/events/openedx", array(lines), key=key, headers=headers)

    async def queued(self, count: int) -> None:
        """Return when so many events wait."""
        for _ in range(1000):
            if self.wired.intake.queued >= count:
                return
            await asyncio.sleep(0.01)
        raise TimeoutError


@asynccontextmanager
async def staged(
    cli: Cli,
    *,
    rate: float = RATE_DEFAULT,
    items_max: int = 20_000,
    webhooks: Webhooks | None = None,
    is_running: bool = True,
) -> AsyncIterator[Stage]:
    """Yield a service over the home of a command; `is_running`: its queue is worked on."""
    async with open_runtime(cli.settings()) as runtime:
        file = cli.home / "api-keys.json"
        keys = ApiKeyFile(file, ids=SystemIds(), clock=SystemClock())
        _, token = keys.create("our-lms", formats=FORMATS)

        async def settle() -> None:
            await runtime.passes.settle()

        wired = wire(
            runtime, keyring=Keyring(file, every_s=0), readers=readers_of((), now=runtime.clock.now),
            webhooks=webhooks or Webhooks(), settle=settle, rate=rate, items_max=items_max,
        )  # fmt: skip
        work = asyncio.create_task(wired.intake.run()) if is_running else None
        app: Any = wired.app  # the two projects type the protocol differently
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://ledger.test") as client:
            yield Stage(runtime, wired, keys, client, token)
        wired.intake.close()
        if work is not None:
            await work


def webhooks_in(folder: Path, text: str) -> Webhooks:
    """Return what a file of secrets says."""
    path = folder / "webhooks.toml"
    path.touch(mode=0o600)
    path.write_text(text)
    return read_webhooks(path)


def array(lines: Sequence[bytes]) -> bytes:
    """Return lines of JSON as one array."""
    return b"[" + b",".join(lines) + b"]"


def outcomes(answer: httpx.Response) -> list[str]:
    """Return the outcome of each event, or its reason where it was refused."""
    assert answer.status_code == 200, answer.text
    return [one.get("reason", one["outcome"]) for one in answer.json()["results"]]


def problem(answer: httpx.Response) -> tuple[int, str]:
    """Return status and code of a problem, whose content type says that it is one."""
    assert answer.headers["content-type"] == PROBLEM
    assert json.loads(answer.content)["status"] == answer.status_code
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


def zipped(body: bytes) -> bytes:
    """Return a body as gzip."""
    return gzip.compress(body)
