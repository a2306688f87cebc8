"""What every keystore must do, whatever holds its keys."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from privacy_ledger.domain.errors import InvariantViolation, RefusedByPolicy
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import Category, SubjectRef
from privacy_ledger.ports.keys import (
    DataKey,
    Identity,
    IdentityRow,
    IdentityStatus,
    KeyStanding,
    KeyVault,
    KeyWant,
    Shredded,
    ShredReport,
)

__all__ = ["KeyVaultContract"]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
NOT_BEFORE = NOW - timedelta(days=60)
GENERATION_AGE = timedelta(days=30)
GENERATION = 7
HIGHER = 9
SECRET_BYTES = 32
MANY = 300

ADA = Identity("openedx:user_id", "1")
ADA_BY_NAME = Identity("openedx:username", "ada")
GRACE = Identity("openedx:user_id", "2")
REF = SubjectRef(b"r" * 16)
OTHER = SubjectRef(b"s" * 16)
UNKNOWN = b"u" * 32

OpenVault = Callable[[], KeyVault]


def _minted(vault: KeyVault, *group: Identity) -> SubjectRef:
    """Return the reference of one minted group."""
    (ref,) = vault.mint([group], now=NOW, not_before=NOT_BEFORE)
    return ref


def _sealing(
    vault: KeyVault, group: str = "usage", generation: int | None = None, *, now: datetime = NOW
) -> DataKey:
    """Return one key of `REF` for sealing."""
    (key,) = vault.sealing_keys([KeyWant(REF, group, generation)], now=now)
    return key


class KeyVaultContract(ABC):
    """Inherit it as `Test...` and give `open_vault`: it opens the same keystore at each call."""

    @pytest.fixture
    @abstractmethod
    def open_vault(self) -> Iterator[OpenVault] | OpenVault:
        """Return what opens the test's own keystore, first new and then again."""

    @pytest.fixture
    def vault(self, open_vault: OpenVault) -> Iterator[KeyVault]:
        """Yield the new keystore."""
        opened = open_vault()
        yield opened
        opened.close()

    # Identities ------------------------------------------------------------------------------

    def test_an_unknown_identity_has_no_row(self, vault: KeyVault) -> None:
        """`find` answers in order and with None where nothing is known."""
        ref = _minted(vault, ADA)
        found = vault.find([GRACE, ADA])
        assert found == (None, IdentityRow(ref, IdentityStatus.ACTIVE, NOT_BEFORE))

    def test_a_group_gets_one_reference(self, vault: KeyVault) -> None:
        """All identities of a group are bound to the same reference."""
        ref = _minted(vault, ADA, ADA_BY_NAME)
        row = IdentityRow(ref, IdentityStatus.ACTIVE, NOT_BEFORE)
        assert vault.find([ADA, ADA_BY_NAME]) == (row, row)

    def test_minting_again_gives_the_first_reference(self, vault: KeyVault) -> None:
        """An identity that is known wins, and the group's other identities join it."""
        ref = _minted(vault, ADA)
        assert _minted(vault, ADA, ADA_BY_NAME) == ref
        assert vault.refs_of(ADA_BY_NAME) == (ref,)

    def test_groups_of_one_batch_see_each_other(self, vault: KeyVault) -> None:
        """A later group of a batch that shares an identity gets the earlier reference."""
        groups = [(ADA,), (GRACE,), (ADA, ADA_BY_NAME)]
        ada, grace, again = vault.mint(groups, now=NOW, not_before=NOT_BEFORE)
        assert (again, grace == ada) == (ada, False)

    def test_a_group_of_two_known_people_joins_them_elder_first(self, vault: KeyVault) -> None:
        """References stay apart; what is asked of one is answered for the set."""
        elder, younger = _minted(vault, ADA), _minted(vault, GRACE)
        assert _minted(vault, GRACE, ADA) == elder
        assert vault.refs_of(GRACE) == (elder, younger)

    def test_bind_adds_unknown_identities(self, vault: KeyVault) -> None:
        """A bound identity has the reference's own bound in time."""
        ref = _minted(vault, ADA)
        vault.bind(ref, [ADA_BY_NAME], now=LATER)
        assert vault.find([ADA_BY_NAME]) == (IdentityRow(ref, IdentityStatus.ACTIVE, NOT_BEFORE),)

    def test_bind_joins_two_known_references(self, vault: KeyVault) -> None:
        """The known identity keeps its reference; both references are one person's."""
        elder, younger = _minted(vault, ADA), _minted(vault, GRACE)
        vault.bind(younger, [ADA], now=LATER)
        assert vault.refs_of(GRACE) == vault.refs_of(ADA) == (elder, younger)
        assert vault.find([ADA]) == (IdentityRow(elder, IdentityStatus.ACTIVE, NOT_BEFORE),)

    def test_nothing_is_bound_to_an_ended_reference(self, vault: KeyVault) -> None:
        """A binding after the end is refused with the reason of an erasure."""
        ref = _minted(vault, ADA)
        vault.end(ref, now=NOW)
        with pytest.raises(RefusedByPolicy) as refused:
            vault.bind(ref, [GRACE], now=LATER)
        assert refused.value.refusal is Refusal.SUBJECT_ERASED
        assert vault.find([GRACE]) == (None,)

    def test_an_unknown_identity_has_no_references(self, vault: KeyVault) -> None:
        """`refs_of` is empty for an identity that was never bound."""
        assert vault.refs_of(ADA) == ()

    def test_erased_identities_are_found_as_erased(self, vault: KeyVault) -> None:
        """They are the suppression list, and rows erased together share their erasure id."""
        ref = _minted(vault, ADA, ADA_BY_NAME)
        assert vault.erase_identities(ref, now=LATER) == len((ADA, ADA_BY_NAME))
        first, second = vault.find([ADA, ADA_BY_NAME])
        assert first == second
        assert first is not None
        assert (first.status, first.ref) == (IdentityStatus.ERASED, ref)
        assert first.erasure is not None

    def test_erasing_twice_erases_nothing_more(self, vault: KeyVault) -> None:
        """The second call changes no row."""
        ref = _minted(vault, ADA)
        vault.erase_identities(ref, now=NOW)
        assert vault.erase_identities(ref, now=LATER) == 0

    def test_an_erased_identity_gets_no_reference_by_a_mint(self, vault: KeyVault) -> None:
        """The whole batch is refused, and none of it is bound."""
        vault.erase_identities(_minted(vault, ADA), now=NOW)
        with pytest.raises(InvariantViolation):
            vault.mint([(GRACE,), (ADA,)], now=LATER, not_before=NOT_BEFORE)
        assert vault.find([GRACE]) == (None,)

    def test_a_return_gives_a_new_reference_to_all_erased_together(self, vault: KeyVault) -> None:
        """One return reopens every identity of the erasure; nothing earlier is accepted."""
        old = _minted(vault, ADA, ADA_BY_NAME)
        vault.erase_identities(old, now=NOW)
        new = vault.reopen(ADA_BY_NAME, now=LATER)
        row = IdentityRow(new, IdentityStatus.ACTIVE, LATER)
        assert vault.find([ADA, ADA_BY_NAME]) == (row, row)
        assert vault.refs_of(ADA) == (new,)
        assert new != old

    def test_a_return_reopens_all_joined_references(self, vault: KeyVault) -> None:
        """References of one person that were erased one after the other come back together."""
        elder, younger = _minted(vault, ADA), _minted(vault, GRACE)
        vault.bind(elder, [GRACE], now=NOW)
        vault.erase_identities(elder, now=NOW)
        vault.erase_identities(younger, now=LATER)
        new = vault.reopen(ADA, now=LATER)
        assert vault.refs_of(GRACE) == (new,)

    @pytest.mark.parametrize("is_known", [True, False])
    def test_only_an_erased_identity_is_reopened(self, vault: KeyVault, *, is_known: bool) -> None:
        """An active and an unknown identity are both refused."""
        if is_known:
            _minted(vault, ADA)
        with pytest.raises(RefusedByPolicy) as refused:
            vault.reopen(ADA, now=NOW)
        assert refused.value.refusal is Refusal.NOT_ERASED

    # Sealing ---------------------------------------------------------------------------------

    def test_an_unused_generation_lies_above_every_key_of_the_group(self, vault: KeyVault) -> None:
        """Whoever has them, and shredded ones too: what is sealed under it can be opened by no old key."""
        top = 3
        assert vault.unused_generation("usage") == 0
        wants = [KeyWant(REF, "usage", top), KeyWant(OTHER, "usage", 1), KeyWant(REF, "device", 9)]
        vault.sealing_keys(wants, now=NOW)
        vault.shred(REF, now=NOW, group="usage")
        assert vault.unused_generation("usage") == top + 1

    def test_equal_wants_get_one_key(self, vault: KeyVault) -> None:
        """Wants are answered in order, one key per reference and group."""
        wants = [
            KeyWant(REF, "usage"),
            KeyWant(OTHER, "usage"),
            KeyWant(REF, "usage"),
            KeyWant(REF, "device"),
        ]
        usage, other, again, device = vault.sealing_keys(wants, now=NOW)
        assert again == usage
        assert {key.kid for key in (usage, other, device)} == {usage.kid, other.kid, device.kid}
        assert [(key.ref, key.group) for key in (usage, other, device)] == [
            (REF, "usage"),
            (OTHER, "usage"),
            (REF, "device"),
        ]

    def test_a_key_outlives_its_vault(self, open_vault: OpenVault) -> None:
        """What was handed out is durable: another opener has the same key."""
        first = open_vault()
        key = _sealing(first)
        first.close()
        second = open_vault()
        assert (_sealing(second), second.open_keys([key.kid])) == (key, {key.kid: key})
        second.close()

    def test_two_openers_have_one_current_key(self, open_vault: OpenVault) -> None:
        """The second opener finds the key of the first while both are open."""
        first, second = open_vault(), open_vault()
        assert _sealing(first) == _sealing(second)
        first.close()
        second.close()

    def test_a_kid_is_derived_from_its_key(self, vault: KeyVault) -> None:
        """As RFC 5869 says, by another implementation of it."""
        wants = [KeyWant(REF, f"view:made-up-{number}.v1") for number in range(MANY)]
        for key in vault.sealing_keys(wants, now=NOW):
            assert HKDFExpand(SHA256(), SECRET_BYTES, b"kid/v1").derive(key.secret) == key.kid

    def test_a_current_key_rolls_after_thirty_days(self, vault: KeyVault) -> None:
        """The next generation is another key; the old one still opens."""
        old = _sealing(vault)
        assert _sealing(vault, now=NOW + GENERATION_AGE - timedelta(seconds=1)) == old
        new = _sealing(vault, now=NOW + GENERATION_AGE)
        assert new.generation == old.generation + 1
        assert vault.open_keys([old.kid, new.kid]) == {old.kid: old, new.kid: new}

    def test_an_exact_generation_is_made_once(self, vault: KeyVault) -> None:
        """A want with a number gives exactly that generation, whatever its age."""
        key = _sealing(vault, generation=GENERATION)
        assert key.generation == GENERATION
        assert _sealing(vault, generation=GENERATION, now=NOW + 2 * GENERATION_AGE) == key

    def test_generations_only_grow(self, vault: KeyVault) -> None:
        """One that was never made is not made below the highest."""
        _sealing(vault, generation=HIGHER)
        with pytest.raises(InvariantViolation):
            _sealing(vault, generation=GENERATION)

    def test_fresh_keys_are_all_different(self, vault: KeyVault) -> None:
        """Each want gets a generation of its own, equal wants included."""
        first, second = vault.fresh_keys([(REF, "account"), (REF, "account")], now=NOW)
        (third,) = vault.fresh_keys([(REF, "account")], now=NOW)
        assert [key.generation for key in (first, second, third)] == [
            first.generation,
            first.generation + 1,
            first.generation + 2,
        ]
        assert first.secret != second.secret != third.secret

    def test_a_fresh_key_never_becomes_the_current_one(self, vault: KeyVault) -> None:
        """A key of one record seals no other record."""
        (single,) = vault.fresh_keys([(REF, "account")], now=NOW)
        assert _sealing(vault, "account").generation == single.generation + 1

    # Opening ---------------------------------------------------------------------------------

    def test_an_unknown_kid_is_absent(self, vault: KeyVault) -> None:
        """Unknown is neither shredded nor an error."""
        key = _sealing(vault)
        assert vault.open_keys([UNKNOWN, key.kid]) == {key.kid: key}

    # Destroying ------------------------------------------------------------------------------

    def test_a_shredded_kid_stays_known(self, vault: KeyVault) -> None:
        """Its records are erased, not unreadable by accident."""
        key = _sealing(vault)
        report = vault.shred(REF, now=NOW)
        assert report == ShredReport(kids=(key.kid.hex(),), by_group={"usage": 1})
        assert vault.open_keys([key.kid]) == {key.kid: Shredded(REF, "usage", key.generation)}

    def test_a_shred_of_a_group_spares_the_others(self, vault: KeyVault) -> None:
        """Categories are destroyed apart."""
        usage, billing = _sealing(vault), _sealing(vault, "billing")
        vault.shred(REF, now=NOW, group="usage")
        assert vault.open_keys([usage.kid, billing.kid]) == {
            usage.kid: Shredded(REF, "usage", usage.generation),
            billing.kid: billing,
        }

    def test_a_shred_of_one_generation_spares_the_others(self, vault: KeyVault) -> None:
        """A record of its own grain is destroyed alone."""
        first, second = vault.fresh_keys([(REF, "account")] * 2, now=NOW)
        vault.shred(REF, now=NOW, group="account", generation=first.generation)
        assert vault.open_keys([second.kid]) == {second.kid: second}

    def test_a_shred_below_a_generation_spares_it(self, vault: KeyVault) -> None:
        """The bound itself stays."""
        old = _sealing(vault, generation=GENERATION)
        new = _sealing(vault, generation=HIGHER)
        report = vault.shred(REF, now=NOW, group="usage", below=HIGHER)
        assert report.kids == (old.kid.hex(),)
        assert vault.open_keys([new.kid]) == {new.kid: new}

    def test_a_repeated_shred_destroys_nothing_more(self, vault: KeyVault) -> None:
        """With the same `now` it tells the same; with a later one, that nothing was left."""
        _sealing(vault)
        first = vault.shred(REF, now=NOW)
        assert vault.shred(REF, now=NOW) == first
        assert vault.shred(REF, now=LATER) == ShredReport(kids=(), by_group={})

    def test_a_generation_outside_a_group_is_no_scope(self, vault: KeyVault) -> None:
        """A slip of the caller destroys nothing."""
        key = _sealing(vault, generation=GENERATION)
        with pytest.raises(InvariantViolation):
            vault.shred(REF, now=NOW, generation=GENERATION)
        assert vault.open_keys([key.kid]) == {key.kid: key}

    def test_a_shredded_generation_never_comes_back(self, vault: KeyVault) -> None:
        """Asked for by number it is refused."""
        _sealing(vault, generation=GENERATION)
        vault.shred(REF, now=NOW)
        with pytest.raises(InvariantViolation):
            _sealing(vault, generation=GENERATION)

    def test_after_a_shred_the_next_generation_seals(self, vault: KeyVault) -> None:
        """The current key is a new one with a higher number."""
        old = _sealing(vault)
        vault.shred(REF, now=NOW, group="usage")
        assert _sealing(vault).generation == old.generation + 1

    def test_what_is_retired_opens_and_seals_nothing_more(self, vault: KeyVault) -> None:
        """The next generation seals, and survives the shred of the one before; nobody else's changes."""
        group, other = "usage+improve.analyse", "usage+personalise.recommend"
        old, beside, plain = _sealing(vault, group), _sealing(vault, other), _sealing(vault)
        (theirs,) = vault.sealing_keys([KeyWant(OTHER, group)], now=NOW)
        for _ in range(2):
            vault.retire(REF, purpose="improve.analyse")
            vault.retire(REF, purpose="analyse")
        new = _sealing(vault, group)
        assert new.generation == old.generation + 1
        assert (_sealing(vault, other), _sealing(vault)) == (beside, plain)
        assert vault.sealing_keys([KeyWant(OTHER, group)], now=NOW) == (theirs,)
        assert vault.open_keys([old.kid]) == {old.kid: old}
        vault.shred(REF, now=NOW, group=group, generation=old.generation)
        assert isinstance(vault.open_keys([old.kid])[old.kid], Shredded)
        assert _sealing(vault, group) == new
        assert vault.open_keys([new.kid]) == {new.kid: new}

    def test_what_is_retired_of_a_category_is_bounded_by_the_next_generations(self, vault: KeyVault) -> None:
        """All its groups, fine keys too; what is sealed since survives a shred below the bounds."""
        groups = ("usage", "usage+improve.analyse")
        old = [_sealing(vault, group) for group in groups]
        beside = _sealing(vault, "device"), _sealing(vault, "patterns+usage")
        (fine,) = vault.fresh_keys([(REF, "usage")], now=NOW)
        bounds = vault.retire(REF, category=Category.USAGE)
        assert bounds == {"usage": fine.generation + 1, "usage+improve.analyse": old[1].generation + 1}
        new = [_sealing(vault, group) for group in groups]
        assert [key.generation for key in new] == list(bounds.values())
        for group, bound in bounds.items():
            vault.shred(REF, now=NOW, group=group, below=bound)
        opened = vault.open_keys([key.kid for key in (*old, fine, *new, *beside)])
        assert all(isinstance(opened[key.kid], Shredded) for key in (*old, fine))
        assert [opened[key.kid] for key in (*new, *beside)] == [*new, *beside]
        assert vault.retire(OTHER, category=Category.USAGE) == {}
        assert vault.retire(REF) == {}

    def test_a_group_is_destroyed_over_all_people(self, vault: KeyVault) -> None:
        """Whoever's key it is, current, numbered or fresh; other groups keep theirs."""
        wants = [KeyWant(ref, "view:progress.v2", n) for ref in (REF, OTHER) for n in (0, 1)]
        gone = [*vault.sealing_keys(wants, now=NOW), *vault.fresh_keys([(REF, wants[0].group)], now=NOW)]
        kept = vault.sealing_keys([KeyWant(REF, "view:progress.v20", 0), KeyWant(REF, "usage")], now=NOW)
        counts = [vault.shred_group(wants[0].group, now=at) for at in (NOW, NOW, LATER)]
        opened = vault.open_keys([key.kid for key in (*gone, *kept)])
        assert counts == [len(gone), 0, 0]
        assert [type(opened[key.kid]) for key in gone] == [Shredded] * len(gone)
        assert [opened[key.kid] for key in kept] == list(kept)
        with pytest.raises(InvariantViolation):
            vault.sealing_keys(wants[:1], now=NOW)

    def test_the_standing_of_a_reference_counts_its_keys(self, vault: KeyVault) -> None:
        """Those in use, those destroyed, and the newest epoch; another's do not count."""
        nothing = vault.standing_of(REF)
        vault.sealing_keys([KeyWant(REF, "usage"), KeyWant(REF, "account"), KeyWant(OTHER, "usage")], now=NOW)
        vault.shred(REF, now=NOW, group="usage")
        one_left = vault.standing_of(REF)
        vault.shred(REF, now=NOW)
        assert nothing == KeyStanding(live=0, destroyed=0, epoch=1)
        assert one_left == KeyStanding(live=1, destroyed=1, epoch=1)
        assert vault.standing_of(REF) == KeyStanding(live=0, destroyed=2, epoch=1)

    def test_an_ended_reference_gets_no_key_ever(self, vault: KeyVault) -> None:
        """Neither a current, nor a numbered, nor a fresh one; nobody else's is made either."""
        _sealing(vault)
        vault.end(REF, now=NOW)
        vault.end(REF, now=LATER)
        assert (vault.is_ended(REF), vault.is_ended(OTHER)) == (True, False)
        for want in (KeyWant(REF, "usage"), KeyWant(REF, "usage", GENERATION), KeyWant(REF, "profile")):
            with pytest.raises(RefusedByPolicy) as refused:
                vault.sealing_keys([KeyWant(OTHER, "usage"), want], now=NOW)
            assert refused.value.refusal is Refusal.SUBJECT_ERASED
        with pytest.raises(RefusedByPolicy):
            vault.fresh_keys([(REF, "account")], now=NOW)

    # Secrets ---------------------------------------------------------------------------------

    def test_a_secret_is_made_once(self, open_vault: OpenVault) -> None:
        """Each name has 32 bytes of its own, the same for every opener."""
        first = open_vault()
        mac, row = first.secret("control-mac"), first.secret("row-key")
        first.close()
        second = open_vault()
        assert (second.secret("control-mac"), second.secret("row-key")) == (mac, row)
        assert (len(mac), mac == row) == (SECRET_BYTES, False)
        second.close()

    def test_closing_twice_is_harmless(self, vault: KeyVault) -> None:
        """`close` is idempotent."""
        vault.close()
        vault.close()
