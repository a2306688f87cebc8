"""What holds a subject up: a record that nobody can read, or work that takes more than one cycle.

Everything newer of a held subject waits, each record with the time and the rules of its own
offset, and so do the ticks that say something new to it. Only the erasure of the person does not
wait. The states here hold offsets, ids and codes, and no value of a person.
"""

from typing import Final, Literal, cast

from msgspec import Struct

from privacy_ledger.domain.values import REF_BYTES, Category, SubjectRef
from privacy_ledger.streams.states import Moment, Table, Workspace

__all__ = [
    "HELD",
    "TICKS",
    "WAITING",
    "Busy",
    "Cut",
    "Discard",
    "Held",
    "Parked",
    "Sweep",
    "Then",
    "busy_of",
    "offset_of",
    "place",
]

Then = Literal["rest", "refold", "refold_if_cut"]


class Cut(Struct, frozen=True, array_like=True):
    """One removal of a sweep: which rows of a subject's index below an offset go, and why.

    With `purposes` a row loses these, and goes when none is left. With a `record_id`, or `record_ids`
    in order, those go, of the `category` where one is named. Otherwise the rows go that are `due`
    (category, and its first month that stays), those of a `category`, of one profile `field`, or
    `everything`. A cut that names nothing removes nothing. Rows of a `held` category stay as they are;
    those of one with a duty go by `due` alone, and serve the duty otherwise.

    `has_own_keys`: each row's own key goes with it. `has_shared_keys`: the key that it shares goes where
    it seals nothing more, as with a withdrawal those of its purposes do. The members stand in the order
    in which builds came to know them: what was in hand when one was upgraded still reads.
    """

    cause: str
    below: int
    request: str = ""
    purposes: tuple[str, ...] = ()
    due: tuple[tuple[Category, int], ...] = ()
    category: Category | None = None
    record_id: bytes = b""
    everything: bool = False
    has_own_keys: bool = False
    record_ids: tuple[bytes, ...] = ()
    has_shared_keys: bool = False
    field: bytes = b""
    held: tuple[Category, ...] = ()
    duties: tuple[tuple[Category, str], ...] = ()

    @property
    def named(self) -> tuple[bytes, ...]:
        """The ids of the records that it names, in order."""
        return self.record_ids or ((self.record_id,) if self.record_id else ())


class Sweep(Struct, frozen=True, array_like=True):
    """A walk over a subject's index in key order: the cuts remove, and what stays may be folded again.

    `after` is the tag of the last row that was swept; `groups` are the key groups of rows that
    went, to be destroyed at the end where no row that stays is sealed under them.
    """

    cuts: tuple[Cut, ...]
    then: Then
    after: bytes = b""
    groups: tuple[tuple[str, int], ...] = ()


class Discard(Struct, frozen=True, array_like=True):
    """An operator's discard that waits, and the record that it names.

    `tag` is not empty once the record could not be folded: it is passed over until the discard's
    own offset, whatever happens in between.
    """

    offset: int
    record_id: bytes
    request: str
    tag: bytes = b""


class Busy(Struct, frozen=True, array_like=True, tag="busy"):
    """A subject with work in hand: a sweep, then a refold, then what waited.

    `since`: the offset of what asked for the work; the oldest is served first. `at`: up to here
    all of the subject is applied. `folded`: the refold came this far; None: there is none.
    `only`: the refold is for this processor alone, which is being brought up.
    """

    since: int
    at: int
    sweep: Sweep | None = None
    folded: int | None = None
    discards: tuple[Discard, ...] = ()
    has_waiting: bool = False
    tries: int = 0
    only: str = ""


class Parked(Struct, frozen=True, array_like=True, tag="parked"):
    """A subject that waits behind a record nobody can read, or on which a step fails.

    `tag` is not empty when the record is live and only its refold failed: the subject goes on
    with that refold. `tries`: how often the subject was taken up again in vain.
    """

    offset: int
    record_id: bytes
    reason: str
    moment: Moment
    at: int
    tag: bytes = b""
    discards: tuple[Discard, ...] = ()
    tries: int = 0


Held = Busy | Parked

HELD: Final = Table(b"k", "held", cast("type[Held]", Held), "plain")
"""Held subjects, by reference."""
WAITING: Final = Table(b"q", "waiting", Moment, "plain")
"""Records that wait, by reference and offset."""
TICKS: Final = Table(b"o", "ticks", Moment, "plain")
"""Ticks that a held or restricted subject has still to pass, by reference and offset."""


def busy_of(work: Workspace, ref: bytes) -> Busy | None:
    """Return the work in hand for a subject, or None."""
    held = work.get(HELD, ref)
    return held if isinstance(held, Busy) else None


def place(ref: SubjectRef, offset: int) -> bytes:
    """Return the key under which something waits."""
    return ref + offset.to_bytes(8, "big")


def offset_of(key: bytes) -> int:
    """Return the offset of what waits."""
    return int.from_bytes(key[REF_BYTES:], "big")
