"""No core dump of a process that holds keys: what a dump writes, no erasure reaches.

The limit holds for this process and its children. Where the system hands dumps to a program instead
of writing a file, the limit is not asked: so on Linux the process is also marked as one that must not
be dumped, which keeps other processes of the same user from reading its memory, too. Python cannot
promise more: a key may lie in freed memory until something else is written there, and pages may be
swapped out. Encrypt the swap of such machines, or switch it off.
"""

import ctypes
import sys
from typing import Final

__all__ = ["forbid_dumps"]

_PR_SET_DUMPABLE: Final = 4


def forbid_dumps() -> bool:
    """Switch core dumps of this process off; return whether the system agreed to all of it."""
    try:
        import resource  # noqa: PLC0415 - there is none on Windows, nor are there core dumps
    except ImportError:
        return False
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not sys.platform.startswith("linux"):
        return True
    try:
        return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False
