"""The study of an audit with reference models: which samples each model is trained on, the runs, and what they cost.

A shadow model is trained with a random half of the pool, then unlearns that half by the audited method. A repeat trains an
original, unlearns D_f, and trains a retrained model.
"""

import hashlib
import json
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit  # type: ignore[import-untyped]  # scipy ships no type information
from torch import nn

from unlearning.audit.intervals import Floats
from unlearning.audit.signals import audit_copy, observe
from unlearning.cached_runs import Arrays, cached_runs, estimate_seconds, finished_count
from unlearning.data.batches import all_tensors, raw_bytes
from unlearning.data.loading import READ_SIZE
from unlearning.data.objectives import Objective
from unlearning.data.references import ReferencePredictions, uninformed_references
from unlearning.data.samples import SampleSet, joined, partition
from unlearning.data.workload import Workload
from unlearning.errors import MethodRefused
from unlearning.methods.registry import unlearn
from unlearning.specs import Spec
from unlearning.specs.references import ReferencePlan
from unlearning.specs.training import Recipe
from unlearning.state import State
from unlearning.steps import Outcome, Progress
from unlearning.task import Task
from unlearning.training.loop import fresh, on_base_of, train
from unlearning.training.own import training_settings
from unlearning.training.references import prepare_references

MAX_POPULATION = 1000
"""Samples of RMIA's population."""

SHADOW_KIND, REPEAT_KIND = "shadows", "repeats"
"""The kinds of runs, whose results have folders of their own (`cache_key`)."""

REFERENCES = "references"
"""The folder, beside those of finished runs, of the reference models' predictions."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Study:
    """What the reference models are made for.

    spec: the audited method. task: the audited run, with the original model. others: as many held-out samples as D_f has, or
    half of the held-out samples if those are fewer. pool: D_f and the others; each shadow model is trained on half of it.
    population: the other held-out samples, at most 1,000, which no model is trained on. seed: of everything drawn here.
    plan: of reference predictions for the method, which each shadow model gets of its own training set; None for a method that is
    run without them.
    """

    spec: Spec
    task: Task
    others: SampleSet
    population: SampleSet
    seed: int
    plan: ReferencePlan | None = None

    @property
    def pool(self) -> SampleSet:
        """D_f, followed by the others."""
        return joined(self.task.forget, self.others)


def make_study(spec: Spec, task: Task, held_out: SampleSet, *, seed: int, plan: ReferencePlan | None = None) -> Study:
    """Split the audit's part of D_v, `held_out`. plan: as of the study. Raises MethodRefused with fewer than four samples in it."""
    if len(held_out) < 4:
        raise MethodRefused(
            f"Attacks with reference models need 4 held-out samples or more; there are {len(held_out)}."
        )
    count = min(len(task.forget), len(held_out) // 2)
    rest = min(MAX_POPULATION, len(held_out) - count)
    others, population = partition(held_out, (count, rest), seed=seed)
    return Study(spec=spec, task=task, others=others, population=population, seed=seed, plan=plan)


def members_of(study: Study, number: int) -> NDArray[np.bool_]:
    """Mark the pool's samples that shadow model `number` is trained on, (n,): a random half, and for an odd number the other half.

    So with an even number of models each sample is in exactly half of them.
    """
    n = len(study.pool)
    chosen = np.zeros(n, dtype=np.bool_)
    chosen[np.random.default_rng([study.seed, number // 2]).permutation(n)[: n // 2]] = True
    return ~chosen if number % 2 else chosen


def seed_of(study: Study, *which: int) -> int:
    """Derive a seed for a run and purpose."""
    return int(np.random.SeedSequence([study.seed, *which]).generate_state(1)[0])


def cache_key(study: Study, kind: str) -> str:
    """Compute the name of a folder of results, SHA-256 hex: equal for equal method, recipe, architecture, data and seed."""
    digest = hashlib.sha256()
    # New weights, with what training does not move, stand for the architecture, and the tensors with their shapes for the sets.
    recipe = study.task.recipe
    training = repr(recipe) if isinstance(recipe, Recipe) else training_settings(recipe)
    plan = [] if study.plan is None else [asdict(study.plan)]
    settings = [kind, study.seed, asdict(study.spec), training, *plan]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in fresh(study.task.build, seed=0, original=study.task.model).state_dict().items():
        digest.update(name.encode() + raw_bytes(tensor).tobytes())
    sets = (
        study.task.forget,
        study.task.remain,
        study.task.guide,
        study.task.criterion,
        study.others,
        study.population,
    )
    for samples in sets:
        for batch in samples.batches(READ_SIZE if samples.stored else max(1, len(samples))):
            for _, tensor in all_tensors(batch):
                digest.update(repr(tuple(tensor.shape)).encode() + raw_bytes(tensor).tobytes())
    return digest.hexdigest()


def train_model(study: Study, samples: SampleSet, *, seed: int) -> Generator[Progress, None, nn.Module]:
    """Train a new model of the architecture on `samples`, as the original was trained."""
    model = fresh(study.task.build, seed=seed, original=study.task.model).to(samples.device)
    yield from train(model, samples, study.task.recipe, objective=study.task.objective, seed=seed)
    return model


def own_references(
    study: Study, forget: SampleSet, *, seed: int, folder: Path
) -> Generator[Progress, None, ReferencePredictions | None]:
    """Prepare what the method aims at for a model that was trained on D_r and `forget`; None if the study has no plan.

    As in the service, they come from models that each lack a part of that model's training and held-out samples. folder: as of
    `prepare_references`; other studies with such models use what it holds.
    """
    if study.plan is None:
        return None
    task, training = study.task, study.task.recipe
    workload = Workload(
        name="shadow",
        build=task.build,
        train=joined(task.remain, forget),
        held_out=joined(task.guide, task.criterion),
        test=study.population,
        objective=task.objective,
        recipe=training if isinstance(training, Recipe) else None,
        trainer=None if isinstance(training, Recipe) else training.trainer,
    )
    steps = prepare_references(
        on_base_of(workload, task.model), study.plan, seed=seed, folder=folder, key=_key, device=forget.device
    )
    references = yield from steps
    return references.for_method([_key(sample) for sample in forget.ids], key=_key)


def _key(sample: str) -> bytes:
    return hashlib.sha256(sample.encode()).digest()


def run_method(
    study: Study, model: nn.Module, forget: SampleSet, *, seed: int, references: ReferencePredictions | None = None
) -> Generator[Progress, None, Outcome]:
    """Unlearn `forget` from `model` by the study's method, in place."""
    task = replace(study.task, model=model, forget=forget, seed=seed, state=State(), references=references)
    return (yield from unlearn(study.spec, task))


class Known(NamedTuple):
    """How well a model knows n samples, float64.

    margins: φ, (n,), which LiRA and KLoM compare: `Objective.known`, without outputs minus the loss. likelihoods: exp(−loss), (n,),
    0 to 1, which RMIA compares: with classes the probability of the true label.
    """

    margins: Floats
    likelihoods: Floats


def known_to(model: nn.Module, samples: SampleSet, objective: Objective) -> Known:
    """Compute how well a model knows each sample of a set."""
    found = observe(audit_copy(model, samples), samples, objective=objective)
    return Known(found.margin, found.confidence)


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
