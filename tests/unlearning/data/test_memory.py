"""A data set much larger than the memory that unlearning it takes."""

import subprocess
import sys
from pathlib import Path

import pytest

MIB = 2**20
ROWS_OF_A_GIB = 4096
LIMIT = 150 * MIB
"""What the run may take above what the process has after its imports; a few batches of 16 MiB with their copies."""

SCRIPT = """
import resource, sys
from dataclasses import replace
import numpy as np, torch
from torch import nn
from torch.utils.data import Dataset
from unlearning.audit.signals import audit_copy, observe
from unlearning.data.objectives import classification
from unlearning.data.samples import SampleSet, partition
from unlearning.data.stored import StoredSet
from unlearning.methods.registry import unlearn
from unlearning.specs import IEU, FineTune
from unlearning.specs.training import Recipe
from unlearning.state import State
from unlearning.steps import run_to_completion
from unlearning.task import Task

PATH, ROWS, WIDTH = sys.argv[1], int(sys.argv[2]), 65536

class Rows(Dataset):
    # Maps each row anew: the pages of one mapping would stay, and count, until the system needs them.
    def __len__(self):
        return ROWS

    def __getitem__(self, number):
        return np.memmap(PATH, np.float32, "r", offset=4 * WIDTH * number, shape=(WIDTH,))

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

torch.manual_seed(0)
# Logits that take 122 MiB in float64.
model, classes = nn.Linear(4, 4000).eval(), torch.arange(4000)
many = SampleSet(ids=tuple(map(str, range(4000))), inputs=torch.randn(4000, 4), targets=classes)
observe(model, many.take(classes[:64]), objective=classification(4000))
before = peak()
observe(model, many, objective=classification(4000))
print(peak() - before)

whole = StoredSet.of(Rows(), ids=range(ROWS), targets=torch.arange(ROWS) % 2)
forget, guide, criterion, remain = partition(whole, (16, 32, 32, ROWS - 80), seed=0)
build = lambda: nn.Sequential(nn.Unflatten(1, (1, WIDTH)), nn.AvgPool1d(4096), nn.Flatten(), nn.Linear(16, 2))
given = Task(
    model=build(), build=build, objective=classification(2), recipe=Recipe(epochs=1, batch_size=64, precision="float32"),
    forget=forget, remain=remain, guide=guide, criterion=criterion,
)
def run(spec, remain):
    run_to_completion(unlearn(spec, replace(given, remain=remain, state=State())))

# What torch allocates once, whatever the size of the data.
run(IEU(steps=1, repair_steps=1, passes=0.0), remain.take(torch.arange(64)))
before = peak()
run(FineTune(epochs=1), remain)
run(IEU(steps=2, repair_steps=2, passes=0.0), remain)
observe(audit_copy(given.model, remain), remain.take(torch.arange(512)), objective=given.objective)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in other units")
@pytest.mark.parametrize("gib", [0.25, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_many_logits_are_observed_and_a_large_set_is_unlearned_in_a_small_part_of_their_memory(
    gib: float, tmp_path: Path
) -> None:
    path = tmp_path / "rows.bin"
    with path.open("wb") as file:
        file.truncate(int(gib * 1024 * MIB))  # a hole: it takes no space on the disk
    command = [sys.executable, "-c", SCRIPT, str(path), str(int(gib * ROWS_OF_A_GIB))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    observing, unlearning = map(int, done.stdout.split())
    assert observing < LIMIT / 3
    assert unlearning < LIMIT
