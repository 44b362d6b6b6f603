"""Time and memory of unlearning by the size of the data set, at a fixed forget set, beside retraining; or by processes.

    python -m benchmarks.scaling                by the size, in one process
    python -m benchmarks.scaling --processes    by 1 and 2 processes, and with a sharded model

The samples lie in a memory-mapped file, 4 KiB each, and are read when they are needed. Each run has processes of its own with one
thread each. By the size: its CPU seconds, and its peak of resident memory above what it had before the method. By processes: the
CPU seconds of all, the wall-clock seconds beside them, and how much of parameters and optimiser state a process holds, which does
not depend on the machine. The audit is not part of a run.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from benchmarks import machine
from benchmarks.writing import Row, row, write
from unlearning import ranks
from unlearning.data.objectives import classification
from unlearning.data.samples import partition
from unlearning.data.stored import StoredSet
from unlearning.methods.registry import unlearn
from unlearning.sharding import local, place
from unlearning.specs import SPECS
from unlearning.specs.training import Recipe
from unlearning.steps import run_to_completion
from unlearning.storage import load_weights, save_weights
from unlearning.task import Task
from unlearning.training.loop import fit

SIZE, FACTORS, FORGOTTEN, HELD_OUT = 4_000, (1, 4, 16), 100, 1_000
WIDTH, CLASSES = 1024, 10
METHODS = ("ltu", "ieu", "retrain")
PROCESSES = (1, 2)
SEEDS = (100, 101, 102)
RECIPE = Recipe(epochs=3, batch_size=64, learning_rate=0.02, precision="float32")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run. method: None trains the original, whose weights go into `folder`; otherwise they are read there.

    deep: of a network with more parameters than work. sharded: each process has a part of it.
    """

    samples: int
    method: str | None
    seed: int
    folder: str
    weights: tuple[str, str] | None = None
    processes: int = 1
    deep: bool = False
    sharded: bool = False


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
    parser.add_argument("--processes", action="store_true", help="Measure by processes.")
    parser.add_argument("--one-run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one_run is not None:
        print(json.dumps(measured(Run(**json.loads(given.one_run)))))
        return
    with tempfile.TemporaryDirectory() as folder:
        if given.processes:
            write("scaling_processes", by_processes(Path(folder)))
        else:
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


def by_processes(folder: Path) -> list[Row]:
    """Measure each method by the number of processes, and Retrain of a deep network whole and sharded."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in SEEDS:
        write_samples(folder, SIZE + HELD_OUT, seed=seed)
        for deep in (False, True):
            size = SIZE // 4 if deep else SIZE
            trained = in_process(Run(samples=size, method=None, seed=seed, folder=str(folder), deep=deep))
            for number, method, sharded in _runs(deep=deep):
                run = Run(
                    samples=size,
                    method=method,
                    seed=seed,
                    folder=str(folder),
                    weights=trained["weights"],
                    processes=number,
                    deep=deep,
                    sharded=sharded,
                )
                case = f"{'deep network' if deep else f'{SIZE:,} samples'}, {number} process{'es' * (number > 1)}"
                key = case, f"{method}, sharded" if sharded else method
                found.setdefault(key, []).append(in_process(run))
                print(seed, *key, found[key][-1], file=sys.stderr, flush=True)
    return [
        row([run[measure] / scale for run in runs], case=case, method=method, metric=metric, unit=unit)
        for (case, method), runs in found.items()
        for measure, metric, unit, scale in (
            ("seconds", "seconds", "seconds", 1),
            ("wall", "wall_seconds", "seconds", 1),
            ("held", "held_memory", "MiB", 2**20),
        )
    ]


def _runs(*, deep: bool) -> list[tuple[int, str, bool]]:
    """List the runs of a network: processes, method, and whether the model is sharded."""
    if deep:
        return [(1, "retrain", False), (2, "retrain", False), (2, "retrain", True)]
    return [(number, method, False) for method in ("ieu", "retrain") for number in PROCESSES]


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
    """Make one run in processes of its own. Each of them prints the figures of all; the last line is read."""
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(run.processes), "--max-restarts", "0"]
    start = [] if run.processes == 1 else [*launch, "-m"]
    command = [sys.executable, "-m", *start, "benchmarks.scaling", "--one-run", json.dumps(asdict(run))]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def network() -> nn.Module:
    """Build a small perceptron."""
    return nn.Sequential(nn.Linear(WIDTH, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def deep_network() -> nn.Module:
    """Build a perceptron of 8.4 million parameters."""
    layers = [layer for _ in range(8) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


def measured(run: Run) -> dict[str, Any]:
    """Train the original and save it, or unlearn: CPU seconds, and bytes of peak memory above those before.

    With several processes: the sum of the CPU seconds, and the most memory and wall-clock seconds of one.
    """
    torch.set_num_threads(1)
    if run.processes == 1:
        return _measured(run)
    with ranks.joined(torch.device("cpu")):
        own = _measured(run)
        found = ranks.by_turns([lambda: own] * run.processes)
    return {name: (sum if name == "seconds" else max)(each[name] for each in found) for name in found[0]}


def _measured(run: Run) -> dict[str, Any]:
    build = deep_network if run.deep else network
    recipe = replace(RECIPE, epochs=1) if run.deep else RECIPE
    folder = Path(run.folder)
    labels = torch.from_numpy(np.load(folder / "labels.npy"))
    places = [*range(run.samples), *range(len(labels) - HELD_OUT, len(labels))]
    whole = StoredSet.of(Rows(folder / "samples.bin", len(labels)), ids=range(len(labels)), targets=labels)
    train = whole.take(torch.tensor(places[: run.samples]))
    if run.method is None:
        model = fit(build, train, recipe, objective=classification(CLASSES), seed=run.seed)
        path, sha256 = save_weights(model, folder)
        return {"weights": (str(path), sha256)}
    forget, remain = partition(train, (FORGOTTEN, run.samples - FORGOTTEN), seed=run.seed)
    guide, criterion = partition(whole.take(torch.tensor(places[run.samples :])), (HELD_OUT // 2,) * 2, seed=run.seed)
    model = build()
    assert run.weights is not None
    load_weights(model, Path(run.weights[0]), run.weights[1])
    task = Task(
        model=place(model.eval(), run.sharded, torch.device("cpu")),
        build=build,
        objective=classification(CLASSES),
        recipe=recipe,
        forget=forget,
        remain=remain,
        guide=guide,
        criterion=criterion,
        seed=run.seed,
    )
    memory, begun, started = peak_memory(), machine.seconds(), time.perf_counter()
    run_to_completion(unlearn(SPECS[run.method](), task))
    return {
        "seconds": machine.seconds() - begun,
        "wall": time.perf_counter() - started,
        "memory": peak_memory() - memory,
        "held": held_memory(task),
    }


def held_memory(task: Task) -> int:
    """Return the bytes of the parameters and of the optimiser's state that this process holds."""
    optimiser = task.state.parts["optimiser"]
    assert isinstance(optimiser, torch.optim.Optimizer)
    kept = [value for state in optimiser.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(local(tensor).nbytes for tensor in (*task.model.parameters(), *kept))


def peak_memory() -> int:
    """Return the most bytes of resident memory that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
