"""What retention did for one person: what is due, how it is gone, and what keeps the rest.

Two ends are told apart. *Key destroyed*: all that a key sealed is due, so the key is gone, and with it
every copy. *Bytes gone*: the record is removed and goes with compaction; its key still seals what is not
due. A statement is made when it is asked for, and only then becomes a leaf of the audit log.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal

from msgspec import Struct, structs

from privacy_ledger.app import _receipt
from privacy_ledger.app.audit import AuditLog, Proof
from privacy_ledger.app.expiry_care import ExpiryCare
from privacy_ledger.app.retention import KeptItem
from privacy_ledger.domain.errors import InvariantViolation, RefusedByPolicy
from privacy_ledger.domain.expiry import Hindrance
from privacy_ledger.domain.holds import held_categories
from privacy_ledger.domain.key_release import Kind
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.rules import Rules
from privacy_ledger.domain.values import Category, SubjectRef, month_of, partition_of, start_of
from privacy_ledger.ports.keys import KeyGeneration, KeyVault, KeyWant
from privacy_ledger.ports.passes import Views
from privacy_ledger.ports.runtime import Clock
from privacy_ledger.streams.states import PERMISSIONS, IndexRow

__all__ = ["ARTICLE", "DueItem", "Evidence", "RetentionReceipt", "RetentionStatus", "Statements", "item_text"]

ARTICLE: Final = "GDPR Art. 5(1)(e); privacy policy: what is kept no longer than its purpose needs"
"""The ground on which retention removes."""
_REQUEST: Final = bytes(16).hex()
"""Nobody asked for it: the commitment of such a receipt is to the reference alone."""
_WHY: Final = {
    Hindrance.LAGGING: "not every pass has come so far",
    Hindrance.UNKNOWN: "no view knows the person",
    Hindrance.ENDED: "the person's erasure destroys it",
    Hindrance.RESTRICTED: "retention is frozen while processing is restricted (GDPR Art. 18)",
    Hindrance.HELD: "a hold keeps it (GDPR Art. 17(3))",
    Hindrance.WAITING: "a pass holds the person up, or a record of theirs waits",
    Hindrance.LIVE: "a record under it is still live",
}

_NEXT: Final = "the next daily care destroys it"

Outcome = Literal["key destroyed", "bytes gone", "kept"]


class DueItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is due of one category, and how it is gone; what occurred from `until` on is not due.

    `keys`: that were destroyed, the last one at `at`; that still seal what is not due; or that stay
    though all under them is due, as `records` do, for the reason `why`.
    """

    category: Category
    until: datetime
    outcome: Outcome
    keys: int = 0
    records: int = 0
    at: datetime | None = None
    why: str = ""


class RetentionStatus(Struct, frozen=True, kw_only=True):
    """What retention did for the references of a person, up to the tick `as_of`.

    `held`: what each hold keeps, whether it is due or not. `as_of` None: there was no tick yet.
    """

    as_of: datetime | None
    ground: str
    due: tuple[DueItem, ...]
    held: tuple[KeptItem, ...]


class RetentionReceipt(Struct, frozen=True, kw_only=True):
    """The statement as the person gets it; its members are those of an erasure's receipt where they fit.

    `keys`: salted hashes of the ids of the keys that retention destroyed; `commitment` as there, for no
    request. The same state gives the same receipt.
    """

    receipt: str
    version: int = 1
    scope: str = "what is past its retention"
    article: str = ARTICLE
    commitment: str
    salt: str
    cause: str = "retention"
    as_of: datetime
    due: tuple[DueItem, ...]
    keys: tuple[str, ...]
    retained: tuple[KeptItem, ...] = ()
    stores: tuple[str, ...] = ()
    not_reached: tuple[str, ...] = _receipt.NOT_REACHED
    later: tuple[str, ...] = (
        (
            "bytes gone: removed from the views at the tick, from the ledger by compaction within 25 hours "
            "and the cleaner's time"
        ),
        (
            "key destroyed: keystore copies and backups are final within 8 days, when the epochs of their "
            "keys are destroyed"
        ),
    )
    build: str


class Evidence(Struct, frozen=True, kw_only=True):
    """A receipt's bytes, its leaf in hex, and the proof that the leaf is in the audit log."""

    receipt: bytes
    leaf: str
    proof: Proof


