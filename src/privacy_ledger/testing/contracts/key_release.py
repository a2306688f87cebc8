"""What every keystore must release to whom: the whole matrix, whatever holds its keys."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import product
from typing import Protocol, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy_ledger._passes import grant_of
from privacy_ledger.domain.errors import KeyWithheld
from privacy_ledger.domain.key_release import COLLECT, ERASE, SUMS, Caller, Grant, Role
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.domain.values import Category, SubjectRef
from privacy_ledger.engine.declaration import passes
from privacy_ledger.ports.keeping import ReleaseCount, ReleaseOutcome
from privacy_ledger.ports.keys import DataKey, KeyVault, KeyWant, Shredded, Withheld
from privacy_ledger.streams import analytics
from privacy_ledger.streams.protocol import Processor

__all__ = ["KeyReleaseContract", "OpenVault", "SharedVault"]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REF = SubjectRef(b"r" * 16)
OTHER = SubjectRef(b"s" * 16)
UNKNOWN = b"u" * 32


class SharedVault(KeyVault, Protocol):
    """One open keystore, as one of its callers sees it."""

    def released_to(self, caller: Caller) -> "SharedVault":
        """Return it as a declared caller sees it."""
        ...

    def released_to_pass(self, name: str, grant: Grant) -> "SharedVault":
        """Return it as a worker's pass sees it."""
        ...

    @property
    def release_figures(self) -> tuple[ReleaseCount, ...]:
        """How many keys were released and withheld since it was opened."""
        ...


OpenVault = Callable[[], SharedVault]
"""Opens the keystore for `RIGHTS`."""

SEALED = (*map(str, Category), "usage+improve.analyse", "index", "lane")
KEPT = ("view:progress.v1", "state:core", "state:analytics")
WINDOW = "window"
NOBODYS = ("", "new", "Usage", "usage+", "+usage", "usages", "view", "view:", "index:1", "state", "nobody")
PURPOSES = (
    "collect", "rights.fulfil", "views.read", "erase", "analytics.release", "operate", "core", "analytics",
    "", "*",
)  # fmt: skip
ALLOWED = {
    (Role.INGEST, "collect"): {*map(str, Category), "index", "lane"},
    (Role.PRIVACY, "rights.fulfil"): {*map(str, Category), "index", "view", "state"},
    (Role.PRIVACY, "views.read"): {"view", "state"},
    (Role.RELEASE, "analytics.release"): {"window"},
    (Role.OPERATOR, "operate"): {"view", "state"},
}
"""What is to be released, said once more: by role and purpose, and to nobody else."""
_COURSE_VIEWS = Processor(
    name="course_views",
    runs_in="analytics",
    source=LEDGER_EVENTS,
    table=analytics.TABLE,
    step=analytics.CourseViews(),
)
(PAGE_VIEWS,) = passes([cast("Processor[object]", _COURSE_VIEWS)]).values()


def _class(group: str) -> str:
    """Return what a group is counted as."""
    return group.partition("+")[0].partition(":")[0]


def _count(role: str, purpose: str, category: str, outcome: ReleaseOutcome, keys: int) -> ReleaseCount:
    return ReleaseCount(role=role, purpose=purpose, category=category, outcome=outcome, keys=keys)


def _seals(vault: KeyVault, group: str) -> bool:
    try:
        (key,) = vault.sealing_keys([KeyWant(REF, group)], now=NOW)
    except KeyWithheld:
        return False
    return key.group == group


def _sealing(vault: KeyVault) -> DataKey:
    (key,) = vault.sealing_keys([KeyWant(REF, "usage")], now=NOW)
    return key


