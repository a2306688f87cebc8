"""The error tree. A message names the thing, the rule and the next step, and never a value.

LedgerError
├── BadInput              retriable=False   bytes or arguments that cannot be used
│   └── SchemaMismatch
├── RefusedByPolicy       retriable=False   a rule says no
├── KeyUnavailable        retriable=True    the keystore or a KEK cannot be reached
│   ├── KekMissing        retriable=False   the key-encryption key of an epoch is not there
│   └── KeystoreReplaced  retriable=False   its file was exchanged under an open keystore
├── KeyWithheld           retriable=False   a role and purpose to which a key is not released
├── UnknownKey            retriable=False   a key id that this keystore never held
├── HomeUnusable          retriable=False   wrong, foreign or locked home
├── StoreFull             retriable=True    no space left on a device
├── StoreUnfit            retriable=True    a local store must not be folded over: wiped and restored
│   └── StoreCorrupt                        its own files are damaged
├── ChangelogLost         retriable=True    a pass's state is not whole in its topics: built again
├── LogUnavailable        retriable=True    broker or log file cannot be reached
├── LedgerRewound         retriable=False   the log ends below, or differs at, a known position
├── LedgerTruncated       retriable=False   records were deleted that a pass has not folded
├── Fenced                retriable=False   another owner took over
├── BuildRefused          retriable=False   this build must not run a pass: a newer one may
│   ├── ProcessorChanged                    it is not what its rows were folded by
│   └── ProcessorMoved                      it runs in another pass now
├── NotCaughtUp           retriable=True    the views did not pass an offset in time
├── UnsafeSettings        retriable=False   a client or its host would lose or double records
└── InvariantViolation    retriable=False   a promise of this program was broken
"""

from privacy_ledger.domain.refusals import Refusal

__all__ = [
    "BadInput",
    "BuildRefused",
    "ChangelogLost",
    "Fenced",
    "HomeUnusable",
    "InvariantViolation",
    "KekMissing",
    "KeyUnavailable",
    "KeyWithheld",
    "KeystoreReplaced",
    "LedgerError",
    "LedgerRewound",
    "LedgerTruncated",
    "LogUnavailable",
    "NotCaughtUp",
    "ProcessorChanged",
    "ProcessorMoved",
    "RefusedByPolicy",
    "SchemaMismatch",
    "StoreCorrupt",
    "StoreFull",
    "StoreUnfit",
    "UnknownKey",
    "UnsafeSettings",
]


class LedgerError(Exception):
    """The root: `str(error)` is one plain sentence and the next step, free of personal values."""

    retriable: bool = False

    @property
    def outcome(self) -> str:
        """The name of what happened, in two or three words, for logs and readiness."""
        return "".join(f" {c.lower()}" if c.isupper() else c for c in type(self).__name__).strip()


class BadInput(LedgerError):
    """Bytes or arguments that cannot be used."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        """Keep the reason code beside the message."""
        super().__init__(message)
        self.refusal = refusal


class SchemaMismatch(BadInput):
    """Bytes that are not the event they claim to be; carries the path, never the value."""

    def __init__(self, *, event_type: str, path: str, expected: str = "") -> None:
        """Name the event type, the path in it and the type expected there."""
        self.event_type = event_type
        self.path = path
        self.expected = expected
        wanted = f" (expected {expected})" if expected else ""
        super().__init__(
            Refusal.SCHEMA_MISMATCH,
            f"{event_type} does not match its schema at {path}{wanted}. "
            "Send the record to quarantine, or publish a new version.",
        )


class RefusedByPolicy(LedgerError):
    """A rule of the policy says no; `refusal` is the reason code."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        """Keep the reason code beside the message."""
        super().__init__(message)
        self.refusal = refusal


class KeyUnavailable(LedgerError):
    """The keystore or a key-encryption key cannot be reached: stop, keep the position, retry."""

    retriable = True


class KekMissing(KeyUnavailable):
    """The key-encryption key of an epoch is not there; None: there is none at all.

    Waiting brings no file back. One that another process destroys, just after it has wrapped what is in
    use anew, is missed once, by who has read a key before that: who asks again gets it.
    """

    retriable = False

    def __init__(self, message: str, *, epoch: int | None) -> None:
        """Keep the number of the epoch beside the message."""
        super().__init__(message)
        self.epoch = epoch


class KeystoreReplaced(KeyUnavailable):
    """The keystore's file was exchanged or removed under this process, which must open it anew."""

    retriable = False


