"""The registry's rule books, read from `ledger.registry.v1` by content hash."""

from collections.abc import Mapping
from typing import Final

from privacy_ledger.adapters import registry
from privacy_ledger.domain.errors import LogUnavailable
from privacy_ledger.domain.rules import Registry, Rules
from privacy_ledger.domain.topics import LEDGER_REGISTRY
from privacy_ledger.ports.log import EventLog

__all__ = ["NOTHING", "RegistryBooks"]

_DOCUMENT: Final = b"registry:"

NOTHING: Final = Rules(
    Registry(
        version=1,
        purposes=(),
        categories=(),
        events=(),
        products=(),
        defaults=registry.seed().defaults,
    )
)
"""The rules before any were adopted: nothing is known, so everything is refused."""


class RegistryBooks:
    """`Books` over the registry topic; a document is loaded once and checked by its hash."""

    def __init__(self, log: EventLog) -> None:
        """Start with no book loaded."""
        self._log = log
        self._known: dict[str, Rules] = {}
        self._after = -1

    @property
    def known(self) -> Mapping[str, Rules]:
        """The books loaded so far, by digest."""
        return self._known

    async def load(self, digest: str) -> None:
        """Read the topic on until the document is found.

        Raises:
            LogUnavailable: the topic does not hold it (yet); the partition waits.
        """
        while digest not in self._known:
            rows = await self._log.read(LEDGER_REGISTRY, 0, after=self._after)
            if not rows:
                raise LogUnavailable(
                    f"{LEDGER_REGISTRY} does not hold the registry {digest[:12]} that a partition "
                    "has adopted. Restore the topic, then start the worker again."
                )
            for row in rows:
                if row.key.startswith(_DOCUMENT) and row.value is not None:
                    name = registry.digest(row.value)
                    if row.key == _DOCUMENT + name.encode():
                        self._known[name] = Rules(registry.decode(row.value))
                self._after = row.offset
