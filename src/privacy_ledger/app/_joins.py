"""When references are found to be one person's: the stricter state of each holds for all.

The references stay apart. What was withdrawn, objected to, restricted or declared for one of them
is appended to the others, once, when a line joins them.
"""

from collections.abc import Mapping, Sequence

from privacy_ledger.app._members import Member, Members, note_withdrawal
from privacy_ledger.app._own import OwnRecords
from privacy_ledger.app._ports import Ports
from privacy_ledger.domain.events import (
    ConsentWithdrawn,
    ControlFact,
    Fact,
    MinorStatusDeclared,
    ObjectionRaised,
    RestrictionStarted,
)
from privacy_ledger.domain.permissions import apply_control, apply_fact
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.log import NewRecord

__all__ = ["Joiner"]


class Joiner:
    """Writes what a join makes stricter."""

    def __init__(self, ports: Ports, members: Members) -> None:
        """Take the ports and the run's subjects."""
        self._clock = ports.clock
        self._ids = ports.ids
        self._members = members
        self._own = OwnRecords(
            log=ports.log, vault=ports.vault, codec=ports.codec, clock=ports.clock, ids=ports.ids,
            rules=ports.book.rules,
        )  # fmt: skip

    async def records(self, refs: Sequence[SubjectRef]) -> list[NewRecord]:
        """Return the records that make the stricter state hold for every reference of a person."""
        now = self._clock.now()
        members = [await self._members.load(ref, not_before=now, is_new=False, now=now) for ref in refs]
        members = [member for member in members if not member.permissions.is_ended]
        withdrawn = {member.ref: await self._withdrawn(member) for member in members}
        records: list[NewRecord] = []
        for member in members:
            for control in self._controls(member, members):
                member.permissions = apply_control(member.permissions, control, offset=0)
                records.append(self._own.control(member.ref, control))
            for fact in self._facts(member, members, withdrawn):
                member.permissions = apply_fact(member.permissions, fact)
                if isinstance(fact, ConsentWithdrawn):
                    note_withdrawal(member.withdrawn, fact, received_at=now)
                records.append(self._own.sealed(member.ref, fact))
        return records

    async def _withdrawn(self, member: Member) -> frozenset[str]:
        """Return the purposes whose consent was withdrawn and not given again."""
        return frozenset(await self._members.withdrawn(member.ref)) - member.permissions.grants.keys()

    def _controls(self, member: Member, members: Sequence[Member]) -> list[ControlFact]:
        now, found = self._clock.now(), list[ControlFact]()
        mine = member.permissions
        grounds = [other.permissions.ground for other in members if other.permissions.is_restricted]
        if grounds and not mine.is_restricted:
            ground = grounds[0] or "accuracy"
            found.append(
                RestrictionStarted(request=self._ids.token().hex(), occurred_at=now, ground=ground)  # type: ignore[arg-type] # a ground came in as one
            )
        unapproved = any(o.permissions.is_minor and not o.permissions.is_approved for o in members)
        if unapproved and (mine.is_approved or not mine.is_minor):
            found.append(MinorStatusDeclared(request=self._ids.token().hex(), occurred_at=now, is_minor=True))
        return found

    def _facts(
        self,
        member: Member,
        members: Sequence[Member],
        withdrawn: Mapping[SubjectRef, frozenset[str]],
    ) -> list[Fact]:
        now, mine = self._clock.now(), member.permissions
        objections = {purpose for other in members for purpose in other.permissions.objections}
        refused = frozenset[str]().union(*withdrawn.values())
        found: list[Fact] = [
            ObjectionRaised(occurred_at=now, purpose=purpose)
            for purpose in sorted(objections.difference(mine.objections))
        ]
        found += [
            ConsentWithdrawn(occurred_at=now, purpose=purpose)
            for purpose in sorted(refused.intersection(mine.grants))
        ]
        return found
