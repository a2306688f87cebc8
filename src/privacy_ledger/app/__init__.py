"""Use cases: what the ledger does for its producers, operators, analysts and privacy team."""
