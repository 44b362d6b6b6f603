"""Time and memory of unlearning by the size of the data set, at a fixed forget set, beside retraining.

    python -m benchmarks.scaling

The samples lie in a memory-mapped file, 4 KiB each, and are read when they are needed. Each run is a process of its own with one
thread: its CPU seconds, and its peak of resident memory above what it had before the method. The audit is not part of a run.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from benchmarks import machine
from benchmarks.writing import Row, row, write
from unlearning.data.objectives import classification
from unlearning.data.samples import partition
from unlearning.data.stored import StoredSet
from unlearning.methods.registry import unlearn
from unlearning.specs import SPECS
from unlearning.specs.training import Recipe
from unlearning.storage import load_weights, save_weights
from unlearning.task import Task, run_to_completion
from unlearning.training.loop import fit

SIZE, FACTORS, FORGOTTEN, HELD_OUT = 4_000, (1, 4, 16), 100, 1_000
WIDTH, CLASSES = 1024, 10
METHODS = ("ltu", "ieu", "retrain")
SEEDS = (100, 101, 102)
RECIPE = Recipe(epochs=3, batch_size=64, learning_rate=0.02, precision="float32")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One process. method: None trains the original, whose weights go into `folder`; otherwise they are read there."""

    samples: int
    method: str | None
    seed: int
    folder: str
    weights: tuple[str, str] | None = None


class Rows(Dataset[NDArray[np.float32]]):
    """Maps each row anew: the pages of one mapping would stay in memory, and count, until the system needs them."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> NDArray[np.float32]:
        return np.memmap(self.path, np.float32, "r", offset=4 * WIDTH * number, shape=(WIDTH,))


def main() -> None:
    """Run all processes and write the rows; or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run is not None:
        print(json.dumps(measured(Run(**json.loads(given.run)))))
        return
    with tempfile.TemporaryDirectory() as folder:
        write("scaling", measure_all(Path(folder)))


def measure_all(folder: Path) -> list[Row]:
    """Measure each size, seed and method."""
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    for seed in SEEDS:
        write_samples(folder, max(FACTORS) * SIZE + HELD_OUT, seed=seed)
        for factor in FACTORS:
            size = factor * SIZE
            trained = in_process(Run(samples=size, method=None, seed=seed, folder=str(folder)))
            for method in METHODS:
                run = Run(samples=size, method=method, seed=seed, folder=str(folder), weights=trained["weights"])
                found.setdefault((size, method), []).append(in_process(run))
                print(seed, size, method, found[size, method][-1], file=sys.stderr, flush=True)
    return rows(found)


def rows(found: dict[tuple[int, str], list[dict[str, float]]]) -> list[Row]:
    """Compute seconds, their ratio to retraining with the same seed, and memory in MiB."""
    made = []
    for (size, method), runs in found.items():
        case = f"{size:,} samples"
        seconds = [run["seconds"] for run in runs]
        ratios = [run["seconds"] / whole["seconds"] for run, whole in zip(runs, found[size, "retrain"], strict=True)]
        memory = [run["memory"] / 2**20 for run in runs]
        for values, metric, unit in (
            (seconds, "seconds", "seconds"),
            (ratios, "retrain_ratio", "ratio"),
            (memory, "peak_memory", "MiB"),
        ):
            made.append(row(values, case=case, method=method, metric=metric, unit=unit))
    return made


def write_samples(folder: Path, count: int, *, seed: int) -> None:
    """Write Gaussian samples around a mean for each class, chunk by chunk, and their labels."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32) * 0.1
    labels = rng.integers(CLASSES, size=count)
    np.save(folder / "labels.npy", labels)
    with (folder / "samples.bin").open("wb") as file:
        for chunk in np.array_split(labels, max(1, count // 4096)):
            file.write((means[chunk] + rng.normal(size=(len(chunk), WIDTH)).astype(np.float32)).tobytes())


def in_process(run: Run) -> dict[str, Any]:
    """Make one run in a process of its own and read what it prints."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--run", json.dumps(asdict(run))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def network() -> nn.Module:
    """Build a small perceptron."""
    return nn.Sequential(nn.Linear(WIDTH, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def measured(run: Run) -> dict[str, Any]:
    """Train the original and save it, or unlearn: CPU seconds, and bytes of peak memory above those before."""
    torch.set_num_threads(1)
    folder = Path(run.folder)
    labels = torch.from_numpy(np.load(folder / "labels.npy"))
    places = [*range(run.samples), *range(len(labels) - HELD_OUT, len(labels))]
    whole = StoredSet.of(Rows(folder / "samples.bin", len(labels)), ids=range(len(labels)), targets=labels)
    train = whole.take(torch.tensor(places[: run.samples]))
    if run.method is None:
        model = fit(network, train, RECIPE, objective=classification(CLASSES), seed=run.seed)
        path, sha256 = save_weights(model, folder)
        return {"weights": (str(path), sha256)}
    forget, remain = partition(train, (FORGOTTEN, run.samples - FORGOTTEN), seed=run.seed)
    guide, criterion = partition(whole.take(torch.tensor(places[run.samples :])), (HELD_OUT // 2,) * 2, seed=run.seed)
    model = network()
    assert run.weights is not None
    load_weights(model, Path(run.weights[0]), run.weights[1])
    task = Task(
        model=model.eval(),
        build=network,
        objective=classification(CLASSES),
        recipe=RECIPE,
        forget=forget,
        remain=remain,
        guide=guide,
        criterion=criterion,
        seed=run.seed,
    )
    memory, begun = peak_memory(), machine.seconds()
    run_to_completion(unlearn(SPECS[run.method](), task))
    return {"seconds": machine.seconds() - begun, "memory": peak_memory() - memory}


def peak_memory() -> int:
    """Return the most bytes of resident memory that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
