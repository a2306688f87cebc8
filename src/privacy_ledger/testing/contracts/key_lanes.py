"""What every keystore must know of lanes: whose a session is, and that it ends with its person."""

from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from privacy_ledger.domain.values import SubjectRef
from privacy_ledger.ports.keys import DataKey, Identity, IdentityStatus, KeyVault, KeyWant, LaneKey, Shredded
from privacy_ledger.testing.contracts.key_places import Place

__all__ = ["KeyLanesContract"]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
ADA = Identity("openedx:user_id", "1")
ADA_BY_NAME = Identity("openedx:username", "ada")
GRACE = Identity("openedx:user_id", "2")
SESSIONS = tuple(Identity("lane:test", f"session:{number}") for number in range(3))


def _minted(vault: KeyVault, *identities: Identity) -> tuple[SubjectRef, ...]:
    """Return a reference of each identity."""
    return vault.mint([(identity,) for identity in identities], now=NOW, not_before=NOW)


def _keys(vault: KeyVault, *refs: SubjectRef) -> tuple[DataKey, ...]:
    """Return a key of each reference."""
    return vault.sealing_keys([KeyWant(ref, "usage") for ref in refs], now=NOW)


def _are_gone(vault: KeyVault, keys: tuple[DataKey, ...]) -> list[bool]:
    """Return of each key whether it was destroyed."""
    found = vault.open_keys([key.kid for key in keys])
    return [isinstance(found[key.kid], Shredded) for key in keys]


def _statuses(vault: KeyVault, *identities: Identity) -> list[IdentityStatus | None]:
    return [None if row is None else row.status for row in vault.find(identities)]


