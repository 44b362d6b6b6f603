"""Tune a method's parameters by a small search on a validation forget split: remaining samples that need not be forgotten.

Every method gets the same budget, so that a comparison does not favour the one that was tuned longer. Candidates are points of a
quasi-random sequence (Halton), which spreads any number of trials evenly and depends on its seed alone. A guided search would learn
little from the twenty trials or so that unlearning can afford.

`SPACES` has the parameters of each method that vary, with their ranges (all [ours]).

The search cannot see the evaluating attack or the test set: a `Task` holds neither, and a judge gets nothing else.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import qmc  # type: ignore[import-untyped]  # scipy ships no type information
from torch import nn

from unlearning.data.objectives import Answers, Objective
from unlearning.data.samples import SampleSet, joined, partition
from unlearning.errors import InvalidSpec, MethodRefused
from unlearning.hardware import batched_answers, in_float32
from unlearning.methods.registry import unlearn
from unlearning.networks import copy_network, is_finite
from unlearning.specs import Spec
from unlearning.specs.methods import Stop
from unlearning.state import State
from unlearning.steps import run_to_completion
from unlearning.stopping.criterion import calibrate, check
from unlearning.task import Task
from unlearning.training.loop import fit


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """A range from `low` to `high`, evenly spread on a linear or a logarithmic scale; `whole` rounds to whole numbers."""

    low: float
    high: float
    scale: Literal["log", "linear"] = "log"
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.scale == "log" and self.low <= 0):
            raise InvalidSpec(
                f"A range from {self.low} to {self.high} is empty or, on a log scale, does not begin above 0."
            )

    def at(self, share: float) -> float | int:
        """Return the value below which `share`, 0 to 1, of the range lies."""
        linear = self.low + share * (self.high - self.low)
        value = self.low * (self.high / self.low) ** share if self.scale == "log" else linear
        return round(value) if self.whole else float(value)


Space = Mapping[str, Range]
"""Ranges by the name of a spec's field."""

_RATE = Range(low=0.001, high=0.1)
_EPOCHS = Range(low=2, high=15, whole=True)
_ADAM_RATE = Range(low=1e-4, high=3e-3)
_FORGET_EPOCHS = Range(low=2, high=40, whole=True)

SPACES: dict[str, Space] = {
    "ltu": {
        "learning_rate": Range(low=0.02, high=0.2),
        "inner_rate": Range(low=0.002, high=0.2),
        "forgetting_weight": Range(low=0.2, high=5),
        "scramble_weight": Range(low=0.02, high=0.5),
        "overshoot": Range(low=0, high=2, scale="linear"),
    },
    "ieu": {
        "learning_rate": Range(low=0.01, high=0.2),
        "ascent": Range(low=0.2, high=5),
        "noise": Range(low=0.005, high=0.2),
        "decay": Range(low=0.001, high=1),
    },
    "matching": {"learning_rate": Range(low=0.01, high=0.2), "steps": Range(low=30, high=480, whole=True)},
    "gradient_ascent": {"learning_rate": Range(low=0.0003, high=0.03), "steps": Range(low=10, high=300, whole=True)},
    "retrain": {},
    "rewind": {},
    "drop_adapter": {},
    "certified": {"decay": Range(low=0.001, high=0.1)},
    "fine_tune": {"learning_rate": _RATE, "epochs": _EPOCHS},
    "neggrad_plus": {
        "learning_rate": _RATE,
        "epochs": _EPOCHS,
        "remain_weight": Range(low=0.8, high=1, scale="linear"),
    },
    "grad_diff": {"learning_rate": _ADAM_RATE, "epochs": _FORGET_EPOCHS, "forget_weight": Range(low=0.1, high=1)},
    "npo": {"learning_rate": _ADAM_RATE, "epochs": _FORGET_EPOCHS, "beta": Range(low=0.02, high=1)},
    "sim_npo": {"learning_rate": _ADAM_RATE, "epochs": _FORGET_EPOCHS, "beta": Range(low=0.5, high=5)},
    "rmu": {
        "learning_rate": _ADAM_RATE,
        "epochs": _FORGET_EPOCHS,
        "steering": Range(low=0.5, high=8),
        "remain_weight": Range(low=1, high=300),
    },
    "random_labels": {"learning_rate": _RATE, "epochs": _EPOCHS},
    "amnesiac_relabel": {"learning_rate": _RATE, "epochs": _EPOCHS},
    "fisher_noise": {"noise": Range(low=1e-5, high=0.03)},
    "ssd": {"selection": Range(low=0.5, high=100), "dampening": Range(low=0.1, high=5)},
    "bad_teacher": {"learning_rate": Range(low=1e-5, high=0.01), "epochs": Range(low=1, high=5, whole=True)},
    "salun": {"learning_rate": _RATE, "epochs": _EPOCHS, "saliency": Range(low=0.1, high=1, scale="linear")},
    "msg": {"learning_rate": _RATE, "epochs": _EPOCHS, "redrawn": Range(low=0.05, high=0.6, scale="linear")},
    "ct": {"learning_rate": _RATE, "epochs": _EPOCHS},
}
"""The search space of each method, by its kind."""

