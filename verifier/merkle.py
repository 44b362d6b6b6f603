"""Merkle trees, hashed as in RFC 6962 (section 2.1), and proofs about them (RFC 9162, section 2.1)."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import reduce


def leaf_hash(data: bytes) -> bytes:
    """Hash a leaf, 32 bytes: SHA-256(0x00 ‖ data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash an inner node, 32 bytes: SHA-256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_hash(leaves: Iterable[bytes]) -> bytes:
    """Compute the root, 32 bytes, from the hashes of the leaves (MTH of RFC 6962); without leaves, SHA-256 of nothing.

    Each leaf is read once, in order; of n leaves at most log2(n) + 1 hashes are kept.
    """
    complete: list[bytes] = []  # the roots of ever smaller complete trees, which together hold all leaves so far
    for place, leaf in enumerate(leaves):
        root, before = leaf, place
        while before & 1:
            root, before = node_hash(complete.pop(), root), before >> 1
        complete.append(root)
    if not complete:
        return hashlib.sha256().digest()
    return reduce(lambda right, left: node_hash(left, right), reversed(complete))


def included(leaf: bytes, *, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Return whether the path proves that a leaf, by its hash, has number `index` in a tree of `size` leaves with that root."""
    if not 0 <= index < size:
        return False
    place, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = node_hash(sibling, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and found == root


def consistent(*, first: int, second: int, first_root: bytes, second_root: bytes, path: Sequence[bytes]) -> bool:
    """Return whether the path proves that the tree of `second` leaves begins with the tree of `first` leaves."""
    if not 0 <= first <= second:
        return False
    if first in (0, second):
        known = root_hash([]) if first == 0 else second_root
        return not path and first_root == known
    steps = [first_root, *path] if first & (first - 1) == 0 else list(path)
    if not steps:
        return False
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = steps[0]
    for sibling in steps[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root
