"""The audit log: a Merkle tree of receipts that anyone can check and nobody can rewrite unseen.

Its topic holds leaf hashes and signed checkpoints, and no personal data. A leaf and the checkpoint
that covers it are one transaction of one fenced writer: a crash leaves the old checkpoint or the
new one, never two branches (RFC 9162; C2SP tlog-checkpoint).
"""

from typing import Final

from msgspec import Struct

from privacy_ledger.domain.checkpoint import (
    Checkpoint,
    Signature,
    key_id,
    parse_note,
    signed_note,
    verifier_key,
)
from privacy_ledger.domain.errors import Fenced, InvariantViolation
from privacy_ledger.domain.merkle import HASH_BYTES, MerkleTree
from privacy_ledger.domain.topics import AUDIT_LEAVES
from privacy_ledger.ports.audit import Signer
from privacy_ledger.ports.log import EventLog, NewRecord, Row

__all__ = ["AuditLog", "AuditReport", "Proof"]

_WRITER: Final = "audit-leaves"
_INDEX_BYTES: Final = 8
_CHECKPOINT_KEY: Final = b"checkpoint"
_PAGE: Final = 1000
_ATTEMPTS: Final = 5


class Proof(Struct, frozen=True, kw_only=True):
    """That a leaf is in the log: its index, the audit path in hex, and the signed checkpoint."""

    index: int
    path: tuple[str, ...]
    checkpoint: str
    verifier_key: str


class AuditReport(Struct, frozen=True, kw_only=True):
    """What a reading of the whole log found; `faults` names offsets and rules, nothing else."""

    leaves: int
    checkpoints: int
    root: str
    faults: tuple[str, ...]


