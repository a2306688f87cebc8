"""States as bytes: canonical msgpack, sealed per subject where they hold values of a person.

First byte 0: plain (ids, enums, counts). First byte 1: the envelope of `envelope`. The fence of
an ended person is plain: it must outlive the shred.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, TypeVar, cast

import msgspec

from privacy_ledger.adapters import envelope
from privacy_ledger.domain.errors import InvariantViolation, KeyWithheld, RefusedByPolicy
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.topics import state_topic, view_topic
from privacy_ledger.domain.values import REF_BYTES, SubjectRef
from privacy_ledger.ports.codec import Partial
from privacy_ledger.ports.keys import DataKey, KeyVault, KeyWant, Withheld
from privacy_ledger.ports.log import NewRecord, Row
from privacy_ledger.ports.runtime import Clock
from privacy_ledger.streams.protocol import Emit
from privacy_ledger.streams.states import Changes, Table

__all__ = ["PassStateCodec", "ViewKeys", "table_group", "view_group"]

T = TypeVar("T")
_PLAIN: Final = b"\0"
_WINDOW_GROUP: Final = "window"
_PARTIALS: Final = "analytics.partials.v1"


def view_group(table: Table[T]) -> str:
    """Return the key group of a view or of a pass's per-subject states: it names the version."""
    return f"view:{table.name}.v{table.version}"


def table_group(pass_name: str, table: Table[T]) -> str:
    """Return the key group that seals a table in a pass."""
    return view_group(table) if table.sealing == "view" else f"state:{pass_name}"


