"""The package's own table of cookies: names and patterns by class, read from a file beside this one."""

import tomllib
from functools import cache
from importlib import resources
from typing import Final

from privacy_ledger.domain.cookies import CookieClass, CookieTable

__all__ = ["table"]

_FILE: Final = "cookies.toml"
_NOT_ROWS: Final = "format"


@cache
def table() -> CookieTable:
    """Return the table that comes with the package; read once.

    Raises:
        ValueError: the file names a pattern twice, or a class that there is not.
    """
    text = (resources.files(__package__) / _FILE).read_text(encoding="utf-8")
    return CookieTable(
        (name, CookieClass(kind))
        for kind, groups in tomllib.loads(text).items()
        if kind != _NOT_ROWS
        for names in groups.values()
        for name in names
    )
