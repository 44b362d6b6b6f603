"""Measure everything at full size on one GPU, within minutes, and write the results after each step (docs/gpu.md).

    python -m benchmarks.gpu --data data
    python -m benchmarks.gpu --rehearse

Nothing of an earlier run is used: the file of the results is replaced after the first step.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu import beside, cases, checks, quality, sizes, training
from benchmarks.gpu.session import Budget, Session
from benchmarks.writing import RESULTS
from examples import cifar
from unlearning.data.samples import partition
from unlearning.data.workload import Workload

SECONDS = {"checks": 60, "data": 30, "beside": 60, "training": 20, "quality": 270, "sizes": 60, "more_seeds": 480}
"""The budgets of the steps. The command's own, `--minutes`, ends the last."""
_SIDE, _PER_CLASS = 16, 40
"""Pixels and images of each class that a rehearsal makes."""


def main() -> None:
    """Take all steps."""
    session = _session()
    compiler = "eager" if session.rehearsal else "inductor"
    arguments = ["-m", "benchmarks.gpu.training", f"--device={session.device}", f"--backend={compiler}"]
    asides = (
        beside.start(session, "tests", beside.gpu_tests(rehearsal=session.rehearsal), seconds=100),
        beside.start(session, "compiler", arguments + ["--small"] * session.rehearsal, seconds=100),
    )
    try:
        _take_steps(session, asides)
    finally:
        for aside in asides:
            beside.end(aside)
        shutil.rmtree(session.folder, ignore_errors=True)
    states = {entry["step"]: entry["state"] for entry in session.steps}
    print(f"{session.out}: {states}", flush=True)
    sys.exit("failed" in states.values() or bool(session.facts.get("failed_methods")))


def _take_steps(session: Session, asides: tuple[beside.Aside, beside.Aside]) -> None:
    session.run("checks", checks.conformance, seconds=SECONDS["checks"])
    workloads: list[Workload] = []
    session.run("data", partial(_read, workloads), seconds=SECONDS["data"])
    session.run("beside", lambda own, _: beside.finish(own, *asides), seconds=SECONDS["beside"])
    if not workloads:
        return
    specs = {kind: checks.few(kind) for kind in quality.SPECS} if session.rehearsal else quality.SPECS
    bench = cases.Bench(workload=workloads[0], specs=specs)

    def speed(own: Session, budget: Budget) -> None:
        chosen = training.speed(own, bench.workload, budget)
        bench.workload = replace(bench.workload, recipe=replace(bench.workload.recipe, compiler=chosen))

    session.run("training", speed, seconds=SECONDS["training"])
    session.run("quality", partial(quality.first_seed, bench), seconds=SECONDS["quality"])
    session.run("sizes", partial(sizes.sizes, bench), seconds=SECONDS["sizes"])
    session.run("more_seeds", partial(quality.more_seeds, bench), seconds=SECONDS["more_seeds"])


def _session() -> Session:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="CIFAR-10: a folder of images, a tar archive, or a folder with one")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no step begins, nor an item of a step")
    parser.add_argument("--rehearse", action="store_true", help="take every step in small, on the processor")
    parser.add_argument(
        "--out",
        type=Path,
        help="the file of the results (default: benchmarks/results/gpu.json; in a rehearsal .bench/gpu.json)",
    )
    given = parser.parse_args()
    if not given.rehearse and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --rehearse takes every step in small on the processor")
    folder = Path(tempfile.mkdtemp(prefix="expunge-gpu-"))
    if given.data is None and not given.rehearse:
        parser.error("--data must name the images of CIFAR-10")
    out = given.out or (Path(".bench") if given.rehearse else RESULTS) / "gpu.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    print(f"Nothing of an earlier run is used. Results: {out}", flush=True)
    return Session(
        device=torch.device("cpu" if given.rehearse else "cuda:0"),
        rehearsal=given.rehearse,
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


def _read(workloads: list[Workload], session: Session, budget: Budget) -> None:
    """Read the images, move them to the device, and put the workload into the list."""
    os.environ["EXPUNGE_CIFAR"] = str(session.data)
    given = cifar.resnet18_workload()
    if session.rehearsal:
        (train,) = partition(given.train, (min(300, len(given.train)),), seed=0)
        given = replace(given, build=training.small_network, train=train)
    recipe = training.SMALL if session.rehearsal else training.RECIPE
    parts = {name: getattr(given, name).to(session.device) for name in ("train", "held_out", "test")}
    workloads.append(replace(given, recipe=recipe, **parts))
    session.facts["samples"] = {name: len(samples) for name, samples in parts.items()}


if __name__ == "__main__":
    main()
