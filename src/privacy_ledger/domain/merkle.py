"""A Merkle tree over leaf hashes, its proofs, and their checks (RFC 6962 and RFC 9162, section 2.1).

SHA-256; a leaf is hashed with 0x00 in front, an inner node with 0x01, so that neither passes for
the other. Every hash is 32 bytes. The tree holds hashes only: what a leaf says lies elsewhere.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["EMPTY_ROOT", "HASH_BYTES", "MerkleTree", "has_grown", "is_included", "leaf_hash"]

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256().digest()
"""The root of a tree without leaves."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf's content."""
    return hashlib.sha256(b"\x00" + entry).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """An append-only tree in memory: a level per height, with the hashes of its full subtrees.

    An append costs one or two hashes on average, a proof a number that grows with the square of
    the height.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        """Start with these leaf hashes, in order."""
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.append(leaf)

    def __len__(self) -> int:
        """Return the number of leaves."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> int:
        """Add a leaf hash and return its index.

        Raises:
            ValueError: it is no hash of 32 bytes.
        """
        if len(leaf) != HASH_BYTES:
            raise ValueError(f"A leaf hash has {HASH_BYTES} bytes. Hash the entry with `leaf_hash`.")
        self._levels[0].append(leaf)
        height = 0
        while len(self._levels[height]) % 2 == 0:
            if height + 1 == len(self._levels):
                self._levels.append([])
            left, right = self._levels[height][-2:]
            self._levels[height + 1].append(_node(left, right))
            height += 1
        return len(self) - 1

    def leaf(self, index: int) -> bytes:
        """Return a leaf hash; IndexError where there is none."""
        return self._levels[0][index]

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the first `size` leaves (None: all).

        Raises:
            ValueError: the tree has fewer.
        """
        size = len(self) if size is None else size
        if not 0 <= size <= len(self):
            raise ValueError(f"The tree has {len(self)} leaves, not {size}.")
        return EMPTY_ROOT if size == 0 else self._root_of(0, size)

    def inclusion(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the audit path of a leaf in the tree of the first `size` leaves, leaf end first.

        Raises:
            ValueError: there is no such leaf in a tree of that size, or no such tree.
        """
        size = len(self) if size is None else size
        if not 0 <= index < size <= len(self):
            raise ValueError(f"There is no leaf {index} in a tree of {size} leaves here.")
        path: list[bytes] = []
        low, high = 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._root_of(middle, high))
                high = middle
            else:
                path.append(self._root_of(low, middle))
                low = middle
        return tuple(reversed(path))

    def consistency(self, first: int, second: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that the tree of `first` leaves is the beginning of that of `second`.

        Raises:
            ValueError: `first` is zero or above `second`, or the tree has fewer leaves.
        """
        second = len(self) if second is None else second
        if not 0 < first <= second <= len(self):
            raise ValueError(f"There is no proof from {first} to {second} leaves here.")
        proof: list[bytes] = []
        low, high, is_whole = 0, second, True
        while first != high:
            middle = low + _split(high - low)
            if first <= middle:
                proof.append(self._root_of(middle, high))
                high = middle
            else:
                proof.append(self._root_of(low, middle))
                low, is_whole = middle, False
        if not is_whole:
            proof.append(self._root_of(low, high))
        return tuple(reversed(proof))

    def _root_of(self, low: int, high: int) -> bytes:
        """Return the hash of the leaves from `low` to before `high`; `low` begins a full subtree."""
        count = high - low
        height = count.bit_length() - 1
        if count == 1 << height:
            return self._levels[height][low >> height]
        middle = low + _split(count)
        return _node(self._root_of(low, middle), self._root_of(middle, high))


def _split(count: int) -> int:
    """Return the largest power of two below a count of at least two."""
    return 1 << ((count - 1).bit_length() - 1)


def is_included(leaf: bytes, *, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Return whether the path leads from this leaf, at this index, to the root of `size` leaves.

    The algorithm of RFC 9162, section 2.1.3.2. Never raises on a bad proof.
    """
    if not 0 <= index < size or any(len(part) != HASH_BYTES for part in path):
        return False
    here, last, found = index, size - 1, leaf
    for part in path:
        if last == 0:
            return False
        if here & 1 or here == last:
            found = _node(part, found)
            while here and not here & 1:
                here, last = here >> 1, last >> 1
        else:
            found = _node(found, part)
        here, last = here >> 1, last >> 1
    return last == 0 and found == root


def has_grown(
    *, first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes
) -> bool:
    """Return whether the tree of `first` leaves is the beginning of the tree of `second` leaves.

    The algorithm of RFC 9162, section 2.1.4.2. Never raises on a bad proof. From nothing every
    tree has grown, with an empty proof.
    """
    if not 0 <= first <= second or any(len(part) != HASH_BYTES for part in proof):
        return False
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    if first == second:
        return not proof and first_root == second_root
    path = list(proof) if first & (first - 1) else [first_root, *proof]
    if not path:
        return False
    here, last = first - 1, second - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    old = new = path[0]
    for part in path[1:]:
        if last == 0:
            return False
        if here & 1 or here == last:
            old, new = _node(part, old), _node(part, new)
            while here and not here & 1:
                here, last = here >> 1, last >> 1
        else:
            new = _node(new, part)
        here, last = here >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root