class PassStateCodec:
    """The states of one pass; `publishes` lists the tables that go to their public view."""

    def __init__(self, pass_name: str, vault: KeyVault, *, publishes: frozenset[str]) -> None:
        """Take the keystore and the pass's declaration."""
        self._pass = pass_name
        self._vault = vault
        self._publishes = publishes
        self._encode = msgspec.msgpack.Encoder().encode
        self._decoders: dict[str, msgspec.msgpack.Decoder[object]] = {}
        self._topics: dict[str, str] = {}

    def topic(self, table: Table[T]) -> str:
        """Return the view's topic where this pass publishes the table, else the pass's own."""
        known = self._topics.get(table.name)
        if known is None:
            public = table.view is not None and table.name in self._publishes
            known = view_topic(table.view or "", table.version) if public else state_topic(self._pass)
            self._topics[table.name] = known
        return known

    def routes(self, tables: Iterable[Table[T]]) -> dict[bytes, tuple[str, bool]]:
        """Return, by code, where each table's states lie, and whether their keys carry the code."""
        own = state_topic(self._pass)
        return {table.code: (self.topic(table), self.topic(table) == own) for table in tables}

    def changelogs(self, tables: Iterable[Table[T]]) -> dict[str, bytes]:
        """Return the topics that these tables lie in, and the table code that their keys lack."""
        lacking = {topic: code for code, (topic, keeps) in self.routes(tables).items() if not keeps}
        return {state_topic(self._pass): b"", **lacking}

    def changelog_key(self, table: Table[T], key: bytes) -> bytes:
        """Return the key as it stands in a view, with the table's code in a private changelog."""
        if table.view is not None and table.name in self._publishes:
            return key
        return table.code + key

    def group(self, table: Table[T]) -> str:
        """Return the key group that seals a table in this pass."""
        return table_group(self._pass, table)

    def unused_generation(self, table: Table[T]) -> int:
        """Return the first generation that no key of the table's group has reached, for anybody."""
        return self._vault.unused_generation(self.group(table))

    def seal(
        self, changes: Sequence[Changes], *, generation: Callable[[bytes], int], now: datetime
    ) -> list[list[bytes | None]]:
        """Return the sealed values, per table and in order; a value of an ended person is dropped."""
        encode = self._encode
        wants: list[dict[bytes, KeyWant]] = []
        for one in changes:
            table, values = one.table, one.values
            if table.sealing == "plain":
                wants.append({})
                continue
            group = self.group(table)
            is_view = table.sealing == "view"
            wants.append({
                key: KeyWant(ref := SubjectRef(key[:REF_BYTES]), group, generation(ref) if is_view else 0)
                for key, value in values.items()
                if value is not None and not _is_fence(value)
            })  # fmt: skip
        keys = self._keys(tuple(dict.fromkeys(w for some in wants for w in some.values())), now=now)
        return [
            [None if value is None else _PLAIN + encode(value) for value in one.values.values()]
            if one.table.sealing == "plain"
            else self._sealed(one, some, keys)
            for one, some in zip(changes, wants, strict=True)
        ]

    def _sealed(
        self, changes: Changes, wants: dict[bytes, KeyWant], keys: dict[KeyWant, DataKey]
    ) -> list[bytes | None]:
        """Return the values of one table, each under its subject's key; a fence stays plain."""
        encode, seal, table = self._encode, envelope.seal, changes.table
        topic = self.topic(table)
        sealed: list[bytes | None] = []
        for key, value in changes.values.items():
            want = wants.get(key)
            if want is None:
                sealed.append(None if value is None else _PLAIN + encode(value))
                continue
            data_key = keys.get(want)
            if data_key is None:
                sealed.append(None)
                continue
            bound = envelope.aad_of(topic, self.changelog_key(table, key), (), ())
            sealed.append(seal(data_key, encode(value), bound))
        return sealed

    def _keys(self, wants: tuple[KeyWant, ...], *, now: datetime) -> dict[KeyWant, DataKey]:
        """Return the keys that exist or may be made; those of ended persons are left out."""
        if not wants:
            return {}
        try:
            return dict(zip(wants, self._vault.sealing_keys(wants, now=now), strict=True))
        except (RefusedByPolicy, InvariantViolation):
            found: dict[KeyWant, DataKey] = {}
            for want in wants:
                try:
                    (found[want],) = self._vault.sealing_keys((want,), now=now)
                except RefusedByPolicy:
                    continue
                except InvariantViolation:
                    # A pass that begins anew counts generations anew: the number is spent, so
                    # the state takes the next one. Its key id says under which it lies.
                    (found[want],) = self._vault.fresh_keys(((want.ref, want.group),), now=now)
            return found

    def open_many(self, table: Table[T], items: Sequence[tuple[bytes, bytes | None]]) -> list[T | None]:
        """Return the values, in order; None where absent, shredded or of an ended person.

        Raises:
            KeyWithheld: the table's keys are not released to who looks: absent would be a wrong answer.
        """
        kids = {value[1:33] for _, value in items if value is not None and value[:1] != _PLAIN}
        keys = self._vault.open_keys(tuple(kids)) if kids else {}
        decode = self._decoder(table)
        opened: list[T | None] = []
        for key, value in items:
            if value is None:
                opened.append(None)
            elif value[:1] == _PLAIN:
                opened.append(decode(value[1:]))
            else:
                data_key = keys.get(value[1:33])
                if isinstance(data_key, Withheld):
                    raise KeyWithheld(role=data_key.role, purpose=data_key.purpose, category=data_key.group)
                if not isinstance(data_key, DataKey):
                    opened.append(None)
                    continue
                plain = envelope.open_sealed(data_key, value, self._bound(table, key))
                opened.append(decode(plain))
        return opened

    def _decoder(self, table: Table[T]) -> Callable[[bytes], T]:
        decoder = self._decoders.get(table.name)
        if decoder is None:
            decoder = msgspec.msgpack.Decoder(cast("type[object]", table.kind))
            self._decoders[table.name] = decoder
        return cast("Callable[[bytes], T]", decoder.decode)

    def _bound(self, table: Table[T], key: bytes) -> bytes:
        return envelope.aad(self.topic(table), self.changelog_key(table, key), ())

    # Partials -----------------------------------------------------------------------------

    def partial(self, emit: Emit, *, now: datetime) -> NewRecord:
        """Return a partial aggregate, sealed under the key of its release's window."""
        release = SubjectRef(bytes.fromhex(emit.release))
        (key,) = self._vault.sealing_keys((KeyWant(release, _WINDOW_GROUP, 0),), now=now)
        partial = Partial(
            release=emit.release, partition=emit.partition, cells=emit.cells, subjects=emit.subjects
        )
        bound = envelope.aad(_PARTIALS, emit.key, ())
        return NewRecord(emit.partition, emit.key, envelope.seal(key, self._encode(partial), bound))

    def open_partial(self, row: Row) -> Partial | None:
        """Return a partial aggregate, or None when its window's key is gone."""
        value = row.value or b""
        key = self._vault.open_keys((value[1:33],)).get(value[1:33])
        if isinstance(key, Withheld):
            raise KeyWithheld(role=key.role, purpose=key.purpose, category=key.group)
        if not isinstance(key, DataKey):
            return None
        plain = envelope.open_sealed(key, value, envelope.aad(_PARTIALS, row.key, ()))
        return msgspec.msgpack.decode(plain, type=Partial)


def _is_fence(value: object) -> bool:
    """Return whether a value is the fence of an ended person: it is stored without a key."""
    return isinstance(value, Permissions) and value.is_ended


class ViewKeys:
    """The keys of one version of one view, and no others."""

    def __init__(self, vault: KeyVault, table: Table[T], *, clock: Clock) -> None:
        """Take the keystore and the version's table."""
        self._vault = vault
        self._group = view_group(table)
        self._clock = clock

    def shred_below(self, ref: SubjectRef, generation: int) -> None:
        """Destroy a subject's keys of this view below a generation; idempotent."""
        self._vault.shred(ref, now=self._clock.now(), group=self._group, below=generation)
