"""Measure everything at full size on one GPU, within minutes, and write the results after each step (docs/gpu.md).

    python -m benchmarks.gpu --data data
    python -m benchmarks.gpu --dry-run

Nothing of an earlier run is used: the file of the results is replaced after the first step.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from benchmarks.cases import with_recipe
from benchmarks.gpu import background, cases, checks, language, quality, sizes, training
from benchmarks.gpu.session import Budget, Session
from benchmarks.machine import DEVICE
from benchmarks.writing import RESULTS
from examples import cifar
from unlearning.data.samples import partition
from unlearning.data.workload import Workload

T = TypeVar("T")

SECONDS = {
    "checks": 60, "data": 30, "background": 60, "training": 20, "quality": 270, "sizes": 60, "language": 120, "more_seeds": 480
}  # fmt: skip
"""The budgets of the steps. The command's own, `--minutes`, ends the last."""
_SIDE, _PER_CLASS = 16, 40
"""Pixels and images of each class that a dry run makes."""


def main() -> None:
    """Take all steps."""
    session = _session()
    os.environ["EXPUNGE_BENCH"] = str(session.folder)  # `benchmarks.cases` stores models here, for this run alone
    compiler = ["-m", "benchmarks.gpu.training", f"--backend={'eager' if session.dry_run else 'inductor'}"]
    tests = background.gpu_tests(dry_run=session.dry_run)
    commands = {"tests": tests, "compiler": compiler + ["--small"] * session.dry_run}
    if time.monotonic() >= session.ends:
        commands = {}  # no step would wait for them
    processes = [background.start(session, *command, seconds=100) for command in commands.items()]
    try:
        _take_steps(session, processes)
    finally:
        for process in processes:
            background.kill(process)
        shutil.rmtree(session.folder, ignore_errors=True)
    states = {entry["step"]: entry["state"] for entry in session.steps}
    print(f"{session.out}: {states}", flush=True)
    sys.exit("failed" in states.values() or bool(session.facts.get("failed_methods")))


def _take_steps(session: Session, processes: Sequence[background.Background]) -> None:
    def step(name: str, work: Callable[[Session, Budget], T]) -> T | None:
        return session.run(name, work, seconds=SECONDS[name])

    step("checks", checks.conformance)
    workload = step("data", _read)
    step("background", partial(background.collect, processes))
    if workload is None:
        return
    chosen = step("training", partial(training.speed, workload))
    bench = cases.Bench(
        workload=with_recipe(workload, compiler=chosen),
        specs={kind: checks.few(kind) for kind in quality.SPECS} if session.dry_run else quality.SPECS,
    )
    step("quality", partial(quality.seed, bench, quality.SEEDS[0]))
    step("sizes", partial(sizes.sizes, bench))
    texts = (
        {kind: checks.few(spec.kind) for kind, spec in language.SPECS.items()} if session.dry_run else language.SPECS
    )
    step("language", partial(language.language, bench, texts))
    step("more_seeds", partial(quality.more_seeds, bench))


def _session() -> Session:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="CIFAR-10: a folder of images, a tar archive, or a folder with one")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no step begins, nor an item of a step")
    parser.add_argument("--dry-run", action="store_true", help="take every step in small, on a GPU or without one")
    parser.add_argument(
        "--out",
        type=Path,
        help="the file of the results (default: benchmarks/results/gpu.json; in a dry run .bench/gpu.json)",
    )
    given = parser.parse_args()
    if not given.dry_run and DEVICE.type == "cpu":
        parser.error("torch finds no CUDA device; --dry-run takes every step in small on the processor")
    if given.data is None and not given.dry_run:
        parser.error("--data must name the images of CIFAR-10")
    folder = Path(tempfile.mkdtemp(prefix="expunge-gpu-"))
    out = given.out or (Path(".bench") if given.dry_run else RESULTS) / "gpu.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    print(f"Nothing of an earlier run is used. Results: {out}", flush=True)
    return Session(
        dry_run=given.dry_run,
        data=_images(given.data) if given.data else _generated(folder / "images"),
        out=out,
        folder=folder,
        ends=time.monotonic() + 60 * given.minutes,
    )


def _images(path: Path) -> Path:
    """Return the archive in a folder that has one, else the path itself."""
    return next(iter(sorted(path.glob("cifar10*.tar*"))), path) if path.is_dir() else path


def _generated(folder: Path) -> Path:
    """Write small images, of which each class has a colour in much noise, as a data folder."""
    rng = np.random.default_rng(0)
    colours = rng.integers(80, 176, (len(cifar.CLASSES), 1, 1, 3))
    for part, count in (("train", _PER_CLASS), ("test", _PER_CLASS // 4)):
        for label, name in enumerate(cifar.CLASSES):
            (folder / part / name).mkdir(parents=True)
            noise = rng.normal(0, 60, (count, _SIDE, _SIDE, 3))
            for number, pixels in enumerate((colours[label] + noise).clip(0, 255).astype(np.uint8)):
                Image.fromarray(pixels).save(folder / part / name / f"{number:05d}.png")
    return folder


def _read(session: Session, _: Budget) -> Workload:
    """Read the images and move them to the device."""
    os.environ["EXPUNGE_CIFAR"] = str(session.data)
    given = cifar.resnet18_workload()
    if session.dry_run:
        (train,) = partition(given.train, (min(300, len(given.train)),), seed=0)
        given = replace(given, build=training.small_network, train=train)
    recipe = training.SMALL if session.dry_run else training.RECIPE
    parts = {name: getattr(given, name).to(DEVICE) for name in ("train", "held_out", "test")}
    session.facts["samples"] = {name: len(samples) for name, samples in parts.items()}
    return replace(given, recipe=recipe, **parts)


if __name__ == "__main__":
    main()
