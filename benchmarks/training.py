"""Ways to train faster on this machine: the layout of images, bf16, a compiler, and processes that read the data.

    python -m benchmarks.training

The network is `examples.image_folder`'s ResNet-18, on batches of 64 images, and the loop is the library's own. Each run has a
process of its own with one thread and an empty cache of compiled code. In it the ways take turns, so that other work on the machine
meets all of them, and each is compared with plain float32 in the same run. Seconds are of the processor, those of the compiler's
processes included. Then images are read from files and augmented, by the loop's own process or by 1 or 2 more; the share of time
that the loop waited for them is of wall-clock time.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from typing import Any

import torch
from torchvision import datasets

from benchmarks.writing import Row, row, write
from examples import image_folder
from unlearning.data.loading import WAITED
from unlearning.data.objectives import classification
from unlearning.data.samples import SampleSet
from unlearning.data.stored import StoredSet
from unlearning.specs.training import Precision, Recipe
from unlearning.training.loop import fresh, train

SEEDS = (100, 101, 102)
TURNS, STEPS = 5, 4
BATCH = image_folder.BATCH_SIZE
PLAIN = "float32"
WAYS: dict[str, tuple[torch.memory_format, Precision, str | None]] = {
    PLAIN: (torch.contiguous_format, "float32", None),
    "channels_last": (torch.channels_last, "float32", None),
    "bfloat16": (torch.contiguous_format, "bfloat16", None),
    "bfloat16, channels_last": (torch.channels_last, "bfloat16", None),
    "compiled": (torch.contiguous_format, "float32", "inductor"),
    "compiled, bfloat16, channels_last": (torch.channels_last, "bfloat16", "inductor"),
}
"""By name: the layout of network and images, the precision, and the backend of torch.compile."""
READERS = (0, 1, 2)


def main() -> None:
    """Run all processes and write the rows; or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one-run", type=int, help=argparse.SUPPRESS)
    seed = parser.parse_args().one_run
    if seed is not None:
        print(json.dumps({**measured(seed), **waiting(seed)}))
        return
    runs = []
    for seed in SEEDS:
        runs.append(in_process(seed))
        print(seed, runs[-1], file=sys.stderr, flush=True)
        write("training", rows(runs))


def rows(runs: list[dict[str, float]]) -> list[Row]:
    """Make a row for each way and reader; each run's figures are independent of the others'."""
    case = f"ResNet-18, {BATCH} images"
    made = []
    for way in WAYS:
        steps = [run[f"{way}, step"] for run in runs]
        made.append(row(steps, case=case, method=way, metric="step_seconds", unit="seconds"))
        ratios = [run[f"{PLAIN}, step"] / run[f"{way}, step"] for run in runs]
        made.append(row(ratios, case=case, method=way, metric="speed_up", unit="ratio"))
        if WAYS[way][2] is not None:
            first = [run[f"{way}, first"] for run in runs]
            made.append(row(first, case=case, method=way, metric="compile_seconds", unit="seconds"))
    for readers in READERS:
        found = [run[f"{readers}, waiting"] for run in runs]
        method = f"{readers or 'no'} reading process{'es' * (readers != 1)}"
        made.append(row(found, case="the folder, augmented", method=method, metric="waiting_share", unit="share"))
    return made


def in_process(seed: int) -> dict[str, float]:
    """Make one run in a process of its own; its last line has its figures."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache",
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "EXPUNGE_SCANS": f"{folder}/scans",
        }
        command = [sys.executable, "-m", "benchmarks.training", "--one-run", str(seed)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured(seed: int) -> dict[str, float]:
    """Measure each way: the first step, which compiles, and the mean of the later steps of all turns."""
    torch.set_num_threads(1)
    images = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    begun = {way: training(way, images, seed=seed) for way in WAYS}
    found: dict[str, float] = {}
    for way, steps in begun.items():
        found[f"{way}, first"] = timed(steps, 1)
        next(steps)
    for turn in range(TURNS):
        # The order changes from turn to turn, so that no way always follows the same one.
        for way in [*WAYS][turn:] + [*WAYS][:turn]:
            found[f"{way}, step"] = found.get(f"{way}, step", 0.0) + timed(begun[way], STEPS) / (TURNS * STEPS)
    return found


def training(way: str, images: torch.Tensor, *, seed: int) -> Generator[Any, None, Any]:
    """Begin a training in one of the ways that has as many steps as are taken."""
    layout, precision, compiler = WAYS[way]
    samples = SampleSet(
        ids=tuple(map(str, range(BATCH))),
        inputs=images.contiguous(memory_format=layout),
        targets=torch.arange(BATCH) % 10,
    )
    recipe = Recipe(
        epochs=2 + TURNS * STEPS, batch_size=BATCH, learning_rate=0.01, precision=precision, compiler=compiler
    )
    model = fresh(image_folder.network, seed=seed).to(memory_format=layout)  # type: ignore[call-overload]  # torch types this overload for tensors only
    return train(model, samples, recipe, objective=classification(10), seed=seed)


def timed(steps: Generator[Any, None, Any], count: int) -> float:
    """Take steps, and return the processor seconds that they took, those of ended child processes included."""
    before = _seconds()
    for _ in range(count):
        next(steps)
    return _seconds() - before


def _seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def waiting(seed: int) -> dict[str, float]:
    """Measure which share of two epochs on the example's own images the loop waits for them, by the processes that read."""
    plain, varied = (
        datasets.ImageFolder(str(image_folder.folder()), how) for how in (image_folder.PLAIN, image_folder.VARIED)
    )
    recipe = Recipe(epochs=2, batch_size=BATCH, learning_rate=image_folder.RATE, precision="float32")
    found = {}
    for readers in READERS:
        images = StoredSet.of(
            plain, ids=range(len(plain)), targets=plain.targets, training=varied, num_workers=readers
        ).take(image_folder.parts()[0])
        before, begun = WAITED.seconds, time.perf_counter()
        for _ in train(fresh(image_folder.network, seed=seed), images, recipe, objective=classification(10), seed=seed):
            pass
        found[f"{readers}, waiting"] = (WAITED.seconds - before) / (time.perf_counter() - begun)
    return found


if __name__ == "__main__":
    main()
