"""What a measured process is asked to do; each kind names the function that does it.

The parent knows these only: what a task runs is imported in the process that runs it, so that its
memory is its own.
"""

from typing import ClassVar

from msgspec import Struct

__all__ = [
    "Checked",
    "EngineFold",
    "EngineWork",
    "Erased",
    "ErasureBytes",
    "ErasureCheck",
    "ErasureFeed",
    "ErasureKeys",
    "ErasurePrepare",
    "ErasureRun",
    "ErasureViews",
    "Expected",
    "Fed",
    "Feed",
    "Fill",
    "Filled",
    "FoldBytewax",
    "FoldFaust",
    "FoldQuixstreams",
    "Go",
    "Gone",
    "Ingest",
    "KeyFill",
    "KeyRoll",
    "KeySeal",
    "Ledger",
    "More",
    "Noop",
    "NoopRdkafka",
    "OnCluster",
    "Order",
    "Prepare",
    "Produce",
    "Restore",
    "RestoreSealed",
    "Rival",
    "Screen",
    "SealedFill",
    "SealedFold",
    "Seen",
    "Soak",
    "Status",
    "Task",
    "Verify",
    "Watch",
]


class Task(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task; `runs` is module and function below `tests.bench`."""

    runs: ClassVar[str]


# Plain events ---------------------------------------------------------------------------------


class Expected(Struct, frozen=True, kw_only=True):
    """What lies in a source, and digests of the view with every event, and with each id once."""

    events: int
    targets: tuple[int, ...]
    subjects: int
    all_events: str
    each_once: str


class Fill(Task, frozen=True, kw_only=True):
    """Write a source topic; `is_opened` lets each subject occur once before the skewed events."""

    runs: ClassVar[str] = "source:fill"
    bootstrap: str
    prefix: str
    events: int
    subjects: int
    partitions: int = 1
    is_opened: bool = False


class Feed(Task, frozen=True, kw_only=True):
    """Write one short event for each subject, then more events whenever `More` is said."""

    runs: ClassVar[str] = "source:feed"
    bootstrap: str
    prefix: str
    subjects: int
    partitions: int


class More(Struct, frozen=True, kw_only=True):
    """Said to a feed: write so many more; none asks for the digest of all."""

    events: int


class Filled(Struct, frozen=True, kw_only=True):
    """Said by a feed: the last offset per partition, and the digest where that was asked for."""

    targets: tuple[int, ...]
    digest: str = ""


class Verify(Task, frozen=True, kw_only=True):
    """Return the digest of a view, as `written_by` lays it out."""

    runs: ClassVar[str] = "source:verify"
    bootstrap: str
    topic: str
    partitions: int = 1
    written_by: str = "engine"


class Noop(Task, frozen=True, kw_only=True):
    """Read a topic above `after` up to `targets` with `getmany`, and do nothing with it."""

    runs: ClassVar[str] = "kafka:noop"
    bootstrap: str
    topic: str
    targets: tuple[int, ...]
    after: tuple[int, ...] = ()


class EngineFold(Task, frozen=True, kw_only=True):
    """Fold a whole source of one partition with our engine."""

    runs: ClassVar[str] = "plain:fold"
    bootstrap: str
    folder: str
    source_prefix: str
    prefix: str
    events: int
    targets: tuple[int, ...]
    is_exact: bool
    is_transactional: bool = True


class EngineWork(Task, frozen=True, kw_only=True):
    """Be one worker of several: say `Status`, fold on `Go`, say a figure, end with the input.

    Rows above `held_after` wait for `Go`; empty: nothing is held.
    """

    runs: ClassVar[str] = "plain:work"
    bootstrap: str
    folder: str
    source_prefix: str
    prefix: str
    partitions: int
    held_after: tuple[int, ...] = ()


class Status(Struct, frozen=True, kw_only=True, tag="status"):
    """Said by a worker when it changed: has it joined, what it folds, and did that come to what is held."""

    is_joined: bool
    running: tuple[int, ...]
    is_caught_up: bool


class Go(Struct, frozen=True, kw_only=True):
    """Said to workers: fold and measure up to these offsets."""

    targets: tuple[int, ...]


# Rivals ---------------------------------------------------------------------------------------


class Rival(Task, frozen=True, kw_only=True):
    """Fold a source of one partition into state and a compacted output, with somebody else's engine.

    No `output`: into its state, whose changelog is the view.
    """

    runs: ClassVar[str]
    bootstrap: str
    folder: str
    source: str
    group: str
    output: str | None
    events: int


class NoopRdkafka(Task, frozen=True, kw_only=True):
    """Read a topic of one partition up to `target` with librdkafka, and do nothing with it."""

    runs: ClassVar[str] = "rivals.rdkafka:noop"
    bootstrap: str
    topic: str
    target: int


class FoldFaust(Rival, frozen=True, kw_only=True):
    """A Faust agent with a table."""

    runs: ClassVar[str] = "rivals.faust_table:fold"


class FoldQuixstreams(Rival, frozen=True, kw_only=True):
    """A quixstreams dataframe with state, exactly-once."""

    runs: ClassVar[str] = "rivals.quix:fold"


class FoldBytewax(Rival, frozen=True, kw_only=True):
    """A bytewax dataflow with state and recovery."""

    runs: ClassVar[str] = "rivals.waxed:fold"


# Sealed topology ------------------------------------------------------------------------------


class Ledger(Struct, frozen=True, kw_only=True):
    """What lies in a prepared ledger and what its views and its sealed window must be."""

    events: int
    records: int
    subjects: int
    value_bytes: int
    views: str
    cells: dict[str, int]


class Ingest(Task, frozen=True, kw_only=True):
    """Ingest clean lines into a fresh home."""

    runs: ClassVar[str] = "sealed:ingest"
    folder: str
    lines: int
    learners: int


class Screen(Task, frozen=True, kw_only=True):
    """Decode clean lines and screen them."""

    runs: ClassVar[str] = "screening:measure"
    lines: int


class Prepare(Task, frozen=True, kw_only=True):
    """Lay a home's records out as one partition, and say what they must give."""

    runs: ClassVar[str] = "sealed:prepare"
    folder: str


class SealedFill(Task, frozen=True, kw_only=True):
    """Write a prepared ledger under a prefix."""

    runs: ClassVar[str] = "sealed:fill"
    bootstrap: str
    home: str
    prefix: str


class SealedFold(Task, frozen=True, kw_only=True):
    """Fold a filled ledger with every processor."""

    runs: ClassVar[str] = "sealed:fold"
    bootstrap: str
    folder: str
    home: str
    prefix: str
    ledger: Ledger
    last: int


# Restore --------------------------------------------------------------------------------------


class Restore(Task, frozen=True, kw_only=True):
    """Restore a folded plain pass into an empty store, and compare it with the one in `original`.

    `is_view_only` leaves the private changelog out, which holds the tag rows.
    """

    runs: ClassVar[str] = "restore:plain"
    bootstrap: str
    prefix: str
    folder: str
    original: str
    is_view_only: bool


class RestoreSealed(Task, frozen=True, kw_only=True):
    """Restore the core pass of a folded sealed ledger."""

    runs: ClassVar[str] = "restore:sealed"
    bootstrap: str
    prefix: str
    folder: str
    original: str


# Latency --------------------------------------------------------------------------------------


class Produce(Task, frozen=True, kw_only=True):
    """Say the `Expected` view; on `Go` append events at a rate, and write when each was due to a file."""

    runs: ClassVar[str] = "latency:produce"
    bootstrap: str
    prefix: str
    partitions: int
    subjects: int
    rate: int
    seconds: int
    file: str


class Watch(Task, frozen=True, kw_only=True):
    """Read the view as it grows until the input ends, and write when each row was seen to a file."""

    runs: ClassVar[str] = "latency:watch"
    bootstrap: str
    prefix: str
    partitions: int
    file: str


# Soak -----------------------------------------------------------------------------------------


class OnCluster(Task, frozen=True, kw_only=True):
    """A task of a run whose keystore, keys and stores lie in one folder."""

    runs: ClassVar[str]
    folder: str
    bootstrap: str
    prefix: str
    partitions: int


class Soak(OnCluster, frozen=True, kw_only=True):
    """Ingest lines on Kafka in runs of a size that each `More` says."""

    runs: ClassVar[str] = "soak:feed"
    learners: int


# Erasures ---------------------------------------------------------------------------------------


class ErasurePrepare(OnCluster, frozen=True, kw_only=True):
    """Ingest some lines of each person, and write what the ledger holds of them to a file."""

    runs: ClassVar[str] = "erasing:prepare"
    people: int
    file: str


class ErasureFeed(OnCluster, frozen=True, kw_only=True):
    """Ingest other people's events at a steady rate until the input ends; say `Fed`."""

    runs: ClassVar[str] = "erasing:feed"
    learners: int
    rate: int


class ErasureRun(OnCluster, frozen=True, kw_only=True):
    """Be one eraser: carry out the saga of each `Order`, one at a time, and say `Erased`.

    `is_fresh`: read projections anew for each, as a command does; a worker and `erase --resume` go
    on from what they have read.
    """

    runs: ClassVar[str] = "erasing:erase"
    file: str
    is_fresh: bool


class ErasureCheck(OnCluster, frozen=True, kw_only=True):
    """Look with fresh eyes whether anything of the first `people` can be read; say `Checked`."""

    runs: ClassVar[str] = "erasing:check"
    file: str
    people: int


class ErasureKeys(OnCluster, frozen=True, kw_only=True):
    """Hold every key of the people open, and say as a list of `Seen` when none opened any more."""

    runs: ClassVar[str] = "erasure_probes:keys"
    file: str


class ErasureViews(OnCluster, frozen=True, kw_only=True):
    """Look at the people's projections, and say as a list of `Seen` when they answered nothing."""

    runs: ClassVar[str] = "erasure_probes:views"
    file: str


class ErasureBytes(OnCluster, frozen=True, kw_only=True):
    """Look into the broker's segments for records of a sample; say as a list of `Gone` when they went.

    After the input ended it looks for `patience_s` at most.
    """

    runs: ClassVar[str] = "erasure_segments:watch"
    file: str
    segments: str
    sample: tuple[int, ...]
    patience_s: float


class Order(Struct, frozen=True, kw_only=True):
    """Said to erasers and those who watch: this person, by number, was to be erased at this moment."""

    person: int
    due_ns: int


class Erased(Struct, frozen=True, kw_only=True):
    """Said by an eraser: how a saga went; moments on the host's monotonic clock.

    `requested_ns`: the time that the receipt states. `steps`: when each was noted. `tries`: how
    often the saga was begun; `errors`: by what kinds of error it was ended.
    """

    person: int
    begun_ns: int
    requested_ns: int
    steps: dict[str, int]
    tries: int
    is_completed: bool
    open_steps: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class Seen(Struct, frozen=True, kw_only=True):
    """What changed between two looks: it was as before at `before_ns`, and not any more at `at_ns`."""

    person: int
    before_ns: int
    at_ns: int


class Gone(Struct, frozen=True, kw_only=True):
    """When a person's first and last sealed record left the segments.

    `tombstoned_ns`: when the broker appended the person's last tombstone; None: not seen. `left`:
    how many records were still there at the end.
    """

    person: int
    records: int
    tombstoned_ns: int | None
    first: Seen | None
    last: Seen | None
    left: int


class Fed(Struct, frozen=True, kw_only=True):
    """Said by the feed at its end: lines ingested, sealed records written, and in how many seconds."""

    events: int
    records: int
    seconds: float


class Checked(Struct, frozen=True, kw_only=True):
    """How many people still have what they must not: a key, an open record, a view, an index row."""

    with_live_keys: int
    readable: int
    unknown: int
    answering: int


# Keystore ---------------------------------------------------------------------------------------


class KeyFill(Task, frozen=True, kw_only=True):
    """Make so many keys in a keystore file."""

    runs: ClassVar[str] = "keystore:fill"
    folder: str
    keys: int


class KeyRoll(Task, frozen=True, kw_only=True):
    """Roll the epoch of a keystore, finally: of the file in a folder, or of new keys in PostgreSQL."""

    runs: ClassVar[str] = "keystore:roll"
    folder: str
    keys: int
    in_postgres: bool = False


class KeySeal(Task, frozen=True, kw_only=True):
    """Seal so many records of 500 bytes under keys that are in memory."""

    runs: ClassVar[str] = "keystore:seal"
    folder: str
    records: int
