"""Merkle proofs (RFC 6962, section 2.1): the ranges of leaves that make a proof, and the stored nodes that make up a range.

A node (level, place) is a complete subtree: 2**level leaves, the first of which is place · 2**level. The start of every range of a
proof is a multiple of a power of two at least as large as the range, so the range is a sequence of ever smaller nodes.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import islice
from typing import NamedTuple

from verifier.merkle import node_hash, root_hash


class Node(NamedTuple):
    """A complete subtree of 2**level leaves."""

    level: int
    place: int


Range = tuple[int, int]
"""Leaves from the first index up to, but without, the second."""


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """List the ranges whose hashes are PATH(index, D[size]), from the leaf upwards. Raises ValueError if there is no such leaf."""
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
    """List the ranges whose hashes are PROOF(first, D[second]). Raises ValueError if the first tree is larger than the second."""
    if not 0 <= first <= second:
        raise ValueError(f"a tree of {second} leaves cannot extend one of {first}")
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
    """List the complete subtrees that make up a range of a proof, the largest first."""
    start, end = part
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def fold(hashes: Sequence[bytes]) -> bytes:
    """Compute the hash of a range from the hashes of its nodes."""
    if not hashes:
        return root_hash([])
    return reduce(lambda right, left: node_hash(left, right), reversed(hashes[:-1]), hashes[-1])


def inclusion_path(leaves: Iterable[bytes], index: int, size: int) -> list[bytes]:
    """Compute PATH(index, D[size]) from the hashes of all leaves. Each is read once, in order, and few hashes are kept.

    Raises ValueError if there is no such leaf.
    """
    ranges, rest = inclusion_ranges(index, size), iter(leaves)
    in_order = sorted([*ranges, (index, index + 1)])
    hashes = {(start, end): root_hash(islice(rest, end - start)) for start, end in in_order}
    return [hashes[part] for part in ranges]


def _split(width: int) -> int:
    """Give the largest power of two below a width of at least two."""
    return 1 << ((width - 1).bit_length() - 1)
