"""Reference models: shadow models, repeats of the whole run, and what they cost.

A shadow model is trained with a random half of the pool, then unlearns that half by the audited method. A repeat trains an
original, unlearns D_f, and trains a retrained model.
"""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit  # type: ignore[import-untyped]  # scipy ships no type information
from torch import nn

from unlearning.audit.attacks.study import (
    Study,
    cache_key,
    known_to,
    members_of,
    own_references,
    run_method,
    seed_of,
    train_model,
)
from unlearning.audit.intervals import Floats
from unlearning.audit.signals import audit_copy, observe
from unlearning.cached_runs import Arrays, cached_runs, estimate_seconds, finished_count
from unlearning.data.references import uninformed_references
from unlearning.data.samples import SampleSet, joined
from unlearning.steps import Progress
from unlearning.training.loop import fresh

SHADOW_KIND = "shadows"
REFERENCES = "references"
"""The folder, among those of finished runs, of what reference models said."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shadows:
    """The results of k shadow models.

    members: (k, n), which of the pool each was trained on. before, after: (k, n + m), the margins of the pool and the
    population, as trained and after unlearning the members. likelihoods: (k, n + m), of the same samples, as trained.
    """

    members: NDArray[np.bool_]
    before: Floats
    after: Floats
    likelihoods: Floats


def run_shadows(study: Study, *, count: int, folder: Path) -> Generator[Progress, None, Shadows]:
    """Train and unlearn `count` shadow models, an even number, or read the results of an earlier run from `folder`."""
    results = yield from cached_runs(
        lambda number: run_shadow(study, number, folder), count=count, folder=folder / cache_key(study, SHADOW_KIND)
    )
    stacked = {name: np.stack([found[name] for found in results]) for name in ("members", "before", "after")}
    return Shadows(**stacked, likelihoods=np.stack([_likelihoods(found) for found in results]))


def _likelihoods(found: Arrays) -> Floats:
    """Read a shadow model's likelihoods; with classes they follow from the margins and are not stored."""
    stored: Floats = found["likelihoods"] if "likelihoods" in found else expit(found["before"])
    return stored


def run_shadow(study: Study, number: int, folder: Path) -> Generator[Progress, None, Arrays]:
    """Train and unlearn one shadow model; return its members, its margins before and after, and its likelihoods before.

    folder: of all runs; a study with a plan keeps what its reference models said there.
    """
    members = members_of(study, number)
    inside = study.pool.take(torch.from_numpy(np.flatnonzero(members)))
    seen = joined(study.pool, study.population)
    seed = seed_of(study, 0, number)
    model = yield from train_model(study, joined(study.task.remain, inside), seed=seed)
    before, likelihoods = known_to(model, seen, study.task.objective)
    references = yield from own_references(study, inside, seed=seed, folder=folder / REFERENCES)
    yield from run_method(study, model, inside, seed=seed, references=references)
    after, _ = known_to(model, seen, study.task.objective)
    found = {"members": members, "before": before, "after": after}
    return found if study.task.objective.logits is not None else {**found, "likelihoods": likelihoods}


REPEAT_KIND = "repeats"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Repeats:
    """The results of k repeats.

    unlearned, retrained: margins of D_f through k models of each kind, (k, n).

    unlearned_accuracies, retrained_accuracies: on D_r and on held-out data, (k, 2), 0 to 1; without classes the merit, in hundreds
        of points. best: the best value of these.
    """

    unlearned: Floats
    retrained: Floats
    unlearned_accuracies: Floats
    retrained_accuracies: Floats
    best: float = 1.0

    @property
    def utility(self) -> float:
        """The product, over both sets, of the mean accuracy's ratio to retraining, as in the challenge.

        A merit whose best value is 0 is a log-likelihood: the ratio is that of the likelihoods [ours]. Of another merit that
        retraining does not bring above 0 there is no ratio; it counts as 1 [ours].
        """
        achieved, wanted = self.unlearned_accuracies.mean(axis=0), self.retrained_accuracies.mean(axis=0)
        if self.best == 0:
            return float(np.exp((achieved - wanted).sum()))
        ratios = np.divide(np.maximum(achieved, 0.0), wanted, out=np.ones_like(wanted), where=wanted > 0)
        return float(np.prod(ratios))


def run_repeats(study: Study, *, count: int, folder: Path) -> Generator[Progress, None, Repeats]:
    """Run `count` repeats, or read the results of an earlier run from `folder`."""
    results = yield from cached_runs(
        lambda number: run_repeat(study, number, folder), count=count, folder=folder / cache_key(study, REPEAT_KIND)
    )
    names = ("unlearned", "retrained", "unlearned_accuracies", "retrained_accuracies")
    stacked = {name: np.stack([found[name] for found in results]) for name in names}
    return Repeats(**stacked, best=study.task.objective.utility.bounds[1] / 100)


def run_repeat(study: Study, number: int, folder: Path) -> Generator[Progress, None, Arrays]:
    """Train and unlearn an original and train a retrained model, from seeds that no other run has. folder: as of `run_shadow`."""
    forget, remain = study.task.forget, study.task.remain
    seed = seed_of(study, 1, number)
    model = yield from train_model(study, joined(remain, forget), seed=seed)
    references = yield from own_references(study, forget, seed=seed, folder=folder / REFERENCES)
    yield from run_method(study, model, forget, seed=seed, references=references)
    retrained = yield from train_model(study, remain, seed=seed_of(study, 2, number))
    return {
        "unlearned": known_to(model, forget, study.task.objective).margins,
        "retrained": known_to(retrained, forget, study.task.objective).margins,
        "unlearned_accuracies": _accuracies(study, model),
        "retrained_accuracies": _accuracies(study, retrained),
    }


def _accuracies(study: Study, model: nn.Module) -> Floats:
    def accuracy(samples: SampleSet) -> float:
        return float(observe(audit_copy(model, samples), samples, objective=study.task.objective).mean_merit)

    return np.array([accuracy(study.task.remain), accuracy(study.population)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The cost of an audit with reference models.

    shadows, repeats: how many runs of each are left to do. seconds: of all of them, estimated from some steps of one training
    and one unlearning on this machine; an unlearning that stops early takes less.
    """

    shadows: int
    repeats: int
    seconds: float


def estimate_cost(study: Study, *, shadow_count: int, repeat_count: int, folder: Path) -> Cost:
    """Estimate the cost by timing some steps of one training and one unlearning."""
    left = {
        kind: count - finished_count(folder / cache_key(study, kind), count=count)
        for kind, count in ((SHADOW_KIND, shadow_count), (REPEAT_KIND, repeat_count))
    }
    training = estimate_seconds(train_model(study, joined(study.task.remain, study.task.forget), seed=study.seed))
    model = fresh(study.task.build, seed=study.seed).to(study.task.forget.device).eval()
    references = None
    if study.plan is not None:
        references = uninformed_references(study.task.objective, study.task.forget)
    forgetting = estimate_seconds(run_method(study, model, study.task.forget, seed=study.seed, references=references))
    if study.plan is not None:
        forgetting += training * study.plan.trainings * study.plan.epochs * (1 - 1 / study.plan.folds)
    seconds = left[SHADOW_KIND] * (training + forgetting) + left[REPEAT_KIND] * (2 * training + forgetting)
    return Cost(shadows=left[SHADOW_KIND], repeats=left[REPEAT_KIND], seconds=seconds)
