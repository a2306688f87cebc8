"""The service over an opened home or cluster."""

from collections.abc import Awaitable, Callable, Mapping

from litestar import Litestar
from msgspec import Struct

from privacy_ledger.adapters.api_keys import Keyring
from privacy_ledger.adapters.webhook_secrets import PARTNERS, Webhooks
from privacy_ledger.app.ingest import OpenIngest
from privacy_ledger.bootstrap import Runtime, ingest_of
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.interfaces.http.asgi import create_app
from privacy_ledger.interfaces.http.batches import Reader
from privacy_ledger.interfaces.http.intake import QUEUE_ITEMS_MAX, Intake
from privacy_ledger.interfaces.http.limits import RATE_DEFAULT, Limits
from privacy_ledger.interfaces.http.service import Service

__all__ = ["CATCH_UP_S", "Wired", "wire"]

CATCH_UP_S = 5.0
"""So long a batch waits for views that do not move; then its senders are told to come again."""


class Wired(Struct, frozen=True):
    """The application, and what works behind it."""

    app: Litestar
    service: Service
    intake: Intake


def wire(
    runtime: Runtime,
    *,
    keyring: Keyring,
    readers: Mapping[str, Reader],
    webhooks: Webhooks,
    settle: Callable[[], Awaitable[None]],
    rate: float = RATE_DEFAULT,
    items_max: int = QUEUE_ITEMS_MAX,
) -> Wired:
    """Return the service; `settle` folds in a home what was taken, when nothing else is to be done.

    On a cluster the workers fold, and the log is only asked whether it is there.
    """

    async def begin() -> OpenIngest:
        await runtime.registrar.tick()
        return await (await ingest_of(runtime)).begin(wait_s=CATCH_UP_S)

    async def rest() -> None:
        if runtime.embedded is not None:
            await settle()
        else:
            await runtime.log.end(LEDGER_EVENTS, 0)

    intake = Intake(begin, rest=rest, items_max=items_max)
    service = Service(
        keyring=keyring, readers=readers, webhooks=webhooks, intake=intake, limits=Limits(rate),
        now=runtime.clock.now,
    )  # fmt: skip
    partners = [name for name in PARTNERS if webhooks.source(name) is not None]
    return Wired(create_app(service, formats=sorted(readers), partners=partners), service, intake)