class KeyLanesContract(ABC):
    """Inherit it as `Test...` and give `place`."""

    @pytest.fixture
    @abstractmethod
    def place(self) -> Place:
        """Return a place without a keystore."""

    def test_a_joined_lane_is_found_by_its_person_alone(self, place: Place) -> None:
        """By every process, in the order of age; and it is none of anybody's own references."""
        vault = place.open()
        first, second, third = _minted(vault, *SESSIONS)
        ada, grace = _minted(vault, ADA, GRACE)
        assert vault.join_lanes({second: ada, first: ada}, now=NOW) == {first, second}
        assert vault.join_lanes({first: ada}, now=LATER) == {first}
        assert (vault.refs_of(ADA), vault.refs_of(SESSIONS[2])) == ((ada,), (third,))
        other = place.open()
        assert (other.lanes_of(ada), other.lanes_of(grace)) == ((first, second), ())

    def test_a_lane_of_another_person_stays_that_ones(self, place: Place) -> None:
        """Whoever is found second in a session gets nothing of it."""
        vault = place.open()
        (lane,) = _minted(vault, SESSIONS[0])
        ada, grace = _minted(vault, ADA, GRACE)
        vault.join_lanes({lane: ada}, now=NOW)
        assert vault.join_lanes({lane: grace}, now=NOW) == frozenset()
        assert (vault.lanes_of(ada), vault.lanes_of(grace)) == ((lane,), ())

    def test_the_keys_of_lanes_are_told_also_when_they_are_destroyed(self, place: Place) -> None:
        """Of every lane of the person, elder first; of nobody else, and none of the person's own."""
        vault = place.open()
        mine, also_mine, other = _minted(vault, *SESSIONS)
        ada, grace = _minted(vault, ADA, GRACE)
        first, second, _, _ = _keys(vault, mine, also_mine, other, ada)
        vault.join_lanes({mine: ada, also_mine: ada, other: grace}, now=NOW)
        vault.shred(mine, now=NOW)
        for reader in (vault, place.open()):
            assert reader.lane_keys(ada) == (
                LaneKey(mine, first.kid, is_destroyed=True),
                LaneKey(also_mine, second.kid, is_destroyed=False),
            )
            assert reader.lane_keys(also_mine) == ()
        vault.end_lanes(ada, now=LATER)
        assert [key.is_destroyed for key in vault.lane_keys(ada)] == [True, True]

    def test_a_lane_goes_on_under_another_reference_of_its_person(self, place: Place) -> None:
        """Also after the two references were found to be one person's."""
        vault = place.open()
        (lane,) = _minted(vault, SESSIONS[0])
        elder, younger = _minted(vault, ADA, ADA_BY_NAME)
        vault.join_lanes({lane: younger}, now=NOW)
        vault.mint([(ADA, ADA_BY_NAME)], now=NOW, not_before=NOW)
        assert vault.join_lanes({lane: elder}, now=NOW) == {lane}
        assert (vault.lanes_of(elder), vault.lanes_of(younger)) == ((lane,), ())
        assert vault.refs_of(ADA) == (elder, younger)

    def test_what_is_unknown_or_ended_is_not_joined(self, place: Place) -> None:
        """Neither as a lane nor as a person."""
        vault = place.open()
        lane, over = _minted(vault, *SESSIONS[:2])
        (ada,) = _minted(vault, ADA)
        vault.end(over, now=NOW)
        nobody = SubjectRef(b"n" * 16)
        assert vault.join_lanes({nobody: ada, over: ada, lane: nobody}, now=NOW) == frozenset()
        assert (vault.lanes_of(ada), vault.lanes_of(nobody)) == ((), ())

    def test_a_lane_ends_with_its_person(self, place: Place) -> None:
        """Name, reference and keys; those of others stay, and a repeated call finds nothing."""
        vault = place.open()
        mine, also_mine, other = _minted(vault, *SESSIONS)
        ada, grace = _minted(vault, ADA, GRACE)
        keys = _keys(vault, mine, also_mine, other, ada)
        vault.join_lanes({mine: ada, also_mine: ada, other: grace}, now=NOW)
        report = vault.end_lanes(ada, now=NOW)
        assert (sorted(report.kids), report.by_group) == (sorted(k.kid.hex() for k in keys[:2]), {"usage": 2})
        assert vault.end_lanes(ada, now=LATER).kids == ()
        for reader in (vault, place.open()):
            assert _are_gone(reader, keys) == [True, True, False, False]
            assert [reader.is_ended(lane) for lane in (mine, also_mine, other)] == [True, True, False]
            assert _statuses(reader, *SESSIONS, ADA) == ["erased", "erased", "active", "active"]

    def test_a_lane_that_is_joined_to_one_who_was_ended_ends_at_once(self, place: Place) -> None:
        """The erasure has passed, and nobody would come for it."""
        vault = place.open()
        (lane,) = _minted(vault, SESSIONS[0])
        (ada,) = _minted(vault, ADA)
        keys = _keys(vault, lane)
        vault.end(ada, now=NOW)
        assert vault.join_lanes({lane: ada}, now=NOW) == frozenset()
        assert (_are_gone(vault, keys), vault.is_ended(lane)) == ([True], True)
        assert _statuses(vault, SESSIONS[0]) == ["erased"]

    def test_who_returns_gets_no_session_back(self, place: Place) -> None:
        """A session is of before the erasure."""
        vault = place.open()
        (lane,) = _minted(vault, SESSIONS[0])
        (ada,) = _minted(vault, ADA)
        vault.join_lanes({lane: ada}, now=NOW)
        vault.erase_identities(ada, now=NOW)
        vault.end(ada, now=NOW)
        vault.end_lanes(ada, now=NOW)
        back = vault.reopen(ADA, now=LATER)
        assert _statuses(vault, ADA, SESSIONS[0]) == ["active", "erased"]
        assert vault.lanes_of(back) == ()

    def test_a_backup_knows_whose_a_lane_is(self, place: Place, tmp_path: Path) -> None:
        """Whatever holds the rows."""
        vault = place.open()
        (lane,) = _minted(vault, SESSIONS[0])
        (ada,) = _minted(vault, ADA)
        vault.join_lanes({lane: ada}, now=NOW)
        note = vault.keeper.back_up(tmp_path / "backups", now=NOW)
        place.restore(tmp_path / "backups" / note.name)
        assert place.open().lanes_of(ada) == (lane,)

    def test_a_restored_backup_ends_a_lane_again(self, place: Place, tmp_path: Path) -> None:
        """Also one from before anybody knew whose the lane was."""
        vault = place.open()
        (lane,) = _minted(vault, SESSIONS[0])
        (ada,) = _minted(vault, ADA)
        keys = _keys(vault, lane)
        note = vault.keeper.back_up(tmp_path / "backups", now=NOW)
        vault.join_lanes({lane: ada}, now=NOW)
        vault.end(ada, now=NOW)
        vault.end_lanes(ada, now=NOW)
        place.restore(tmp_path / "backups" / note.name)
        place.pass_seconds(2)
        for reader in (vault, place.open()):
            assert _are_gone(reader, keys) == [True]
            assert reader.is_ended(lane)
            assert _statuses(reader, SESSIONS[0]) == ["erased"]