class KeyWithheld(LedgerError):
    """A key is not released to this role for this purpose; nothing was made and nothing opened."""

    def __init__(self, *, role: str, purpose: str, category: str) -> None:
        """Name the role, the purpose that it declared, and the category or kind of the key."""
        self.role = role
        self.purpose = purpose
        self.category = category
        super().__init__(
            f"No key of {category} is released to the role {role} for {purpose}. "
            "What a role needs is declared in privacy_ledger.domain.key_release, and for a pass by its steps."
        )


class UnknownKey(LedgerError):
    """A record names a key that this keystore never held: park and alarm."""


class HomeUnusable(LedgerError):
    """The home is missing, foreign, of another version, or held by another process."""


class StoreFull(LedgerError):
    """A device has no space left; nothing was acknowledged that is not durable."""

    retriable = True


class StoreUnfit(LedgerError):
    """A local store must not be folded over; it is only a cache, so it is wiped and filled again."""

    retriable = True

    def __init__(self, how: str, message: str) -> None:
        """Keep the one word that names the outcome beside the message."""
        super().__init__(message)
        self.how = how

    @property
    def outcome(self) -> str:
        """`store stale`, `store foreign` and so on."""
        return f"store {self.how}"


class StoreCorrupt(StoreUnfit):
    """A local store cannot be read as it was written."""

    def __init__(self, message: str) -> None:
        """Take the message."""
        super().__init__("corrupt", message)


class ChangelogLost(LedgerError):
    """The state of a pass is not whole in its topics; it is built again from the ledger."""

    retriable = True

    def __init__(self, how: str, *, topic: str, partition: int, message: str) -> None:
        """Keep the one word that names the outcome; say where, what, and what happens now."""
        super().__init__(
            f"{topic} partition {partition} {message} The pass's state is built again from the ledger; "
            "look at the topic's settings with `privacy-ledger topics plan`."
        )
        self.how = how
        self.topic = topic

    @property
    def outcome(self) -> str:
        """`changelog truncated`, `changelog shortened` and so on."""
        return f"changelog {self.how}"


class LogUnavailable(LedgerError):
    """The broker or the log file cannot be reached."""

    retriable = True


class LedgerRewound(LedgerError):
    """The log ends below a known position or holds another record there: stop the partition."""


class LedgerTruncated(LedgerError):
    """Records of the ledger were deleted that a pass has not folded: nothing can stand for them."""


class Fenced(LedgerError):
    """Another owner of this pass and partition took over; this one must not write again."""


class BuildRefused(LedgerError):
    """This build must not run a pass: the worker ends, so that one with another build may."""


class ProcessorChanged(BuildRefused):
    """A processor's declaration is not the one that its rows were folded by."""

    def __init__(self, *, processor: str, runs_in: str, partition: int, how: str) -> None:
        """Name the processor, where it runs, and what differs."""
        self.processor = processor
        super().__init__(
            f"The processor {processor} of the pass {runs_in} (partition {partition}) has {how}: "
            "its rows would mix two projections. Put the earlier declaration back, or declare the next "
            f"version and build it beside with `privacy-ledger replay build {processor}`."
        )


class ProcessorMoved(BuildRefused):
    """A processor runs in another pass than this build says; its view has one writer."""

    def __init__(self, *, processor: str, runs_in: str, partition: int, to: str) -> None:
        """Name the processor, where this build runs it, and where it is now."""
        self.processor = processor
        super().__init__(
            f"The processor {processor} moved from {runs_in} to the pass {to} (partition {partition}), "
            "and this build does not know of it. Nothing was written. Start a worker of the build that "
            "moved it (`privacy-ledger worker run`); in a build of your own, name the passes that it "
            "comes from in `moved_from`."
        )


class NotCaughtUp(LedgerError):
    """The views did not pass an appended offset in time; the record itself is durable."""

    retriable = True


class UnsafeSettings(LedgerError):
    """A setting of a Kafka client, or of its host, that would lose, double or hide records."""

    def __init__(self, *, client: str, setting: str, value: object, otherwise: str) -> None:
        """Name the client, the setting, its value and what it would do."""
        self.client = client
        self.setting = setting
        found = "not set" if value is None else f"{value}"
        super().__init__(
            f"The {client}'s setting {setting} is {found}: {otherwise}. "
            "Set it back to the value in the code, and start again."
        )


class InvariantViolation(LedgerError):
    """A promise of this program was broken; never caught as a business outcome."""