class Statements:
    """Says what retention did for a person, and gives receipts of it."""

    def __init__(
        self,
        *,
        vault: KeyVault,
        views: Views,
        care: ExpiryCare,
        rules: Rules,
        audit: AuditLog,
        clock: Clock,
        partitions: int,
        build: str,
    ) -> None:
        """Take the ports; `vault` is released the keys that receipts are salted with."""
        self._vault = vault
        self._views = views
        self._care = care
        self._rules = rules
        self._audit = audit
        self._clock = clock
        self._partitions = partitions
        self._build = build

    async def status(self, refs: Sequence[SubjectRef]) -> RetentionStatus:
        """Return what is due of these references of one person, and how it is gone."""
        found = [await self._status(ref) for ref in refs]
        ticks = [one.as_of for one in found if one.as_of is not None]
        return RetentionStatus(
            as_of=min(ticks, default=None),
            ground=ARTICLE,
            due=_merged(item for one in found for item in one.due),
            held=tuple(dict.fromkeys(item for one in found for item in one.held)),
        )

    async def _status(self, ref: SubjectRef) -> RetentionStatus:
        tick = (await self._views.meta(partition_of(ref, self._partitions))).last_tick
        permissions = await self._views.get(PERMISSIONS, ref) or Permissions()
        live = await self._views.live(ref)
        held = tuple(
            KeptItem(
                category=hold.category, ground=hold.ground, until=hold.until,
                records=sum(row.category is hold.category for row in live),
            )
            for hold in permissions.holds
        )  # fmt: skip
        if tick is None:
            return RetentionStatus(as_of=None, ground=ARTICLE, due=(), held=held)
        judged = dict(await self._care.of(ref))
        keys: dict[Category, list[KeyGeneration]] = {}
        for key in self._vault.keys_of(ref):
            keys.setdefault(key.category, []).append(key)
        due: list[DueItem] = []
        for category, mine in sorted(keys.items()):
            months = self._rules.retention_months(category)
            if self._rules.category(category) is None or months is None:
                continue
            first = month_of(tick) - months
            rows = [row for row in live if row.category is category and row.month < first]
            due += _items(
                category, mine, until=start_of(first), rows=rows, judged=judged, permissions=permissions
            )
        return RetentionStatus(as_of=tick, ground=ARTICLE, due=tuple(due), held=held)

    async def receipt(self, ref: SubjectRef) -> Evidence:
        """Return the receipt of one reference, and put its leaf into the audit log, once.

        It is made from a key of the person's own: it goes with the person, and the receipt then says
        nothing to anybody else.

        Raises:
            RefusedByPolicy: nothing of it is due yet, or the person was erased.
            Fenced: others appended to the audit log again and again; ask again.
        """
        status = await self._status(ref)
        if status.as_of is None or not status.due:
            raise RefusedByPolicy(
                Refusal.RECEIPT_UNKNOWN,
                "Nothing of this person is due: there is nothing to give a receipt of. "
                "See `privacy-ledger retention status SUBJECT`.",
            )
        (key,) = self._vault.sealing_keys((KeyWant(ref, Kind.RECEIPT, 0),), now=self._clock.now())
        salt = _receipt.salt_of(key)
        gone = [key.kid.hex() for key in self._vault.keys_of(ref) if key.is_expired]
        made = RetentionReceipt(
            receipt="",
            commitment=_receipt.commitment(salt, ref=ref, request=_REQUEST),
            salt=salt.hex(),
            as_of=start_of(month_of(status.as_of)),  # periods are whole months: the same all month long
            due=status.due,
            keys=_receipt.salted(salt, gone),
            retained=status.held,
            build=self._build,
        )
        name = _receipt.leaf_hash(_receipt.canonical(made))[:32]
        document = _receipt.canonical(structs.replace(made, receipt=name))
        leaf = _receipt.leaf_hash(document)
        await self._audit.append(bytes.fromhex(leaf))
        proof = await self._audit.prove(bytes.fromhex(leaf))
        if proof is None:
            raise InvariantViolation("The audit log does not hold a leaf that was just appended to it.")
        return Evidence(receipt=document, leaf=leaf, proof=proof)


class _Found(Struct, frozen=True):
    outcome: Outcome
    keys: int = 0
    records: int = 0
    at: datetime | None = None
    why: str = ""


def _items(
    category: Category,
    keys: Sequence[KeyGeneration],
    *,
    until: datetime,
    rows: Sequence[IndexRow],
    judged: Mapping[KeyGeneration, Hindrance | None],
    permissions: Permissions,
) -> list[DueItem]:
    """Return what is due of one category: what is gone first, then what stays."""
    gone = [key.destroyed_at for key in keys if key.is_expired and key.destroyed_at is not None]
    young = sum(key.destroyed_at is None and key not in judged for key in keys)
    begins_at = permissions.not_before
    found = [_Found("key destroyed", keys=len(gone), at=max(gone))] if gone else []
    if young and not rows and (begins_at is None or begins_at < until):
        found.append(_Found("bytes gone", keys=young))
    reasons = Counter(judged[key] for key in keys if key in judged)
    if rows:  # due by the month, and live: whatever its key says
        found.append(_Found("kept", records=len(rows), why=_WHY[_reason(category, permissions)]))
    found += [
        _Found("kept", keys=count, why=_NEXT if reason is None else _WHY[reason])
        for reason, count in reasons.items()
    ]
    return [
        DueItem(
            category=category, until=until, outcome=one.outcome, keys=one.keys, records=one.records,
            at=one.at, why=one.why,
        )
        for one in found
    ]  # fmt: skip


def _reason(category: Category, permissions: Permissions) -> Hindrance:
    """Return why records that are due are live though their key is not wholly due."""
    if permissions.is_restricted:
        return Hindrance.RESTRICTED
    is_held = category in held_categories(permissions.holds)
    return Hindrance.HELD if is_held or permissions.overdue else Hindrance.WAITING


def _merged(items: Iterable[DueItem]) -> tuple[DueItem, ...]:
    """Return the items of all references of a person, one for each category, end and reason."""
    found: dict[tuple[Category, Outcome, str], DueItem] = {}
    for item in items:
        name = (item.category, item.outcome, item.why)
        known = found.get(name)
        found[name] = item if known is None else structs.replace(
            known, keys=known.keys + item.keys, records=known.records + item.records,
            at=max((at for at in (known.at, item.at) if at is not None), default=None),
        )  # fmt: skip
    return tuple(sorted(found.values(), key=lambda item: (item.category, item.outcome, item.why)))


def item_text(item: DueItem) -> str:
    """Return one item as a line for people."""
    what = f"{item.category}, what occurred before {item.until:%Y-%m}: {item.outcome}"
    if item.outcome == "key destroyed":
        return f"{what} ({item.keys:,}, the last on {item.at:%Y-%m-%d})"
    if item.outcome == "bytes gone":
        return f"{what}; {item.keys:,} of its keys still seal what is not due"
    counts = [f"{item.records:,} records"] if item.records else []
    counts += [f"{item.keys:,} keys"] if item.keys else []
    return f"{what} ({', '.join(counts)}): {item.why}"
