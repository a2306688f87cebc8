"""`python -m privacy_ledger` is the command `privacy-ledger`."""

from privacy_ledger.interfaces.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
