"""Control facts about one subject, and control records for all partitions.

Both hold ids, enums and times only; neither is sealed, and neither is ever tombstoned: the fence
must outlive the shred.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from privacy_ledger.domain.values import Category, UtcTime

__all__ = [
    "ControlFact",
    "ControlRecord",
    "ErasureCompleted",
    "ErasureFinal",
    "ErasureIncomplete",
    "ErasureRequested",
    "ErasureRetained",
    "FieldErasureRequested",
    "HoldLifted",
    "HoldPlaced",
    "MinorStatusDeclared",
    "RecordDiscarded",
    "RecordsSuperseded",
    "RestrictionLifted",
    "RestrictionStarted",
    "RetainedCategory",
    "RulesAdopted",
    "SubjectRegistered",
    "SubjectReopened",
    "Tick",
    "TimeConfirmed",
    "VersionSwitched",
    "WindowOpened",
    "WindowSealed",
]

RequestId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
RefHex = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Ground = Literal["accuracy", "unlawful", "claims", "objection"]
HoldGround = Literal["legal_obligation", "legal_claims"]
"""GDPR Art. 17(3)(b) and 17(3)(e): what may keep personal data from being erased."""


class ControlFact(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """A fact about one subject that decides what may be done; `request` makes it idempotent."""

    request: RequestId
    occurred_at: UtcTime


class SubjectRegistered(ControlFact, frozen=True, kw_only=True, tag="subject.registered.v1"):
    """A reference was minted; events before `not_before` are refused (`before_subject`)."""

    not_before: UtcTime


class SubjectReopened(ControlFact, frozen=True, kw_only=True, tag="subject.reopened.v1"):
    """An erased person came back by an authenticated return, under this new reference."""


class RestrictionStarted(ControlFact, frozen=True, kw_only=True, tag="restriction.started.v1"):
    """Processing was restricted on a ground of GDPR Art. 18(1)."""

    ground: Ground


class RestrictionLifted(ControlFact, frozen=True, kw_only=True, tag="restriction.lifted.v1"):
    """All restrictions were lifted; the person was told before (GDPR Art. 18(3))."""

    notified_at: UtcTime


class ErasureRequested(ControlFact, frozen=True, kw_only=True, tag="erasure.requested.v1"):
    """Erasure was requested (GDPR Art. 17): of the person, or of one category or purpose."""

    scope: Literal["person", "category", "purpose"] = "person"
    category: Category | None = None
    purpose: Annotated[str, Meta(max_length=255)] | None = None
    cause: Literal["request", "retention", "restore"] = "request"


class FieldErasureRequested(ControlFact, frozen=True, kw_only=True, tag="erasure.field_requested.v1"):
    """Erasure of one optional profile field was requested, or the field was cleared (policy P4).

    `field` is its name under the subject's index key, as the records that set it have it. What
    occurred up to `occurred_at` is refused from here on.
    """

    field: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


class RetainedCategory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A category that an erasure left, why (GDPR Art. 17(3)), and until when where that is known."""

    category: Category
    ground: HoldGround
    until: UtcTime | None = None


class ErasureRetained(ControlFact, frozen=True, kw_only=True, tag="erasure.retained.v1"):
    """All of a person is erased but what the law keeps; it goes by itself when that ends.

    `receipt` names the leaf of the receipt that itemises it.
    """

    receipt: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    kept: tuple[RetainedCategory, ...]


class HoldPlaced(ControlFact, frozen=True, kw_only=True, tag="hold.placed.v1"):
    """One category of the subject is kept, whoever asks, until the hold is lifted or over.

    It is over at the first `Tick` that is not before `until`.
    """

    category: Category
    ground: HoldGround
    until: UtcTime | None = None


class HoldLifted(ControlFact, frozen=True, kw_only=True, tag="hold.lifted.v1"):
    """A hold was lifted; what it put off takes effect. `hold`: the request id of the placed one."""

    hold: RequestId


class ErasureCompleted(ControlFact, frozen=True, kw_only=True, tag="erasure.completed.v1"):
    """Every store of an erasure was verified; `receipt` names the leaf."""

    receipt: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class ErasureIncomplete(ControlFact, frozen=True, kw_only=True, tag="erasure.incomplete.v1"):
    """An erasure could not reach every store; it is resumed."""

    open_steps: tuple[Annotated[str, Meta(max_length=64)], ...]


class ErasureFinal(ControlFact, frozen=True, kw_only=True, tag="erasure.final.v1"):
    """No copy of a key of a completed erasure opens any more: every epoch up to `epoch` is destroyed.

    The keys that wrapped the person's keys are gone, and with them what backups, standbys and disk
    blocks kept.
    """

    epoch: Annotated[int, Meta(ge=0)]


class MinorStatusDeclared(ControlFact, frozen=True, kw_only=True, tag="minor.status_declared.v1"):
    """The subject was declared a minor or of age; `is_approved` = a guardian consented."""

    is_minor: bool
    is_approved: bool = False


class RecordDiscarded(ControlFact, frozen=True, kw_only=True, tag="record.discarded.v1"):
    """An operator discarded one parked record of this subject; a rebuild must see it."""

    record: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]


class RecordsSuperseded(ControlFact, frozen=True, kw_only=True, tag="records.superseded.v1"):
    """These records of one category were rectified (GDPR Art. 16): what holds of them was stated again.

    The new records follow in the same transaction, each in the place of its original.
    """

    category: Category
    records: Annotated[tuple[Annotated[str, Meta(pattern="^[0-9a-f]{32}$")], ...], Meta(max_length=5000)]


class ControlRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """A record that every partition carries, written by the registrar in one transaction."""

    at: UtcTime


class Tick(ControlRecord, frozen=True, kw_only=True, tag="tick.v1"):
    """The time that retention and lateness count on."""


class TimeConfirmed(ControlRecord, frozen=True, kw_only=True, tag="time.confirmed.v1"):
    """An operator confirmed a jump of more than forty days between two ticks."""


class RulesAdopted(ControlRecord, frozen=True, kw_only=True, tag="rules.adopted.v1"):
    """The registry up to and including this offset is in force from here on."""

    registry_offset: Annotated[int, Meta(ge=0)]
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class WindowOpened(ControlRecord, frozen=True, kw_only=True, tag="window.opened.v1"):
    """A window of an analytics product takes contributions for these catalogue cells."""

    product: Annotated[str, Meta(max_length=64)]
    window: Annotated[str, Meta(max_length=32)]
    policy: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    keyset: tuple[Annotated[str, Meta(max_length=255)], ...]


class WindowSealed(ControlRecord, frozen=True, kw_only=True, tag="window.sealed.v1"):
    """A window is final: its offset in each partition is the cut; `is_early` says: by command."""

    product: Annotated[str, Meta(max_length=64)]
    window: Annotated[str, Meta(max_length=32)]
    policy: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    keyset: tuple[Annotated[str, Meta(max_length=255)], ...]
    release: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    is_early: bool = False
    was_opened: bool = True


class VersionSwitched(ControlRecord, frozen=True, kw_only=True, tag="version.switched.v1"):
    """From here on this version of a projection speaks."""

    projection: Annotated[str, Meta(max_length=64)]
    version: Annotated[int, Meta(ge=1)]
