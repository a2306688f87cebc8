"""What a pass is given to reach the world with: its log, what it says, and what it may do after."""

from msgspec import Struct

from privacy_ledger.engine.aftermath import Aftermath
from privacy_ledger.engine.moving import Claims
from privacy_ledger.engine.outlet import Outlet
from privacy_ledger.ports.log import PassLog

__all__ = ["Means"]


class Means(Struct, frozen=True, kw_only=True):
    """The means of one pass; those of a later version's pass reach nothing but what is its own."""

    log: PassLog
    outlet: Outlet
    aftermath: Aftermath
    claims: Claims
