"""`poe crash-points`. What its processes run lies in `lane`, where they find it by its name."""

import sys

from tests.crash.lane import main

if __name__ == "__main__":
    sys.exit(main())
