"""The processors of the ledger: one declaration a file; `app.py` hosts them in a Faust worker."""
