"""Where a keystore is: the path of a file, or the address of a PostgreSQL database."""

from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

__all__ = ["KeystorePlace", "PostgresAddress", "place_of"]

_SCHEMES = ("postgresql", "postgres")


class PostgresAddress(Struct, frozen=True):
    """Where a keystore is, as `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`; shown without the password."""

    url: str

    def __str__(self) -> str:
        """Return the hosts and the database, which is all that may be shown."""
        parts = urlsplit(self.url)
        return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def __repr__(self) -> str:
        """Return the same."""
        return f"PostgresAddress({str(self)!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Return what rich may print: msgspec's own answer would hold the password."""
        return [("at", str(self))]


KeystorePlace = Path | PostgresAddress


def place_of(value: str) -> KeystorePlace:
    """Return what a setting names.

    Raises:
        ValueError: an address without a host or a database.
    """
    scheme, separator, _ = value.partition("://")
    if not separator:
        return Path(value)
    parts = urlsplit(value)
    if scheme not in _SCHEMES or not parts.netloc or not parts.path.strip("/"):
        raise ValueError("the keystore is neither a path nor postgresql://HOST/DATABASE")
    return PostgresAddress(value)