class AuditLog:
    """Appends leaves and proves them; one reader may keep it and look again."""

    def __init__(self, log: EventLog, signer: Signer) -> None:
        """Take the log and the signing key; nothing is read yet."""
        self._log = log
        self._signer = signer
        self._forget()

    @property
    def verifier_key(self) -> str:
        """The public key as it is published (C2SP signed-note)."""
        return verifier_key(self._signer.name, self._signer.public)

    async def append(self, leaf: bytes) -> int:
        """Append a leaf hash, once, and return its index; asking again returns the same.

        Raises:
            Fenced: others appended at the same time, again and again; nothing was appended.
        """
        for _ in range(_ATTEMPTS):
            # Fences whoever else is between reading the last leaf and writing the next.
            await self._log.open_writer(_WRITER)
            await self._refresh()
            known = self._index_of.get(leaf)
            if known is not None and self._note is not None and self._covered > known:
                return known
            writes: list[NewRecord] = []
            index = known
            if index is None:
                index = self._tree.append(leaf)
                writes.append(NewRecord(0, index.to_bytes(_INDEX_BYTES, "big"), leaf))
            writes.append(NewRecord(0, _CHECKPOINT_KEY, self._signed().encode()))
            try:
                await self._log.append_atomically(
                    tuple((AUDIT_LEAVES, record) for record in writes), writer=_WRITER
                )
            except Fenced:
                self._forget()  # what was appended in memory only is not there
                continue
            except BaseException:
                self._forget()
                raise
            self._forget()
            return index
        raise Fenced("Others write the audit log at the same time, again and again. Run the command again.")

    async def prove(self, leaf: bytes) -> Proof | None:
        """Return the proof that a leaf is in the log under the newest checkpoint, or None."""
        await self._refresh()
        index = self._index_of.get(leaf)
        if index is None or self._note is None or index >= self._covered:
            return None
        path = self._tree.inclusion(index, self._covered)
        return Proof(
            index=index, path=tuple(part.hex() for part in path), checkpoint=self._note,
            verifier_key=self.verifier_key,
        )  # fmt: skip

    async def checkpoint(self) -> str | None:
        """Return the newest signed checkpoint, or None when nothing was ever appended."""
        await self._refresh()
        return self._note

    async def consistency(self, first: int) -> tuple[str, ...]:
        """Return the proof, in hex, that the newest checkpoint's log begins with `first` leaves.

        Raises:
            ValueError: there is no such beginning.
        """
        await self._refresh()
        return tuple(part.hex() for part in self._tree.consistency(first, self._covered))

    async def verify(self) -> AuditReport:
        """Read the log from its beginning and check every index, signature, root and growth."""
        faults: list[str] = []
        tree = MerkleTree()
        checkpoints, after, covered = 0, -1, 0
        while rows := await self._log.read(AUDIT_LEAVES, 0, after=after, limit=_PAGE):
            after = rows[-1].offset
            for row in rows:
                if row.key == _CHECKPOINT_KEY:
                    checkpoints += 1
                    covered = self._check(row, tree, covered, faults)
                elif _is_leaf(row) and int.from_bytes(row.key, "big") == len(tree):
                    tree.append(row.value or b"")
                else:
                    faults.append(f"offset {row.offset}: not the leaf that comes next")
        if covered < len(tree):
            faults.append(f"the leaves from {covered} on are under no checkpoint")
        return AuditReport(
            leaves=len(tree), checkpoints=checkpoints, root=tree.root().hex(), faults=tuple(faults)
        )

    def _check(self, row: Row, tree: MerkleTree, covered: int, faults: list[str]) -> int:
        """Check one checkpoint; return how many leaves are covered now."""
        where = f"offset {row.offset}"
        try:
            note = parse_note((row.value or b"").decode())
        except ValueError:
            faults.append(f"{where}: no signed checkpoint")
            return covered
        said = note.checkpoint
        ours = key_id(self._signer.name, self._signer.public)
        if not any(
            one.key_id == ours and self._signer.is_signed(note.body.encode(), one.signature)
            for one in note.signatures
        ):
            faults.append(f"{where}: not signed by this log's key")
        if said.origin != self._signer.name:
            faults.append(f"{where}: of another log")
        if said.size < covered:
            faults.append(f"{where}: smaller than the checkpoint before")
        elif said.size > len(tree) or tree.root(said.size) != said.root:
            faults.append(f"{where}: the root is not that of the leaves")
        else:
            return said.size
        return covered

    # What was read ---------------------------------------------------------------------------

    def _forget(self) -> None:
        self._tree = MerkleTree()
        self._index_of: dict[bytes, int] = {}
        self._note: str | None = None
        self._covered = 0
        self._after = -1

    async def _refresh(self) -> None:
        """Read what was appended since the last look.

        Raises:
            InvariantViolation: the log is not a sequence of leaves, or its last root is not theirs.
        """
        while rows := await self._log.read(AUDIT_LEAVES, 0, after=self._after, limit=_PAGE):
            for row in rows:
                if row.key == _CHECKPOINT_KEY:
                    self._note = (row.value or b"").decode()
                elif _is_leaf(row) and int.from_bytes(row.key, "big") == len(self._tree):
                    self._index_of.setdefault(row.value or b"", self._tree.append(row.value or b""))
                else:
                    raise _broken(row.offset)
            self._after = rows[-1].offset
        if self._note is not None:
            said = parse_note(self._note).checkpoint
            if said.size > len(self._tree) or self._tree.root(said.size) != said.root:
                raise _broken(self._after)
            self._covered = said.size

    def _signed(self) -> str:
        checkpoint = Checkpoint(origin=self._signer.name, size=len(self._tree), root=self._tree.root())
        signature = Signature(
            name=self._signer.name,
            key_id=key_id(self._signer.name, self._signer.public),
            signature=self._signer.sign(checkpoint.body().encode()),
        )
        return signed_note(checkpoint, signature)


def _is_leaf(row: Row) -> bool:
    return len(row.key) == _INDEX_BYTES and row.value is not None and len(row.value) == HASH_BYTES


def _broken(offset: int) -> InvariantViolation:
    return InvariantViolation(
        f"The audit log is damaged at or before offset {offset}: nothing is appended to it. "
        "Look with `privacy-ledger audit verify`, and keep the topic as it is."
    )