Judge = Callable[[nn.Module], float]
"""Scores a model: how far it is from what it should be; lower is better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One trial: the spec, its score (lower is better, infinite if the weights are not finite) and the method's seconds."""

    spec: Spec
    score: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """The best spec (the first among equals) and all trials in their order, the first with the given spec."""

    spec: Spec
    trials: tuple[Trial, ...]


def search(
    given: Spec, task: Callable[[], Task], judge: Judge, *, budget: int, seed: int, space: Space | None = None
) -> Generator[Trial, None, SearchResult]:
    """Run `given` and `budget` − 1 variants of it within `space` (default: its row of SPACES); yield each trial.

    task: makes the same validation task anew for each trial (see `validation_task`). Same seed, same specs. A method without a
    space is run once.
    """
    trials = []
    for spec in candidates(given, SPACES[given.kind] if space is None else space, budget=budget, seed=seed):
        fresh = task()
        started = time.perf_counter()
        run_to_completion(unlearn(spec, fresh))
        seconds = time.perf_counter() - started
        score = judge(fresh.model) if is_finite(fresh.model) else math.inf
        trials.append(Trial(spec=spec, score=math.inf if math.isnan(score) else score, seconds=seconds))
        yield trials[-1]
    return SearchResult(spec=min(trials, key=lambda trial: trial.score).spec, trials=tuple(trials))


def candidates(given: Spec, space: Space, *, budget: int, seed: int) -> tuple[Spec, ...]:
    """List `given`, then points of a scrambled Halton sequence in `space`; without a space `given` alone."""
    if budget < 2 or not space:
        return (given,)
    points = qmc.Halton(len(space), rng=np.random.default_rng(seed)).random(budget - 1)
    chosen: list[dict[str, Any]] = [
        {name: space[name].at(float(share)) for name, share in zip(space, point, strict=True)} for point in points
    ]
    return (given, *(dataclasses.replace(given, **values) for values in chosen))


def validation_task(task: Task, *, size: int, seed: int) -> Callable[[], Task]:
    """Return a function that makes tasks like `task` that forget `size` random remaining samples and do not use D_f.

    Raises MethodRefused unless more than `size` samples remain.
    """
    if not 0 < size < len(task.remain):
        raise MethodRefused(
            f"A validation forget split of {size} samples needs more than that of remaining samples; there are {len(task.remain)}."
        )
    forget, remain = partition(task.remain, (size, len(task.remain) - size), seed=seed)
    original = copy_network(task.model)

    def make() -> Task:
        return dataclasses.replace(
            task,
            model=copy_network(original),
            forget=forget,
            remain=remain,
            seed=seed,
            references=None,
            state=State(),
        )

    return make


def retrain_without_split(task: Task, *, seed: int) -> nn.Module:
    """Train a new model on the validation task's remaining set, for `judge_by_retrained`."""
    return fit(task.build, task.remain, task.recipe, objective=task.objective, seed=seed, original=task.model)


def judge_by_retrained(task: Task, retrained: nn.Module) -> Judge:
    """Score a model by its mean gap to a retrained model on the validation task, in points.

    Compared are the merit (`Objective.utility`: with classes the accuracy) on the forget set, on the remaining set and on held-out
    data, and on the forget set the mean probability of the true label, or without classes of exp(−loss).
    """
    sets = (task.forget, task.remain, joined(task.criterion, task.guide))
    wanted = _compared_figures(retrained, sets, task.objective)
    return lambda model: float(np.mean(np.abs(np.subtract(_compared_figures(model, sets, task.objective), wanted))))


def judge_by_criterion(task: Task, *, stop: Stop | None = None) -> Judge:
    """Score a model without a retrained one, by the calibrated criterion.

    The score is the mismatch beyond the tolerance, in standard errors, plus the squared share of the allowed drop that is used up;
    a drop beyond the allowed one counts a hundredfold.
    """
    stop = stop or Stop()
    criterion = calibrate(task, stop)

    def judge(model: nn.Module) -> float:
        latest = check(criterion, model)
        used = latest.drop / max(stop.allowed_drop, 1e-6)
        return max(0.0, latest.score - stop.tolerance) + min(1.0, used) ** 2 + 100 * max(0.0, used - 1)

    return judge


@in_float32
def _compared_figures(model: nn.Module, sets: tuple[SampleSet, ...], objective: Objective) -> list[float]:
    """Compute, in points, the merit of each set, and the likelihood of the first one's targets."""
    model.eval()
    figures = [_merit_and_likelihood(batched_answers(objective, model, samples).float(), objective) for samples in sets]
    return [*(merit for merit, _ in figures), figures[0][1]]


def _merit_and_likelihood(found: Answers, objective: Objective) -> tuple[float, float]:
    """Compute the mean merit, in points, and the mean probability of the true label, or without classes exp(−loss), in percent."""
    merit = objective.utility
    points = torch.nan_to_num(merit.of(found).double(), nan=merit.bounds[0], neginf=merit.bounds[0])
    if objective.logits is None or found.outputs is None:
        likelihoods = torch.nan_to_num((-found.losses).exp(), nan=0.0).clamp(0.0, 1.0)
    else:
        likelihoods = found.outputs.softmax(-1).gather(1, found.targets[:, None])
    return float(points.mean().clamp(*merit.bounds)), 100 * float(likelihoods.mean())
