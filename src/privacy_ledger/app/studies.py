"""Studies and beta features: purposes of their own, opened by putting a registry in force that has them.

People join one by consent to its purpose, and leave it by withdrawal: what it collected goes with the
keys of its own, and nothing else does (policy P45 and P46).
"""

import re
from collections.abc import Callable
from typing import Final

from msgspec import structs

from privacy_ledger.app.registrar import Registrar
from privacy_ledger.domain.errors import BadInput
from privacy_ledger.domain.events.collection import PROGRAMME
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import PurposeRule, Registry, Rules
from privacy_ledger.domain.values import LawfulBasis

__all__ = ["Studies"]

PROGRAMME_MAX: Final = 80
_DPV: Final = {"study": "edu:ResearchUserStudyManagement", "beta": "dpv:ServiceOptimisation"}
_CLAUSES: Final = {"study": ("P45",), "beta": ("P46",)}


class Studies:
    """Opens studies and beta features, and lists them."""

    def __init__(
        self,
        registrar: Registrar,
        rules: Rules,
        *,
        decode: Callable[[bytes], Registry],
        encode: Callable[[Registry], tuple[bytes, str]],
    ) -> None:
        """Take the registrar, the rules that were folded, and how a registry is read and written.

        `encode` gives the document and its digest.
        """
        self._registrar = registrar
        self._rules = rules
        self._decode = decode
        self._encode = encode

    def opened(self) -> tuple[str, ...]:
        """Return the purposes of all studies and beta features, sorted."""
        return tuple(sorted(row.id for row in self._rules.registry.purposes if re.match(PROGRAMME, row.id)))

    async def open(self, programme: str, *, source: str) -> bool:
        """Put a study or beta in force, such as `study.reading-2026`; return whether that changed anything.

        `source`: where it is approved, such as the reference of an ethics committee.

        Raises:
            BadInput: no name of a study or beta, or no source.
        """
        if re.fullmatch(PROGRAMME, programme) is None or len(programme) > PROGRAMME_MAX:
            raise BadInput(
                Refusal.UNKNOWN_PURPOSE,
                "A study is named study.NAME, and a beta beta.NAME: lower-case letters, digits and dashes.",
            )
        if not source.strip():
            raise BadInput(Refusal.SCHEMA_MISMATCH, "Say where it is approved: `--source TEXT`.")
        family = programme.partition(".")[0]
        row = PurposeRule(
            id=programme, basis=LawfulBasis.CONSENT, dpv=_DPV[family], clauses=_CLAUSES[family],
            source=source, confidence="read",
        )  # fmt: skip

        def amended(current: bytes | None) -> tuple[bytes, str] | None:
            registry = self._rules.registry if current is None else self._decode(current)
            if any(one.id == programme for one in registry.purposes):
                return None
            purposes = tuple(sorted((*registry.purposes, row), key=lambda one: one.id))
            return self._encode(structs.replace(registry, version=registry.version + 1, purposes=purposes))

        return await self._registrar.amend(amended)
