"""Two ranks end where one process ends."""

import os
import subprocess
import sys

import pytest
import torch

from tests.unlearning.ranked import CASES, OF_RANKS, Found
from unlearning import ranks


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Found]]:
    """What each of two ranks gives, started once for all tests."""
    folder = tmp_path_factory.mktemp("ranks")
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "0"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "-m", "tests.unlearning.ranked", str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_end_where_one_process_ends(case: str, pair: list[dict[str, Found]]) -> None:
    one, (first, second) = CASES[case](), (found[case] for found in pair)
    assert one.keys() == first.keys()
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name].double(), tensor.double(), rtol=0, atol=1e-5), name


@pytest.mark.parametrize("case", OF_RANKS)
def test_ranks_keep_the_same_weights_where_each_draws_for_itself(case: str, pair: list[dict[str, Found]]) -> None:
    first, second = (found[case] for found in pair)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_one_process_joins_nobody() -> None:
    assert (ranks.count(), ranks.own_rank(), ranks.agreed(0.5), ranks.broadcast("word")) == (1, 0, 0.5, "word")
