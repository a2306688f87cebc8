"""The one place that draws random identifiers."""

import os

__all__ = ["SystemIds"]


class SystemIds:
    """Random bytes of the operating system."""

    def token(self, size: int = 16) -> bytes:
        """Return `size` random bytes."""
        return os.urandom(size)
