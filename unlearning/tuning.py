"""A small budgeted search for a method's parameters, on a validation forget split: data that need not be forgotten at all.

The same budget for every method, or a comparison says who was tuned longer. A quasi-random sequence (Halton) needs no model of
the landscape, spreads any number of trials evenly, and is told by its seed; with the twenty trials or so that unlearning can
afford, a guided search would only begin to be guided.

The evaluating attack and the test set cannot be seen here: a `Task` holds neither, and a judge is given nothing else.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import qmc  # type: ignore[import-untyped]  # scipy ships no type information
from torch import nn

from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet, joined, partition
from unlearning.errors import MethodRefused
from unlearning.inference import in_pieces
from unlearning.methods.registry import unlearn
from unlearning.precision import in_float32
from unlearning.specs import Spec
from unlearning.specs.methods import Stop
from unlearning.specs.spaces import SPACES, Space
from unlearning.state import State
from unlearning.stopping.criterion import calibrate, check
from unlearning.task import Task
from unlearning.training.loop import drain, fit

Judge = Callable[[nn.Module], float]
"""How far a model is from what it should be; lower is better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One try: the spec, its score (lower is better, infinite where the weights are not finite) and the method's seconds."""

    spec: Spec
    score: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The best spec, the first of equals, and all trials in their order; the first is the one that was given."""

    spec: Spec
    trials: tuple[Trial, ...]


def search(
    given: Spec, task: Callable[[], Task], judge: Judge, *, budget: int, seed: int, space: Space | None = None
) -> Generator[Trial, None, Found]:
    """Try `given` and `budget` − 1 others that differ from it within `space` (default: its row of SPACES); yields each trial.

    task: makes the same validation task anew for each trial (see `validation`). Same seed, same specs. A method without a space
    is tried once.
    """
    trials = []
    for spec in candidates(given, SPACES[given.kind] if space is None else space, budget=budget, seed=seed):
        fresh = task()
        started = time.perf_counter()
        drain(unlearn(spec, fresh))
        seconds = time.perf_counter() - started
        finite = all(bool(torch.isfinite(p).all()) for p in fresh.model.parameters())
        score = judge(fresh.model) if finite else math.inf
        trials.append(Trial(spec=spec, score=math.inf if math.isnan(score) else score, seconds=seconds))
        yield trials[-1]
    return Found(spec=min(trials, key=lambda trial: trial.score).spec, trials=tuple(trials))


def candidates(given: Spec, space: Space, *, budget: int, seed: int) -> tuple[Spec, ...]:
    """`given` first, then points of a scrambled Halton sequence in `space`; without a space `given` alone."""
    if budget < 2 or not space:
        return (given,)
    points = qmc.Halton(len(space), rng=np.random.default_rng(seed)).random(budget - 1)
    chosen: list[dict[str, Any]] = [
        {name: space[name].at(float(share)) for name, share in zip(space, point, strict=True)} for point in points
    ]
    return (given, *(dataclasses.replace(given, **values) for values in chosen))


def validation(task: Task, *, size: int, seed: int) -> Callable[[], Task]:
    """Tasks like `task` in which `size` random remaining samples are to be forgotten, and D_f is not touched at all.

    Raises MethodRefused where fewer samples remain than would be forgotten and left.
    """
    if not 0 < size < len(task.remain):
        raise MethodRefused(
            f"A validation forget split of {size} needs more remaining samples than the {len(task.remain)} there are."
        )
    forget, remain = partition(task.remain, (size, len(task.remain) - size), seed=seed)
    original = copy.deepcopy(task.model)

    def make() -> Task:
        return dataclasses.replace(
            task, model=copy.deepcopy(original), forget=forget, remain=remain, seed=seed, state=State()
        )

    return make


def oracle_of(task: Task, *, seed: int) -> nn.Module:
    """The model retrained on the validation task's remaining set: what its forgetting is compared with."""
    return fit(task.build, task.remain, task.recipe, objective=task.objective, seed=seed)


def against_oracle(task: Task, oracle: nn.Module) -> Judge:
    """The mean gap to a retrained model, in points, on the validation task: accuracy on its forget set, on its remaining set and on
    held-out data, and the mean probability of the true label on its forget set. Raises MethodRefused without logits.
    """
    sets = (task.forget, task.remain, joined(task.criterion, task.guide))
    wanted = _answers(oracle, sets, task.objective)
    return lambda model: float(np.mean(np.abs(np.subtract(_answers(model, sets, task.objective), wanted))))


def by_criterion(task: Task, *, stop: Stop | None = None) -> Judge:
    """Without an oracle: the calibrated criterion's mismatch, in standard errors, and the share of the allowed drop used, squared;
    a drop beyond what is allowed counts a hundredfold.
    """
    stop = stop or Stop()
    criterion = calibrate(task, stop)

    def judge(model: nn.Module) -> float:
        found = check(criterion, model)
        used = found.drop / max(stop.allowed_drop, 1e-6)
        return max(0.0, found.score - stop.tolerance) + min(1.0, used) ** 2 + 100 * max(0.0, used - 1)

    return judge


@in_float32
@torch.no_grad()
def _answers(model: nn.Module, sets: tuple[SampleSet, ...], objective: Objective) -> list[float]:
    if objective.logits is None:
        raise MethodRefused("A comparison with a retrained model needs logits; judge by the criterion instead.")
    model.eval()
    found = []
    for samples in sets:
        p = objective.logits(in_pieces(model), samples.inputs).softmax(-1)
        found.append(100 * float((p.argmax(-1) == samples.targets).float().mean()))
        if not found[1:]:
            found.append(100 * float(p.gather(1, samples.targets[:, None]).mean()))
    return found
