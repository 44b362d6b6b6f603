"""The trees and proofs of RFC 6962, against the vectors that Certificate Transparency's implementations are tested with."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.merkle import consistent, included, leaf_hash, node_hash, root_hash

# github.com/transparency-dev/merkle, testonly/constants.go: the inputs, and the root of the first n of them.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(bytes.fromhex(text)) for text in INPUTS]

# The same project's testdata/inclusion/*/happy-path.json and testdata/consistency/*/happy-path.json, as nodes (level, place).
NODES = {(0, place): leaf for place, leaf in enumerate(LEAVES)}
for level in (1, 2, 3):
    NODES |= {
        (level, place): node_hash(NODES[level - 1, 2 * place], NODES[level - 1, 2 * place + 1])
        for place in range(8 >> level)
    }
INCLUSION = [
    (0, 1, []),
    (0, 8, [(0, 1), (1, 1), (2, 1)]),
    (5, 8, [(0, 4), (1, 3), (2, 0)]),
    (2, 3, [(1, 0)]),
    (1, 5, [(0, 0), (1, 1), (0, 4)]),
]
CONSISTENCY = [
    (1, 1, []),
    (1, 8, [(0, 1), (1, 1), (2, 1)]),
    (6, 8, [(1, 2), (1, 3), (2, 0)]),
    (2, 5, [(1, 1), (0, 4)]),
]


@pytest.mark.parametrize("size", range(9))
def test_the_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert root_hash(LEAVES[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_known_proofs_of_inclusion_hold(index: int, size: int, path: list[tuple[int, int]]) -> None:
    proof = [NODES[node] for node in path]
    assert included(LEAVES[index], index=index, size=size, path=proof, root=bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("first", "second", "path"), CONSISTENCY)
def test_known_proofs_of_consistency_hold(first: int, second: int, path: list[tuple[int, int]]) -> None:
    roots = {"first_root": bytes.fromhex(ROOTS[first]), "second_root": bytes.fromhex(ROOTS[second])}
    assert consistent(first=first, second=second, path=[NODES[node] for node in path], **roots)


def test_a_leaf_cannot_pass_for_a_node() -> None:
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != node_hash(LEAVES[0], LEAVES[1])


@pytest.mark.parametrize(
    "change",
    [
        {"index": 4},
        {"index": -1},
        {"index": 8},
        {"size": 9},
        {"size": 4},
        {"root": bytes(32)},
        {"path": []},
        {"path": [NODES[0, 4], NODES[1, 3]]},
        {"path": [NODES[0, 4], NODES[1, 3], NODES[2, 0], NODES[2, 0]]},
        {"path": [NODES[1, 3], NODES[0, 4], NODES[2, 0]]},
    ],
)
def test_a_proof_of_inclusion_that_was_changed_does_not_hold(change: dict[str, object]) -> None:
    good = {"index": 5, "size": 8, "path": [NODES[0, 4], NODES[1, 3], NODES[2, 0]], "root": bytes.fromhex(ROOTS[8])}
    assert included(LEAVES[5], **good)  # type: ignore[arg-type]  # the fields of a proof
    assert not included(LEAVES[5], **good | change)  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    "change",
    [
        {"first": 5},
        {"first": 9},
        {"first": 0},
        {"second": 17},
        {"second": 9},
        {"first_root": bytes(32)},
        {"second_root": bytes(32)},
        {"path": []},
        {"path": [NODES[1, 2], NODES[1, 3]]},
        {"path": [NODES[1, 2], NODES[1, 3], NODES[2, 0], NODES[2, 0]]},
    ],
)
def test_a_proof_of_consistency_that_was_changed_does_not_hold(change: dict[str, object]) -> None:
    good = {
        "first": 6,
        "second": 8,
        "first_root": bytes.fromhex(ROOTS[6]),
        "second_root": bytes.fromhex(ROOTS[8]),
        "path": [NODES[1, 2], NODES[1, 3], NODES[2, 0]],
    }
    assert consistent(**good)  # type: ignore[arg-type]  # the fields of a proof
    assert not consistent(**good | change)  # type: ignore[arg-type]  # as above


@given(st.integers(1, 70), st.data())
def test_no_other_leaf_passes_with_a_leafs_proof(size: int, data: st.DataObject) -> None:
    from ledger.transparency.merkle import inclusion_path

    leaves = [leaf_hash(place.to_bytes(2)) for place in range(size)]
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    path, root = inclusion_path(leaves, index, size), root_hash(leaves)
    assert included(leaves[index], index=index, size=size, path=path, root=root)
    assert included(leaves[other], index=index, size=size, path=path, root=root) == (other == index)
    assert not included(hashlib.sha256(b"stranger").digest(), index=index, size=size, path=path, root=root)
