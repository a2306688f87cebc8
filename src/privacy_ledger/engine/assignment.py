"""How partitions are divided among the workers of a pass: evenly, stickily, and to warm stores first.

Pure: the leader of the group calls `divide` for everybody, and every share rides in the answer of
the group's coordinator. So who folds and who follows needs no second agreement.
"""

from collections.abc import Collection, Mapping, Sequence

from privacy_ledger.ports.transport import Claim, Share

__all__ = ["divide"]


def divide(claims: Mapping[str, Claim], partitions: Sequence[int], *, standbys: int) -> dict[str, Share]:
    """Return each worker's share; the same claims give the same shares.

    Numbers of owned partitions differ by one at most. A partition stays where it is as far as that
    allows, else it goes to a worker with a store of it, else to whoever has room. Each partition is
    followed by `standbys` other workers, or by all others where there are fewer.
    """
    if not claims:
        return {}
    owners = _owners(claims, partitions)
    followers = _followers(claims, owners, standbys=min(standbys, len(claims) - 1))
    following = max(claim.round for claim in claims.values()) + 1
    return {
        name: Share(
            round=following,
            owned=tuple(p for p in partitions if owners[p] == name),
            followed=tuple(p for p in partitions if name in followers[p]),
        )
        for name in claims
    }


def _owners(claims: Mapping[str, Claim], partitions: Sequence[int]) -> dict[int, str]:
    """Return the owner of each partition."""
    room = _room(claims, partitions)
    owners: dict[int, str] = {}
    left: list[int] = []
    # Where a worker has to give some away, it keeps those that no other is ready for.
    ready = {p: sum(p in claim.warm for claim in claims.values()) for p in partitions}
    for p in sorted(partitions, key=lambda p: (ready[p], p)):
        owner = _last_owner(claims, p)
        if owner is not None and room[owner]:
            owners[p] = owner
            room[owner] -= 1
        else:
            left.append(p)
    for p in sorted(left, key=lambda p: (ready[p], p)):
        # A partition with few stores chooses first; the others would not miss the place.
        free = [name for name in sorted(claims) if room[name]]
        owner = min(free, key=lambda name: (p not in claims[name].warm, -room[name]))
        owners[p] = owner
        room[owner] -= 1
    return owners


def _room(claims: Mapping[str, Claim], partitions: Collection[int]) -> dict[str, int]:
    """Return how many partitions each worker gets; who holds most keeps the odd ones."""
    each, odd = divmod(len(partitions), len(claims))
    held = {name: sum(_last_owner(claims, p) == name for p in partitions) for name in claims}
    most = sorted(claims, key=lambda name: (-held[name], -len(claims[name].warm), name))
    return {name: each + (place < odd) for place, name in enumerate(most)}


def _last_owner(claims: Mapping[str, Claim], partition: int) -> str | None:
    """Return who owned a partition last: a worker that missed a division claims an older round."""
    owned = [(claims[name].round, name) for name in sorted(claims) if partition in claims[name].owned]
    return max(owned)[1] if owned else None


def _followers(
    claims: Mapping[str, Claim], owners: Mapping[int, str], *, standbys: int
) -> dict[int, set[str]]:
    """Return the followers of each partition: those with a store first, and no one with too many."""
    load = dict.fromkeys(claims, 0)
    limit = -(-len(owners) * standbys // len(claims))
    found: dict[int, set[str]] = {p: set() for p in owners}
    for p in sorted(owners):

        def rank(name: str, p: int = p) -> tuple[bool, bool, int, str]:
            is_warm = p in claims[name].warm or p in claims[name].owned
            return load[name] >= limit, not is_warm, load[name], name

        others = sorted((name for name in claims if name != owners[p]), key=rank)
        for name in others[:standbys]:
            found[p].add(name)
            load[name] += 1
    return found
