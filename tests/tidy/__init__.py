"""House rules as tests, and the lock of the dependencies."""
