"""The subject view: account, profile, devices, coarse location and counts of one person.

A replay of the same live records gives the same state. Values of which the last wins carry the place
that set them: a record that was restated, and parts of different months, take the order of the log.
"""

from collections.abc import Mapping
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
    RegionDerived,
    event_type,
)
from privacy_ledger.streams.record import Record
from privacy_ledger.streams.states import Parts, Table

__all__ = ["TABLE", "Stamped", "SubjectPart", "SubjectView", "merge"]


class Stamped(Struct, array_like=True, gc=False):
    """A value and the place in the person's history that set it; None was cleared."""

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
                account = _set(account, {k: v for k, v in given.items() if v is not None}, record.place)
            case ProfileFieldSet() as fact:
                profile = _set(profile, {fact.field: fact.value}, record.place)
            case ProfileFieldCleared() as fact:
                profile = _set(profile, {fact.field: None}, record.place)
            case DeviceObserved() as fact:
                name = " / ".join((fact.browser or "?", fact.system or "?", fact.device_class))
                devices = _plus_one(devices, name)
            case LocationDerived() as fact:
                countries = _plus_one(countries, fact.country)
            case RegionDerived() as fact:
                countries = _plus_one(countries, fact.region or fact.country)
            case _:
                pass
        counts = _plus_one(part.counts, record.type)
        return SubjectPart(account, profile, devices, countries, counts)


def merge(state: Parts[SubjectPart]) -> SubjectPart:
    """Return one part that says what all parts say, keys sorted; the last place wins."""
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


def _set(values: dict[str, Stamped], given: Mapping[str, str | None], place: int) -> dict[str, Stamped]:
    """Return the values with those that were given, unless something further on set them."""
    changed = {
        name: Stamped(place, value)
        for name, value in given.items()
        if name not in values or values[name].offset <= place
    }
    return {**values, **changed}


def _plus_one(counts: dict[str, int], name: str) -> dict[str, int]:
    """Return the counts with one more of `name`, keys sorted."""
    if name in counts:
        return {**counts, name: counts[name] + 1}
    return dict(sorted({**counts, name: 1}.items()))
