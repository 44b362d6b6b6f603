"""A child of the demo: trains one model after the other, each without some samples, by the workload's recipe."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from expunge.demo.children import tell
from expunge.demo.plan import Plan, Training, Weights, forget_sets
from expunge.operator.training import train_workload
from unlearning.task import Progress
from worker.inputs import load_workload
from worker.settings import allow_list

PAUSE = 0.2
"""Seconds between two reports of progress."""


def train_all(plan: Plan, trainings: Sequence[Training], *, folder: Path, state: Path) -> None:
    """Do the trainings, telling `state` of each step."""
    allowed = allow_list(plan.workloads)
    chosen = forget_sets(load_workload(plan.reference, allowed=allowed).train.ids, plan)
    left_out: Sequence[tuple[str, ...]] = ((), chosen.first, chosen.both)
    models: list[Weights] = []
    for training in trainings:
        trained = train_workload(
            plan.reference,
            allowed=allowed,
            folder=folder,
            seed=training.seed,
            without=left_out[training.without],
            show=teller(state, trained=models, trainings=len(trainings)),
        )
        models.append(Weights(path=str(trained.path), sha256=trained.sha256, seconds=trained.seconds))
    tell(state, step=1, total=1, result=listed(models))


def teller(state: Path, *, trained: Sequence[Weights], trainings: int) -> Callable[[Progress], None]:
    """Give a function that tells of a training's progress within all of them, and of the models before it, not too often."""
    last = 0.0

    def show(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= PAUSE:
            last = time.monotonic()
            step, total = len(trained) * progress.total + progress.step, trainings * progress.total
            tell(state, step=step, total=total, result=listed(trained))

    return show


def listed(models: Sequence[Weights]) -> dict[str, object]:
    """The models that are there, in the order they were asked for."""
    return {"models": [asdict(model) for model in models]}


def main() -> None:
    """Read the arguments and train."""
    given = json.loads(sys.argv[1])
    trainings = [Training(**training) for training in given["trainings"]]
    train_all(Plan(**given["plan"]), trainings, folder=Path(given["folder"]), state=Path(sys.argv[2]))


if __name__ == "__main__":
    main()
