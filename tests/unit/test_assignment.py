"""How partitions are divided among workers: properties over random groups and their histories."""

import random
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_ledger.engine.assignment import divide
from privacy_ledger.ports.transport import Claim, Share


def claims_after(shares: Mapping[str, Share]) -> dict[str, Claim]:
    """Return what workers claim that have had a share: a store of all that they own or follow."""
    return {
        name: Claim(round=share.round, owned=share.owned, warm=tuple(sorted({*share.owned, *share.followed})))
        for name, share in shares.items()
    }


def owners(shares: Mapping[str, Share]) -> dict[int, str]:
    """Return the owner of each partition; fails where there are two."""
    found: dict[int, str] = {}
    for name, share in shares.items():
        for partition in share.owned:
            assert partition not in found
            found[partition] = name
    return found


@st.composite
def _groups(draw: st.DrawFn) -> tuple[dict[str, Claim], int, int]:
    partitions = draw(st.integers(1, 17))
    some = st.lists(st.integers(0, partitions - 1), unique=True).map(tuple)
    claim = st.builds(Claim, round=st.integers(0, 3), owned=some, warm=some)
    claims = draw(st.dictionaries(st.sampled_from("abcdefg"), claim, min_size=1))
    return claims, partitions, draw(st.integers(0, 3))


@settings(max_examples=300, deadline=None)
@given(_groups())
def test_every_partition_has_one_owner_and_its_number_of_other_followers(
    group: tuple[dict[str, Claim], int, int],
) -> None:
    """Whatever workers claim, and with shares that differ by one partition at most."""
    claims, partitions, standbys = group
    shares = divide(claims, range(partitions), standbys=standbys)
    assert sorted(owners(shares)) == list(range(partitions))
    sizes = [len(share.owned) for share in shares.values()]
    assert max(sizes) - min(sizes) <= 1
    for partition in range(partitions):
        followers = [name for name, share in shares.items() if partition in share.followed]
        assert len(followers) == min(standbys, len(claims) - 1)
        assert owners(shares)[partition] not in followers


@settings(max_examples=100, deadline=None)
@given(_groups())
def test_the_same_group_divided_again_moves_nothing(group: tuple[dict[str, Claim], int, int]) -> None:
    """Neither owned nor followed partitions, and in whatever order its members are named."""
    claims, partitions, standbys = group
    first = divide(claims, range(partitions), standbys=standbys)
    shuffled = list(claims_after(first).items())
    random.Random(1).shuffle(shuffled)
    second = divide(dict(shuffled), range(partitions), standbys=standbys)
    assert {name: (share.owned, share.followed) for name, share in first.items()} == {
        name: (share.owned, share.followed) for name, share in second.items()
    }


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 7), st.integers(1, 17), st.integers(0, 6))
def test_the_partitions_of_a_dead_worker_go_to_warm_stores_and_the_others_stay(
    workers: int, partitions: int, dead: int
) -> None:
    """Where the even division allows it, and it does with one standby of each."""
    shares = divide(
        {f"w{number}": Claim() for number in range(workers)}, range(partitions), standbys=workers - 1
    )
    gone = f"w{dead % workers}"
    claims = {name: claim for name, claim in claims_after(shares).items() if name != gone}
    again = divide(claims, range(partitions), standbys=workers - 1)
    for partition, owner in owners(again).items():
        assert partition in claims[owner].warm
        if owners(shares)[partition] != gone:
            assert owner == owners(shares)[partition]


def test_a_worker_that_missed_a_division_claims_in_vain() -> None:
    """It still names what it owned; who got it since then keeps it."""
    for late, new in (("a", "b"), ("b", "a")):
        claims = {
            late: Claim(round=1, owned=(0,), warm=(0,)),
            new: Claim(round=2, owned=(0,), warm=(0,)),
        }
        assert owners(divide(claims, range(1), standbys=0)) == {0: new}


def test_a_worker_that_comes_back_gets_what_it_has_on_its_disk() -> None:
    """The survivor keeps what nobody else has."""
    claims = {
        "back": Claim(warm=(1, 2)),
        "survivor": Claim(round=4, owned=(0, 1, 2, 3), warm=(0, 1, 2, 3)),
    }
    shares = divide(claims, range(4), standbys=1)
    assert {name: share.owned for name, share in shares.items()} == {"back": (1, 2), "survivor": (0, 3)}
    assert shares["back"].followed == (0, 3)


def test_nobody_is_given_nothing() -> None:
    """An empty group has no shares, and a lone worker follows nobody."""
    assert divide({}, range(4), standbys=1) == {}
    lone = divide({"a": Claim()}, range(2), standbys=1)
    assert (lone["a"].owned, lone["a"].followed) == ((0, 1), ())
