"""Where an address is, as coarsely as may be kept: a country, and its region."""

from typing import Literal, Protocol

from msgspec import Struct

__all__ = ["Atlas", "AtlasFault", "Place"]

AtlasFault = Literal["location_database_missing", "location_database_unreadable"]


class Place(Struct, frozen=True):
    """A country (ISO 3166-1 alpha-2) and, where it is known, its region (ISO 3166-2), as in US-CA."""

    country: str
    region: str | None = None


class Atlas(Protocol):
    """Finds the place of an IP address. Without one, or with a broken one, all else goes on."""

    @property
    def fault(self) -> AtlasFault | None:
        """What is wrong with the database that the operator named, or None."""
        ...

    def place(self, address: str) -> Place | None:
        """Return the place, or None: not known, no public address, no database; never raises."""
        ...
