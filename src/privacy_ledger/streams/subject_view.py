"""The subject view: account, profile, devices, coarse location and counts of one person.

A replay of the same live records, in order, gives the same state. Values of which the last wins
carry the offset that set them, so that parts of different months merge in log order.
"""

from typing import Final

from msgspec import Struct

from privacy_ledger.domain.events import (
    COLLECTION_EVENTS,
    AccountRegistered,
    AccountUpdated,
    DeviceObserved,
    LocationDerived,
    ProfileFieldCleared,
    ProfileFieldSet,
    event_type,
)
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import Parts, Table

__all__ = ["TABLE", "Stamped", "SubjectPart", "SubjectView", "merge"]


class Stamped(Struct, array_like=True, gc=False):
    """A value and the offset that set it; None was cleared."""

    offset: int
    value: str | None


class SubjectPart(Struct, omit_defaults=True):
    """What the records of one category and month say."""

    account: dict[str, Stamped] = {}
    profile: dict[str, Stamped] = {}
    devices: dict[str, int] = {}
    countries: dict[str, int] = {}
    counts: dict[str, int] = {}


TABLE: Final = Table(b"1", "subject_view", Parts[SubjectPart], "view", view="subject_view")


class SubjectView:
    """The step of `view.subject_view`: every live record counts (access, GDPR Art. 15)."""

    purpose: Final = None
    types: Final = frozenset(event_type(kind) for kind in COLLECTION_EVENTS)

    def windows(self, _record: Record) -> None:
        """Return None: this is no analytics step."""
        return

    def step(self, part: SubjectPart | None, record: Record) -> SubjectPart:
        """Return the part after one record."""
        part = SubjectPart() if part is None else part
        account, profile = part.account, part.profile
        devices, countries = part.devices, part.countries
        match record.body:
            case AccountRegistered() | AccountUpdated() as fact:
                given = {"username": fact.username, "name": fact.name, "email": fact.email}
                changed = {
                    field: Stamped(record.offset, value)
                    for field, value in given.items()
                    if value is not None
                }
                account = {**account, **changed}
            case ProfileFieldSet() as fact:
                profile = {**profile, fact.field: Stamped(record.offset, fact.value)}
            case ProfileFieldCleared() as fact:
                profile = {**profile, fact.field: Stamped(record.offset, None)}
            case DeviceObserved() as fact:
                name = " / ".join((fact.browser or "?", fact.system or "?", fact.device_class))
                devices = _plus_one(devices, name)
            case LocationDerived() as fact:
                countries = _plus_one(countries, fact.country)
            case _:
                pass
        counts = _plus_one(part.counts, record.type)
        return SubjectPart(account, profile, devices, countries, counts)


def merge(state: Parts[SubjectPart]) -> SubjectPart:
    """Return one part that says what all parts say, keys sorted; the last offset wins."""
    whole = SubjectPart({}, {}, {}, {}, {})
    for part in state.parts.values():
        for mine, other in ((whole.account, part.account), (whole.profile, part.profile)):
            for field, stamped in other.items():
                if field not in mine or mine[field].offset < stamped.offset:
                    mine[field] = stamped
        for sums, more in (
            (whole.devices, part.devices),
            (whole.countries, part.countries),
            (whole.counts, part.counts),
        ):
            for name, count in more.items():
                sums[name] = sums.get(name, 0) + count
    return SubjectPart(
        dict(sorted(whole.account.items())),
        {field: s for field, s in sorted(whole.profile.items()) if s.value is not None},
        dict(sorted(whole.devices.items())),
        dict(sorted(whole.countries.items())),
        dict(sorted(whole.counts.items())),
    )


def _plus_one(counts: dict[str, int], name: str) -> dict[str, int]:
    """Return the counts with one more of `name`, keys sorted."""
    if name in counts:
        return {**counts, name: counts[name] + 1}
    return dict(sorted({**counts, name: 1}.items()))
