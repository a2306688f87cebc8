"""Global Privacy Control: the one header by which a browser asks that nothing be sold or shared.

Source: W3C Global Privacy Control, 3.2 and 3.3, the `Sec-GPC` request header field.
"""

from collections.abc import Iterable
from typing import Final

__all__ = ["FIELD", "VALUES_MAX", "is_on"]

FIELD: Final = "Sec-GPC"
VALUES_MAX: Final = 16
_ON: Final = "1"
_BLANKS: Final = " \t"


def is_on(values: Iterable[str]) -> bool:
    """Return whether a request carries the signal, by the values of its header fields of that name.

    Only the one character `1` is the signal, blanks around it aside; every other value is no signal, and
    there is none that takes it back. One of several fields is enough, also where a proxy joined them with
    commas: the specification does not settle that, and reading it so errs towards the person. A trailer is
    no header: do not hand its fields in. At most `VALUES_MAX` fields are read.
    """
    for number, value in enumerate(values):
        if number == VALUES_MAX:
            break
        if any(part.strip(_BLANKS) == _ON for part in value.split(",")):
            return True
    return False
