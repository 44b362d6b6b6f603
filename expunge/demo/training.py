"""The demo's models: trained by processes of one thread each, and measured on a forget set."""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import TimeoutExpired
from threading import Lock
from typing import Any, Self

import torch

from expunge.cli.console import ProgressDisplay
from expunge.demo.table import Figures
from expunge.errors import DemoFailed
from expunge.operator.workloads import read_details
from expunge.stack.process import Child, Program, start, tail
from expunge.stack.stack import PASSIVE, stop_all
from unlearning.audit.measures import measure
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload, split_held_out
from unlearning.storage import load_weights

BACKGROUND = ("nice", "-n", "10")
"""Starts a command that leaves the processor to all others."""
ONE_THREAD = {**PASSIVE, "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """Trained weights on disk. seconds: of the training."""

    path: Path
    seconds: float


class TrainingQueue:
    """Runs `expunge train` and `expunge references` processes one after the other. Leaving the context stops them.

    reference: the workload. workloads: its allow-list. folder: for weights and logs. background: whether its processes
    leave the processor to all others.
    """

    def __init__(
        self, *, reference: str, workloads: str, folder: Path, display: ProgressDisplay, background: bool = False
    ) -> None:
        self._reference, self._workloads, self._folder, self._display = reference, workloads, folder, display
        self._before = BACKGROUND if background else ()
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._submitted: list[Future[Any]] = []
        self._running: list[Child] = []
        self._closed = False
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._closed = True
        # First, or the next one starts when this one is stopped.
        self._executor.shutdown(wait=False, cancel_futures=True)
        stop_all(self._running)
        self._executor.shutdown()

    def submit(self, name: str, *, seed: int, without: Sequence[str] = ()) -> Future[Model]:
        """Queue a training. without: sample IDs to leave out. The result raises DemoFailed with the log's tail."""
        future = self._executor.submit(self._train, name, seed, without)
        self._submitted.append(future)
        return future

    def submit_references(self, name: str, *, model: str, data_dir: Path, rounds: int) -> Future[float]:
        """Queue the preparation of a registered model's reference predictions. The result is its seconds, or raises DemoFailed.

        rounds: of those that methods aim at, and as many for the audit.
        """
        future = self._executor.submit(self._prepare, name, model, data_dir, rounds)
        self._submitted.append(future)
        return future

    def check(self) -> None:
        """Raise DemoFailed if a training has failed."""
        for future in self._submitted:
            if future.done():
                future.result()

    def _train(self, name: str, seed: int, without: Sequence[str]) -> Model:
        folder = self._folder / name.replace(" ", "-")
        folder.mkdir(parents=True)
        left_out = folder / "without.txt"
        left_out.write_text("".join(f"{sample}\n" for sample in without))
        self._run(name, "train", self._reference, "--out", str(folder), "--seed", str(seed), "--without", str(left_out))
        (path,) = folder.glob("*.safetensors")
        return Model(path=path, seconds=float(str(read_details(path)["training_seconds"])))

    def _prepare(self, name: str, model: str, data_dir: Path, rounds: int) -> float:
        started = time.monotonic()
        plan = ("--rounds", str(rounds), "--audit-rounds", str(rounds))
        self._run(name, "references", model, *plan, "--yes", "--data-dir", str(data_dir))
        return time.monotonic() - started

    def _run(self, name: str, *arguments: str) -> None:
        """Run a command of `expunge` to its end. Raises DemoFailed with the log's tail."""
        folder = self._folder / name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        program = Program(
            name=name.capitalize(),
            command=(*self._before, sys.executable, "-m", "expunge.cli", *arguments),
            log=folder / f"{arguments[0]}.log",
            ready=lambda: True,
            environment={**ONE_THREAD, "EXPUNGE_WORKLOADS": self._workloads},
            stop_within=2.0,
        )
        with self._lock:
            if self._closed:
                raise CancelledError
            child = start(program)
            self._running[:] = [child]
        status = self._follow(child, name)
        if status:
            raise DemoFailed(f"{program.name} ended with status {status}.{tail(program.log)}")

    def _follow(self, child: Child, description: str) -> int:
        task = self._display.add_task(description)
        while True:
            try:
                status = child.process.wait(timeout=0.5)
            except TimeoutExpired:
                self._display.update(task)
            else:
                self._display.update(task, completed=1, total=1)
                return status


def measure_model(
    workload: Workload, model: Model, *, forget: Sequence[str], forgotten: Sequence[str], seed: int
) -> Figures:
    """Measure a model as the audit does, but without relearning.

    forget: IDs of the forget set. forgotten: IDs of all samples that are not in the remaining set.
    """
    built = workload.build()
    load_weights(built, model.path, model.path.stem)
    measured = measure(
        built.eval(),
        forget=_select(workload.train, set(forget)),
        remain=_select(workload.train, set(workload.train.ids) - set(forgotten)),
        held_out=split_held_out(workload.held_out).audit,
        test=workload.test,
        objective=workload.objective,
        seed=seed,
    )
    return Figures(
        ua=measured["ua"],
        ra=measured["ra"],
        ta=measured["ta"],
        mi=measured["mi"],
        membership_auc=measured["membership_auc"],
    )


def _select(samples: SampleSet, ids: set[str]) -> SampleSet:
    return samples.take(torch.tensor([i for i, sample in enumerate(samples.ids) if sample in ids], dtype=torch.int64))
