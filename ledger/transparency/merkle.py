"""Which parts of a tree make a proof (RFC 6962, section 2.1): as ranges of leaves, and as the stored nodes that make up a range.

A complete subtree is a node (level, place): the 2**level leaves from place · 2**level on. Every range of a proof begins where
a complete subtree of at least its own size could, so it is a row of ever smaller nodes.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

from verifier.merkle import node_hash, root_hash


class Node(NamedTuple):
    """A complete subtree."""

    level: int
    place: int


Range = tuple[int, int]
"""Leaves from the first to before the second."""


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """The ranges whose hashes are PATH(index, D[size]), from the leaf upwards. Raises ValueError for a leaf that is not there."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size} leaves")
    ranges, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(first: int, second: int) -> list[Range]:
    """The ranges whose hashes are PROOF(first, D[second]). Raises ValueError where the first tree is not the smaller one."""
    if not 0 <= first <= second:
        raise ValueError(f"a tree of {second} leaves cannot begin with one of {first}")
    if first == 0:
        return []
    ranges, start, end, known = [], 0, second, True
    while first < end:
        middle = start + _split(end - start)
        if first <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start, known = middle, False
    return ([] if known else [(start, end)]) + ranges[::-1]


def nodes_of(part: Range) -> list[Node]:
    """The complete subtrees that a range of a proof is made of, the largest first."""
    start, end = part
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def fold(hashes: Sequence[bytes]) -> bytes:
    """The hash of a range from those of its nodes."""
    if not hashes:
        return root_hash([])
    return reduce(lambda right, left: node_hash(left, right), reversed(hashes[:-1]), hashes[-1])


def inclusion_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """PATH(index, D[n]) over the hashes of all leaves."""
    return [root_hash(leaves[start:end]) for start, end in inclusion_ranges(index, len(leaves))]


def _split(width: int) -> int:
    """The largest power of two below a width of at least two."""
    return 1 << ((width - 1).bit_length() - 1)