class KeyReleaseContract(ABC):
    """Inherit it as `Test...` and give `open_vault`: it opens the same keystore at each call."""

    @pytest.fixture
    @abstractmethod
    def open_vault(self) -> Iterator[OpenVault] | OpenVault:
        """Return what opens the test's own keystore, first new and then again."""

    @pytest.fixture
    def vault(self, open_vault: OpenVault) -> Iterator[SharedVault]:
        """Yield the new keystore."""
        opened = open_vault()
        yield opened
        opened.close()

    @pytest.fixture
    def kids(self, vault: SharedVault) -> dict[str, bytes]:
        """Return a live key of `REF` in every class of groups, by group."""
        keys = [
            *vault.released_to(COLLECT).sealing_keys([KeyWant(REF, group) for group in SEALED], now=NOW),
            *vault.sealing_keys([KeyWant(REF, group) for group in KEPT], now=NOW),
            *vault.released_to(SUMS).sealing_keys([KeyWant(REF, WINDOW)], now=NOW),
        ]
        return {key.group: key.kid for key in keys}

    def test_every_caller_gets_what_is_declared_and_nothing_else(
        self, vault: SharedVault, kids: dict[str, bytes]
    ) -> None:
        """The whole matrix of roles, purposes and groups, to open and to seal."""
        wrong = []
        for role, purpose, group in product(Role, PURPOSES, kids):
            asker = vault.released_to(Caller(role, purpose))
            opened = asker.open_keys([kids[group]])[kids[group]]
            is_due = _class(group) in ALLOWED.get((role, purpose), set())
            if (isinstance(opened, DataKey), _seals(asker, group)) != (is_due, is_due):
                wrong.append((role, purpose, group))
        assert wrong == []

    @settings(
        max_examples=200,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(
        role=st.sampled_from(Role),
        purpose=st.sampled_from(PURPOSES) | st.text(max_size=8),
        groups=st.lists(st.sampled_from((*SEALED, *KEPT, WINDOW)), max_size=12),
    )
    def test_no_random_request_is_released_a_key_too_many(
        self, vault: SharedVault, kids: dict[str, bytes], role: Role, purpose: str, groups: list[str]
    ) -> None:
        """Whatever stands beside it in a batch: each key is answered by itself, and is the right one."""
        found = vault.released_to(Caller(role, purpose)).open_keys([kids[group] for group in groups])
        allowed = ALLOWED.get((role, purpose), set())
        assert {kid: type(key) for kid, key in found.items()} == {
            kids[group]: DataKey if _class(group) in allowed else Withheld for group in groups
        }

    @pytest.mark.parametrize("group", NOBODYS)
    def test_a_group_of_no_known_class_is_nobodys(self, vault: SharedVault, group: str) -> None:
        """However near to one its name is."""
        for role, purpose in ALLOWED:
            asker = vault.released_to(Caller(role, purpose))
            with pytest.raises(KeyWithheld) as refused:
                asker.sealing_keys([KeyWant(REF, group)], now=NOW)
            assert (refused.value.role, refused.value.category) == (role, "unknown")

    def test_a_pass_is_refused_what_its_steps_do_not_need(
        self, vault: SharedVault, kids: dict[str, bytes]
    ) -> None:
        """Page views alone: neither another category's keys, nor another pass's states, nor a new key."""
        worker = vault.released_to_pass(PAGE_VIEWS.name, grant_of(PAGE_VIEWS))
        opened = worker.open_keys(list(kids.values()))
        released = {group for group, kid in kids.items() if isinstance(opened[kid], DataKey)}
        assert released == {"evidence", "usage", "usage+improve.analyse", "state:analytics", WINDOW}
        with pytest.raises(KeyWithheld) as refused:
            worker.sealing_keys([KeyWant(OTHER, "usage"), KeyWant(OTHER, "profile")], now=NOW)
        with pytest.raises(KeyWithheld):
            worker.fresh_keys([(OTHER, "profile")], now=NOW)
        assert (refused.value.role, refused.value.purpose, refused.value.category) == (
            "worker",
            "analytics",
            "profile",
        )
        assert vault.unused_generation("profile") == 1

    def test_a_refusal_says_nothing_of_a_person(self, vault: SharedVault) -> None:
        """Role, purpose and category, and no reference."""
        with pytest.raises(KeyWithheld) as refused:
            vault.released_to(ERASE).sealing_keys([KeyWant(REF, "profile")], now=NOW)
        text = str(refused.value)
        assert "eraser" in text
        assert REF.hex() not in text
        assert REF.decode() not in text

    def test_a_withheld_key_is_told_from_a_destroyed_and_an_unknown_one(
        self, vault: SharedVault, kids: dict[str, bytes]
    ) -> None:
        """And is the caller's own again where another purpose needs it."""
        eraser = vault.released_to(ERASE)
        vault.shred(REF, now=NOW, group="profile")
        asked = [kids["usage"], kids["profile"], UNKNOWN]
        assert eraser.open_keys(asked) == {
            kids["usage"]: Withheld(REF, "usage", 0, "eraser", "erase"),
            kids["profile"]: Shredded(REF, "profile", 0),
        }
        assert vault.open_keys([kids["usage"]])[kids["usage"]] == _sealing(vault)

    def test_what_was_withheld_was_never_unwrapped(
        self, open_vault: OpenVault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process whose roles need no key of a category never has one in its memory."""
        first = open_vault()
        key = _sealing(first)
        eraser = open_vault().released_to(ERASE)

        def unwrapped(*_: object, **__: object) -> bytes:
            raise AssertionError

        monkeypatch.setattr("privacy_ledger.adapters.keystore._material.Wrapper.unwrap_committed", unwrapped)
        assert isinstance(eraser.open_keys([key.kid])[key.kid], Withheld)

    def test_every_answer_is_counted(self, vault: SharedVault) -> None:
        """By role, purpose, category and outcome: opened, sealed, made, and refused."""
        key = _sealing(vault)
        vault.fresh_keys([(REF, "usage+improve.analyse")], now=NOW)
        vault.released_to(ERASE).open_keys([key.kid, UNKNOWN])
        with pytest.raises(KeyWithheld):
            vault.released_to(ERASE).sealing_keys([KeyWant(REF, "profile")], now=NOW)
        assert vault.release_figures == (
            _count("eraser", "erase", "profile", ReleaseOutcome.WITHHELD, 1),
            _count("eraser", "erase", "usage", ReleaseOutcome.WITHHELD, 1),
            _count("privacy", "rights.fulfil", "usage", ReleaseOutcome.RELEASED, 2),
        )
