"""Two ranks end where one process ends."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.unlearning.ranked import CASES, MORE_CASES, OF_RANKS, Found
from tests.unlearning.small import samples
from unlearning import ranks
from unlearning.errors import MethodRefused, UnsupportedWorkload
from unlearning.methods.registry import check_needs
from unlearning.sharding import Blocks, blocks_of, is_sharded, place
from unlearning.specs.suitability import NEEDS, Need


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Found]]:
    """What each of two ranks gives, started once for all tests."""
    return started(tmp_path_factory, "usual")


@pytest.fixture(scope="module")
def more_of_a_pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Found]]:
    return started(tmp_path_factory, "more")


def started(tmp_path_factory: pytest.TempPathFactory, cases: str) -> list[dict[str, Found]]:
    folder = tmp_path_factory.mktemp("ranks")
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "0"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "-m", "tests.unlearning.ranked", str(folder), cases],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_end_where_one_process_ends(case: str, pair: list[dict[str, Found]]) -> None:
    check_alike(CASES[case](), *(found[case] for found in pair))


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE_CASES)
def test_more_of_two_ranks_ends_where_one_process_ends(case: str, more_of_a_pair: list[dict[str, Found]]) -> None:
    check_alike(MORE_CASES[case](), *(found[case] for found in more_of_a_pair))


def check_alike(one: Found, first: Found, second: Found) -> None:
    assert one.keys() == first.keys()
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name].double(), tensor.double(), rtol=0, atol=1e-5), name


@pytest.mark.parametrize("case", OF_RANKS)
def test_ranks_keep_the_same_weights_where_each_draws_for_itself(case: str, pair: list[dict[str, Found]]) -> None:
    first, second = (found[case] for found in pair)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("kind", sorted(kind for kind, needs in NEEDS.items() if Need.WHOLE_MODEL in needs))
def test_a_method_that_needs_the_whole_model_refuses_a_sharded_one_with_the_reason(kind: str) -> None:
    with pytest.raises(MethodRefused, match=f"{kind} needs all of it"):
        check_needs(kind, remain=samples(4, seed=0), sharded=True)


class Tied(nn.Module):
    """Its two blocks share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        self.blocks[1].weight = self.blocks[0].weight


@pytest.mark.parametrize(
    ("network", "blocks", "message"),
    [
        (Tied(), True, "shared between blocks"),
        (Tied(), (nn.Conv2d,), "no such module"),
        (Tied(), (nn.LSTM, nn.GRU), "LSTM, GRU"),
    ],
)
def test_blocks_that_cannot_be_gathered_one_at_a_time_are_refused(
    network: nn.Module, blocks: Blocks, message: str
) -> None:
    with pytest.raises(UnsupportedWorkload, match=message):
        blocks_of(network, blocks)


def test_the_usual_blocks_are_the_members_of_module_lists_or_else_the_children() -> None:
    listed, plain = (
        nn.ModuleDict({"a": nn.ModuleList([nn.Linear(1, 1), nn.ReLU()]), "b": nn.Linear(1, 1)}),
        nn.Sequential(),
    )
    plain.append(nn.Linear(2, 2)).append(nn.ReLU())

    assert blocks_of(listed, True) == [listed["a"][0]]  # type: ignore[index]  # a list
    assert blocks_of(plain, True) == [plain[0]]
    assert not is_sharded(place(plain, True, torch.device("cpu")))  # by one process


def test_one_process_joins_nobody() -> None:
    assert (ranks.count(), ranks.own_rank(), ranks.agreed(0.5), ranks.broadcast("word")) == (1, 0, 0.5, "word")
