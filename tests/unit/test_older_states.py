"""What an earlier build left in a pass's state still reads: work in hand at an upgrade goes on."""

import msgspec

from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import Category
from privacy_ledger.streams.held import Busy, Cut, Held, Sweep
from privacy_ledger.streams.states import IndexRow

DISCARD = ["discarded", 9, "ab", [], [], None, b"r" * 16, False, False]
CATEGORY = ["erased", 9, "ab", [], [], "account", b"", False, True]
WITHDRAWAL = ["withdrawn", 9, "", ["improve.analyse"], [], None, b"", False, False]
EVERYTHING = ["erased", 9, "ab", [], [], None, b"", True, False]
DUE = ["retention", 9, "", [], [["usage", 24310]], None, b"", False, False]


def test_a_sweep_that_was_in_hand_goes_on() -> None:
    """Each kind of cut of before says what it said."""
    cuts = [DISCARD, CATEGORY, WITHDRAWAL, EVERYTHING, DUE]
    left = ["busy", 3, 3, [cuts, "refold_if_cut", b"", []], None, [], False, 0, ""]
    held = msgspec.msgpack.decode(msgspec.msgpack.encode(left), type=Held)
    assert isinstance(held, Busy)
    assert held.sweep == Sweep(
        (
            Cut(Refusal.DISCARDED, 9, "ab", record_id=b"r" * 16),
            Cut(Refusal.ERASED, 9, "ab", category=Category.ACCOUNT, has_own_keys=True),
            Cut(Refusal.WITHDRAWN, 9, purposes=("improve.analyse",)),
            Cut(Refusal.ERASED, 9, "ab", everything=True),
            Cut(Refusal.RETENTION, 9, due=((Category.USAGE, 24310),)),
        ),
        "refold_if_cut",
    )
    assert held.sweep.cuts[0].named == (b"r" * 16,)


def test_a_row_of_the_index_stands_where_it_lies() -> None:
    """One of before was never restated, and belongs to no field that is erased apart."""
    left = [7, b"r" * 16, b"d" * 16, "usage", 24310, ["improve.analyse"], 2]
    row = msgspec.msgpack.decode(msgspec.msgpack.encode(left), type=IndexRow)
    assert (row.place, row.field, row.instead) == (7, None, None)
