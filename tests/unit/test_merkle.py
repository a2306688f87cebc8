"""The Merkle tree: the published vectors, every small tree, and proofs that were tampered with."""

import hashlib
import random
from collections.abc import Sequence

import pytest

from privacy_ledger.domain.merkle import EMPTY_ROOT, MerkleTree, has_grown, is_included, leaf_hash

SIZE = 256
# The inputs and roots that implementations of RFC 6962 have tested themselves with from the start.
ENTRIES = (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)  # fmt: skip
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def leaves(count: int) -> list[bytes]:
    """Return that many different leaf hashes."""
    return [leaf_hash(number.to_bytes(4, "big")) for number in range(count)]


def naive_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root by the definition, apart from the tree under test."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    cut = 1
    while cut * 2 < len(hashes):
        cut *= 2
    return hashlib.sha256(b"\x01" + naive_root(hashes[:cut]) + naive_root(hashes[cut:])).digest()


def test_the_published_roots_are_met() -> None:
    """Every size from one to eight, and the empty tree."""
    tree = MerkleTree()
    found = []
    for entry in ENTRIES:
        tree.append(leaf_hash(bytes.fromhex(entry)))
        found.append(tree.root().hex())
    assert found == list(ROOTS)
    assert MerkleTree().root() == EMPTY_ROOT == hashlib.sha256(b"").digest()


def test_every_root_is_that_of_the_definition() -> None:
    """Also the roots of the sizes that the tree had before."""
    hashes = leaves(SIZE)
    tree = MerkleTree(hashes)
    assert [tree.root(size) for size in range(65)] == [naive_root(hashes[:size]) for size in range(65)]
    assert tree.root() == naive_root(hashes)


def test_every_leaf_of_every_size_is_included() -> None:
    """All pairs of leaf and size up to 256."""
    hashes = leaves(SIZE)
    tree = MerkleTree(hashes)
    missed = [
        (index, size)
        for size in range(1, SIZE + 1)
        for index in range(size)
        if not is_included(
            hashes[index], index=index, size=size, path=tree.inclusion(index, size), root=tree.root(size)
        )
    ]
    assert missed == []


def test_every_size_is_the_beginning_of_every_later_one() -> None:
    """All pairs of sizes up to 256, and from nothing."""
    tree = MerkleTree(leaves(SIZE))
    roots = [tree.root(size) for size in range(SIZE + 1)]
    missed = [
        (first, second)
        for second in range(1, SIZE + 1)
        for first in range(1, second + 1)
        if not has_grown(
            first=first, second=second, proof=tree.consistency(first, second),
            first_root=roots[first], second_root=roots[second],
        )
    ]  # fmt: skip
    assert missed == []
    assert has_grown(first=0, second=9, proof=(), first_root=EMPTY_ROOT, second_root=roots[9])


def flipped(proof: Sequence[bytes], bit: int) -> list[bytes]:
    """Return the proof with one bit changed."""
    changed = bytearray(b"".join(proof))
    changed[bit // 8] ^= 1 << (bit % 8)
    return [bytes(changed[at : at + 32]) for at in range(0, len(changed), 32)]


def test_no_single_bit_of_a_proof_can_be_changed() -> None:
    """A thousand proofs, half of each kind, every bit of each."""
    rng = random.Random(6962)
    tree = MerkleTree(leaves(64))
    accepted = 0
    for _ in range(500):
        size = rng.randrange(2, 65)
        index = rng.randrange(size)
        path = tree.inclusion(index, size)
        accepted += sum(
            is_included(
                tree.leaf(index), index=index, size=size, path=flipped(path, bit), root=tree.root(size)
            )
            for bit in range(len(path) * 256)
        )
        first = rng.randrange(1, size)
        proof = tree.consistency(first, size)
        accepted += sum(
            has_grown(
                first=first, second=size, proof=flipped(proof, bit),
                first_root=tree.root(first), second_root=tree.root(size),
            )
            for bit in range(len(proof) * 256)
        )  # fmt: skip
    assert accepted == 0


def test_a_proof_of_another_shape_is_refused() -> None:
    """Too long, too short, cut hashes, another index, another size, another root."""
    tree = MerkleTree(leaves(9))
    path, root, leaf = tree.inclusion(3), tree.root(), tree.leaf(3)
    attempts = [
        is_included(leaf, index=3, size=9, path=path[:-1], root=root),
        is_included(leaf, index=3, size=9, path=(*path, root), root=root),
        is_included(leaf, index=3, size=9, path=(*path[:-1], path[-1][:31]), root=root),
        is_included(leaf, index=2, size=9, path=path, root=root),
        is_included(leaf, index=3, size=4, path=path, root=root),
        is_included(leaf, index=9, size=9, path=path, root=root),
        is_included(leaf, index=-1, size=9, path=path, root=root),
        is_included(leaf, index=3, size=9, path=path, root=tree.root(8)),
        has_grown(first=3, second=9, proof=(), first_root=tree.root(3), second_root=root),
        has_grown(first=4, second=4, proof=(root,), first_root=tree.root(4), second_root=tree.root(4)),
        has_grown(first=9, second=3, proof=(), first_root=root, second_root=tree.root(3)),
        has_grown(
            first=3, second=9, proof=(*tree.consistency(3), root), first_root=tree.root(3), second_root=root
        ),
    ]
    assert attempts == [False] * len(attempts)


def test_what_is_no_leaf_and_no_tree_is_refused() -> None:
    """Programming errors are errors."""
    tree = MerkleTree(leaves(3))
    with pytest.raises(ValueError, match="32 bytes"):
        tree.append(b"short")
    for call in (lambda: tree.root(4), lambda: tree.inclusion(3), lambda: tree.consistency(0)):
        with pytest.raises(ValueError, match="leaves"):
            call()
