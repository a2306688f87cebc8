"""`Atlas` over an operator's own database in MaxMind's format (DB format 2.0), such as GeoLite2.

Only codes of country and first subdivision are read: a database of cities also has coordinates and
postcodes, which are finer than the policy keeps (P9). The database is read into memory by Python
code: the reader in C of maxminddb 3.2.0 ends the process over a damaged file.
"""

import ipaddress
import re
import struct
from functools import lru_cache
from pathlib import Path
from typing import Final

import maxminddb

from privacy_ledger.ports.atlas import Atlas, AtlasFault, Place

__all__ = ["NO_ATLAS", "MaxMindAtlas", "NoAtlas", "atlas_over", "place_in"]

PLACES_CACHED: Final = 1 << 16
ADDRESS_CHARS_MAX: Final = 45
"""IPv6 with an IPv4 address at its end (RFC 4291, 2.2)."""
_DAMAGED: Final = (
    maxminddb.InvalidDatabaseError, LookupError, MemoryError, OSError, OverflowError, RecursionError,
    TypeError, ValueError, struct.error,
)  # fmt: skip
"""What the reader raises over bytes that are no database."""
_State = tuple[int, int, int]
"""What tells a file from the one that replaced it."""
_IPV6: Final = 6
_COUNTRY: Final = re.compile(r"[A-Z]{2}")
_SUBDIVISION: Final = re.compile(r"[A-Z0-9]{1,3}")


class NoAtlas:
    """No database: every place is unknown."""

    fault: AtlasFault | None

    def __init__(self, fault: AtlasFault | None = None) -> None:
        """Take why there is none, where the operator named one."""
        self.fault = fault

    def place(self, address: str) -> Place | None:
        """Return None."""
        del address
        return None


NO_ATLAS: Final[Atlas] = NoAtlas()


class MaxMindAtlas:
    """Looks addresses up; those asked for lately are kept in memory, a bounded number."""

    def __init__(self, reader: maxminddb.Reader) -> None:
        """Take an opened database."""
        self.fault: AtlasFault | None = None
        self._reader = reader
        self._has_ipv6 = reader.metadata().ip_version == _IPV6
        self._found: dict[str, Place | None] = {}

    def place(self, address: str) -> Place | None:
        """Return the place of a public address, or None; after a damaged record nothing is looked up."""
        if self.fault is not None or len(address) > ADDRESS_CHARS_MAX:
            return None
        found = self._found
        if address not in found:
            if len(found) >= PLACES_CACHED:
                found.clear()
            found[address] = self._look_up(address)
        return found[address]

    def _look_up(self, address: str) -> Place | None:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return None
        if not parsed.is_global or (parsed.version == _IPV6 and not self._has_ipv6):
            return None
        try:
            return place_in(self._reader.get(parsed))
        except _DAMAGED:
            self.fault = "location_database_unreadable"
            return None


def atlas_over(path: Path | None) -> Atlas:
    """Return the atlas over the database that the operator named; never raises: a fault is told."""
    if path is None:
        return NO_ATLAS
    try:
        found = path.stat()
        return _opened(path, (found.st_ino, found.st_mtime_ns, found.st_size))
    except FileNotFoundError:
        return NoAtlas("location_database_missing")
    except _DAMAGED:
        return NoAtlas("location_database_unreadable")


@lru_cache(maxsize=1)
def _opened(path: Path, _state: _State) -> MaxMindAtlas:
    """Return the atlas of a file as it is: who begins an ingest each second reads it once."""
    return MaxMindAtlas(maxminddb.open_database(path, maxminddb.MODE_MEMORY))


def place_in(record: object) -> Place | None:
    """Return the codes of a record; where somebody is registered or represented is not where they are."""
    country = _code(_member(record, "country"), _COUNTRY)
    if country is None:
        return None
    parts = _member(record, "subdivisions")
    part = _code(parts[0], _SUBDIVISION) if isinstance(parts, list) and parts else None
    return Place(country, None if part is None else f"{country}-{part}")


def _member(record: object, name: str) -> object:
    return record.get(name) if isinstance(record, dict) else None


def _code(record: object, form: re.Pattern[str]) -> str | None:
    code = _member(record, "iso_code")
    return code if isinstance(code, str) and form.fullmatch(code) else None
