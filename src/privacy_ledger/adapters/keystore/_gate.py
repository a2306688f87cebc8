"""The gate before every key: what a caller's role and purpose release, and the count of both answers."""

from collections.abc import Iterable

from privacy_ledger.adapters.keystore._database import Database
from privacy_ledger.domain.errors import KeyWithheld
from privacy_ledger.domain.key_release import NOTHING, UNKNOWN, Caller, Grant, class_of
from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keeping import ReleaseCount, ReleaseOutcome
from privacy_ledger.ports.keys import DataKey, Shredded, Withheld

__all__ = ["Gate", "Tally"]

_Name = tuple[str, str, str, ReleaseOutcome]
"""Role, purpose, category or kind, and outcome: nothing of a person, and few of each."""


class Tally:
    """How many keys one process released and withheld: since its start, and since its last write."""

    def __init__(self) -> None:
        """Begin with none."""
        self._all: dict[_Name, int] = {}
        self._written: dict[_Name, int] = {}
        self._writing: dict[_Name, int] = {}

    def add(self, name: _Name, keys: int) -> None:
        """Count keys."""
        self._all[name] = self._all.get(name, 0) + keys

    def counts(self) -> tuple[ReleaseCount, ...]:
        """Return every count since the start, in the order of their names."""
        return tuple(
            ReleaseCount(role=role, purpose=purpose, category=category, outcome=outcome, keys=keys)
            for (role, purpose, category, outcome), keys in sorted(self._all.items())
        )

    def write(self, store: Database) -> None:
        """Add what is not written yet to the running report, inside `write`; then call `settle`."""
        self._writing = dict(self._all)
        rows = [
            (0, *name, keys - self._written.get(name, 0))
            for name, keys in self._writing.items()
            if keys != self._written.get(name, 0)
        ]
        store.execute_many(
            "INSERT INTO releases(report, role, purpose, category, outcome, count) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT(report, role, purpose, category, outcome) "
            "DO UPDATE SET count = releases.count + excluded.count",
            rows,
        )

    def settle(self) -> None:
        """Note that what `write` added was committed."""
        self._written = self._writing


class Gate:
    """What one caller may have; a caller that nobody declared may have nothing."""

    def __init__(self, caller: Caller | None, grant: Grant, tally: Tally) -> None:
        """Take the caller, its grant, and the count of the process."""
        self._role, self._purpose = ("nobody", "none") if caller is None else (caller.role, caller.purpose)
        self._grant = NOTHING if caller is None else grant
        self._tally = tally
        self._known: dict[str, tuple[bool, _Name]] = {}

    def admits(self, group: str) -> bool:
        """Return whether keys of a group are released here."""
        return self._answer(group)[0]

    def withheld(self, ref: SubjectRef, group: str, generation: int) -> Withheld:
        """Return what stands for a key of a group that is not admitted."""
        return Withheld(ref, group, generation, self._role, self._purpose)

    def require(self, groups: Iterable[str]) -> None:
        """Let a call pass that would make or seal under keys of these groups.

        Raises:
            KeyWithheld: one of them is not released to the caller.
        """
        for group in dict.fromkeys(groups):
            is_admitted, name = self._answer(group)
            if not is_admitted:
                self._tally.add(name, 1)
                raise KeyWithheld(role=self._role, purpose=self._purpose, category=name[2])

    def note(self, keys: Iterable[DataKey | Shredded | Withheld]) -> None:
        """Count what a call answers; a destroyed key is neither released nor withheld."""
        found: dict[str, int] = {}
        for key in keys:
            if not isinstance(key, Shredded):
                found[key.group] = found.get(key.group, 0) + 1
        for group, count in found.items():
            self._tally.add(self._answer(group)[1], count)

    def _answer(self, group: str) -> tuple[bool, _Name]:
        known = self._known.get(group)
        if known is None:
            is_admitted = self._grant.covers(group)
            outcome = ReleaseOutcome.RELEASED if is_admitted else ReleaseOutcome.WITHHELD
            known = is_admitted, (self._role, self._purpose, str(class_of(group) or UNKNOWN), outcome)
            if is_admitted:  # groups of which there are few; what is asked in vain may be anything
                self._known[group] = known
        return known
