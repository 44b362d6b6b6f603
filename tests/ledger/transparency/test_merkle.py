import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.transparency.merkle import Range, consistency_ranges, fold, inclusion_path, inclusion_ranges, nodes_of
from verifier.merkle import consistent, included, leaf_hash, root_hash

LEAVES = [leaf_hash(bytes([place])) for place in range(130)]


def naive(leaves: list[bytes]) -> bytes:
    """MTH as RFC 6962, section 2.1, writes it down."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256().digest()
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\x01" + naive(leaves[:split]) + naive(leaves[split:])).digest()


def naive_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH as RFC 6962, section 2.1.1, writes it down."""
    if len(leaves) == 1:
        return []
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < split:
        return [*naive_path(index, leaves[:split]), naive(leaves[split:])]
    return [*naive_path(index - split, leaves[split:]), naive(leaves[:split])]


def naive_proof(first: int, leaves: list[bytes], known: bool = True) -> list[bytes]:
    """SUBPROOF as RFC 6962, section 2.1.2, writes it down."""
    if first == len(leaves):
        return [] if known else [naive(leaves)]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    if first <= split:
        return [*naive_proof(first, leaves[:split], known), naive(leaves[split:])]
    return [*naive_proof(first - split, leaves[split:], False), naive(leaves[:split])]


def stored(part: Range) -> bytes:
    """The hash of a range from complete subtrees alone, as the log has them."""
    return fold([naive(LEAVES[place << level : (place + 1) << level]) for level, place in nodes_of(part)])


@given(st.integers(1, len(LEAVES)), st.data())
def test_a_proof_of_inclusion_is_the_rfcs_and_holds(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    path = [stored(part) for part in inclusion_ranges(index, size)]
    assert path == naive_path(index, LEAVES[:size]) == inclusion_path(iter(LEAVES), index, size)
    assert included(LEAVES[index], index=index, size=size, path=path, root=naive(LEAVES[:size]))


@given(st.integers(1, len(LEAVES)), st.data())
def test_a_proof_of_consistency_is_the_rfcs_and_holds(second: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, second))
    path = [stored(part) for part in consistency_ranges(first, second)]
    assert path == naive_proof(first, LEAVES[:second])
    roots = {"first_root": naive(LEAVES[:first]), "second_root": naive(LEAVES[:second])}
    assert consistent(first=first, second=second, path=path, **roots)


@given(st.integers(0, len(LEAVES)))
def test_the_root_is_the_rfcs_however_it_is_computed(size: int) -> None:
    assert naive(LEAVES[:size]) == root_hash(iter(LEAVES[:size])) == stored((0, size))


class Kept(bytes):
    """A leaf that counts how many of them exist, and how many did at most."""

    now = most = 0

    def __new__(cls, value: bytes) -> "Kept":
        Kept.now += 1
        Kept.most = max(Kept.most, Kept.now)
        return super().__new__(cls, value)

    def __del__(self) -> None:
        Kept.now -= 1


@pytest.mark.parametrize("index", [0, 4321, 9999])
def test_a_proof_keeps_few_of_the_leaves_that_it_reads(index: int) -> None:
    size, Kept.most = 10_000, 0
    leaves = [leaf_hash(place.to_bytes(2)) for place in range(size)]
    path = inclusion_path(map(Kept, leaves), index, size)
    assert included(leaves[index], index=index, size=size, path=path, root=root_hash(leaves))
    assert Kept.most <= size.bit_length()


def test_every_tree_begins_with_the_empty_one() -> None:
    assert consistency_ranges(0, 5) == []
    assert consistent(first=0, second=5, first_root=naive([]), second_root=naive(LEAVES[:5]), path=[])


def test_a_leaf_or_a_tree_that_is_not_there_has_no_proof() -> None:
    for index, size in ((5, 5), (-1, 5), (0, 0)):
        with pytest.raises(ValueError, match="leaf"):
            inclusion_ranges(index, size)
    with pytest.raises(ValueError, match="leaves"):
        consistency_ranges(6, 5)
