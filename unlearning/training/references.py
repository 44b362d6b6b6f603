"""Prepare reference predictions by cross-fitting: train models without a part of the data each (docs/methods.md §8)."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearning.cached_runs import Arrays, cached_runs, estimate_seconds, finished_count
from unlearning.data.batches import Batch
from unlearning.data.near_copies import components, group_copies
from unlearning.data.objectives import Objective, answers
from unlearning.data.objectives.prediction import weighted_mean
from unlearning.data.references import References, WholeClasses
from unlearning.data.samples import SampleSet, joined
from unlearning.data.workload import OwnTraining, Workload
from unlearning.errors import InvalidSpec, ReferencesUnusable
from unlearning.hardware import batched_answers, in_float32, inference_batches
from unlearning.networks import frozen_tensors
from unlearning.sharding import place
from unlearning.specs.references import ReferencePlan
from unlearning.specs.training import Recipe
from unlearning.steps import Progress, map_progress
from unlearning.training.loop import fresh, train
from unlearning.training.own import training_settings

_WHOLE_CLASSES = 1000
"""Stands for the round in the seeds of models that are trained without a class; there are fewer rounds."""
_ATTEMPTS = 3
"""Trainings of one reference model, until one knows more than a guess."""
_COMPARED = 1000
"""Most samples on which it is compared with one."""
_AT_ONCE = 2**20
"""Numbers of one model's predictions that are averaged at once."""


def prepare_references(
    workload: Workload,
    plan: ReferencePlan,
    *,
    seed: int,
    folder: Path,
    key: Callable[[str], bytes],
    device: torch.device | str = "cpu",
) -> Generator[Progress, None, References]:
    """Train the plan's reference models and return the reference predictions of the training and the held-out set.

    folder: holds a folder of the preparation's own (`preparation_folder`) with the signals of each finished model, so that an
    interrupted preparation goes on. Delete that once the result is stored. No model is kept. key: the key of a sample's ID, 32
    bytes. Held-out samples are put into the folds like training samples: the audited model never saw them, so they show what never
    having been seen looks like.

    Raises ReferencesUnusable for a prediction that is not finite, and OSError if the folder cannot be written.
    """
    started = time.perf_counter()
    models, groups = yield from train_reference_models(workload, plan, seed=seed, folder=folder, device=device)
    # Only now: while the models train, the device holds one copy of the data.
    pool = joined(workload.train, workload.held_out)
    references = _collect(models[: plan.fold_trainings], pool, workload.objective, plan, key=key)
    whole = _collect_classes(models[plan.fold_trainings :], workload, plan, key=key)
    details = {
        "plan": asdict(plan),
        "seed": seed,
        "workload": workload.name,
        "samples": len(pool),
        "subjects": int(groups.max()) + 1,
        "seconds": round(time.perf_counter() - started, 3),
    }
    return replace(references, details=details, whole=whole)


def train_reference_models(
    workload: Workload, plan: ReferencePlan, *, seed: int, folder: Path, device: torch.device | str = "cpu"
) -> Generator[Progress, None, tuple[list[Arrays], NDArray[np.int64]]]:
    """Train the plan's reference models, or read in `folder` what earlier ones said. No model is kept.

    Returns each model's signals, those without a class last, and the number of each sample's subject, (n,). Raises as
    `prepare_references`, which goes on from the folder, and InvalidSpec for a class that the training set does not have.
    """
    _check_classes(workload, plan)
    pool = joined(workload.train, workload.held_out).to(device)
    groups = subject_groups(pool, training=len(workload.train), near_copies=plan.near_copies)
    rounds = range(plan.rounds + plan.audit_rounds)
    folds = [fold_of(groups, folds=plan.folds, seed=_seed(seed, round_)) for round_ in rounds]
    run = partial(_train_without_fold, workload, pool, folds, plan, seed)
    own = preparation_folder(workload, plan, seed=seed, folder=folder)

    def without_class(left_out: int) -> Generator[Progress, None, list[Arrays]]:
        def only(number: int) -> Generator[Progress, None, Arrays]:
            return _train_without_class(workload, pool, plan, seed, left_out)

        return cached_runs(only, count=1, folder=_class_folder(own, left_out))

    def counted(progress: Progress, *, before: int) -> Progress:
        return replace(progress, step=before + progress.step, total=plan.trainings)

    of_folds = cached_runs(run, count=plan.fold_trainings, folder=own)
    models = yield from map_progress(of_folds, partial(counted, before=0))
    for number, left_out in enumerate(plan.classes, plan.fold_trainings):
        models += yield from map_progress(without_class(left_out), partial(counted, before=number))
    return models, groups


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparationCost:
    """trainings: models still to be trained. seconds: what they take, estimated from a few steps. plain_trainings: the whole plan's
    cost in plain trainings of the model.
    """

    trainings: int
    seconds: float
    plain_trainings: float


def estimate_cost(
    workload: Workload, plan: ReferencePlan, *, seed: int, folder: Path, device: torch.device | str = "cpu"
) -> PreparationCost:
    """Time a few training steps and multiply; models whose signals are in `folder` are not counted."""
    pool = joined(workload.train, workload.held_out).to(device)
    own = preparation_folder(workload, plan, seed=seed, folder=folder)
    _check_classes(workload, plan)
    left = plan.trainings - finished_count(own, count=plan.fold_trainings)
    left -= sum(finished_count(_class_folder(own, left_out), count=1) for left_out in plan.classes)
    recipe = fold_recipe(workload.training, plan)
    part = pool.take(torch.arange(len(pool) - len(pool) // plan.folds))
    model = place(fresh(workload.build, seed=seed), workload.sharded, pool.device)
    seconds = estimate_seconds(train(model, part, recipe, objective=workload.objective, seed=seed))
    share = plan.epochs * (1 - 1 / plan.folds) * len(pool) / len(workload.train)
    kept = [1 - float((workload.train.targets == left_out).float().mean()) for left_out in plan.classes]
    plain = plan.fold_trainings * share + plan.epochs * sum(kept)
    return PreparationCost(trainings=left, seconds=left * seconds, plain_trainings=plain)


def subject_groups(samples: SampleSet, *, training: int, near_copies: float) -> NDArray[np.int64]:
    """Number the subjects of n samples, (n,) from 0: samples of one subject have one number, and so have near-copies.

    A model that saw a person's other samples, or a copy, knows too much of the one left out. training: the first so many are the
    training set. near_copies: as in the plan; 0 compares nothing.
    """
    names = samples.subjects or samples.ids
    subjects = np.unique(np.asarray(names), return_inverse=True)[1].astype(np.int64)
    if not near_copies:
        return subjects
    copies, count = group_copies(samples, training=training, within=near_copies), len(samples)
    nodes = [count + subjects, count + int(subjects.max()) + 1 + copies]
    links = np.concatenate([np.stack([np.arange(count), of], axis=1) for of in nodes])
    groups = components(links, nodes=int(links.max()) + 1)[:count]
    # Numbered by their first subject, so that the folds of data without copies are those of their subjects.
    first = np.full(int(groups.max()) + 1, count)
    np.minimum.at(first, groups, subjects)
    return np.unique(first[groups], return_inverse=True)[1].astype(np.int64)


def fold_of(groups: NDArray[np.int64], *, folds: int, seed: int) -> NDArray[np.int64]:
    """Draw the fold of each sample, (n,) from 0: groups in random order, each into the fold with the fewest samples so far."""
    rng = np.random.default_rng(seed)
    counts = np.bincount(groups)
    # Lists: of so few folds an array costs many times as much.
    sizes, fold, members = [0] * folds, np.zeros(len(counts), dtype=np.int64), counts.tolist()
    for group in rng.permutation(len(counts)).tolist():
        least = min(sizes)
        smallest = [number for number, size in enumerate(sizes) if size == least]
        chosen = smallest[rng.integers(len(smallest))]
        fold[group] = chosen
        sizes[chosen] += members[group]
    return fold[groups]


def fold_recipe(recipe: Recipe | OwnTraining, plan: ReferencePlan) -> Recipe | OwnTraining:
    """Return how a reference model is trained: without Ready2Unlearn and reweighting, for the plan's share of the epochs.

    The owner's function gets the share as `run.share`.
    """
    if isinstance(recipe, OwnTraining):
        return replace(recipe, share=plan.epochs)
    return replace(recipe, readiness=None, reweighting=None, epochs=max(1, round(plan.epochs * recipe.epochs)))


def _train_without_fold(
    workload: Workload, pool: SampleSet, folds: Sequence[NDArray[np.int64]], plan: ReferencePlan, seed: int, number: int
) -> Generator[Progress, None, Arrays]:
    """Train reference model `number`; return `signal` and `seen`, (n,), which the audit reads.

    Of a method round also `losses`, (n,), and as `probabilities` predictions, (n, k), at which methods aim.
    """
    round_, left_out = divmod(number, plan.folds)
    seen = folds[round_] != left_out
    if not seen.any():
        raise ReferencesUnusable("all samples are of one subject; no model can be trained without them")
    part = pool.take(torch.from_numpy(np.flatnonzero(seen)))
    model = yield from _train_anew(workload, part, plan, seed=_seed(seed, round_, left_out))
    signal, predictions, losses = sample_signals(model, pool, workload.objective)
    _check_finite(signal)
    found = {"signal": signal.numpy(), "seen": seen}
    if round_ >= plan.rounds:
        return found
    return found | {"losses": losses.numpy(), "probabilities": predictions.to(_stored(workload.objective)).numpy()}


def _train_anew(
    workload: Workload, part: SampleSet, plan: ReferencePlan, *, seed: int
) -> Generator[Progress, None, nn.Module]:
    """Train a reference model, from other seeds where it beats no guess: among many trainings one may diverge by bad luck [ours].

    part: what it is trained on. Returns it in evaluation mode; after `_ATTEMPTS` trainings whatever the last one made.
    """
    recipe = fold_recipe(workload.training, plan)
    for attempt in range(_ATTEMPTS):
        own_seed = seed if attempt == 0 else _seed(seed, attempt)
        model = place(fresh(workload.build, seed=own_seed), workload.sharded, part.device)
        yield from train(model, part, recipe, objective=workload.objective, seed=own_seed)
        if _beats_a_guess(model.eval(), part, workload.objective):
            break
    return model


def _beats_a_guess(model: nn.Module, samples: SampleSet, objective: Objective) -> bool:
    """Return whether a model's mean loss is lower than that of whoever knows the targets alone (`Objective.guessed`).

    Where nobody says what a guess is, finite losses are enough.
    """
    found = batched_answers(objective, model, samples.take(torch.arange(min(len(samples), _COMPARED))))
    loss, guess = float(found.losses.mean()), objective.guessed(found.targets)
    return math.isfinite(loss) and (guess is None or loss < float(guess.losses.mean()))


def _train_without_class(
    workload: Workload, pool: SampleSet, plan: ReferencePlan, seed: int, left_out: int
) -> Generator[Progress, None, Arrays]:
    """Train on the training set without a class; return `probabilities`, (m, k), of its m samples there.

    pool: begins with the training set.
    """
    of_class = (pool.targets[: len(workload.train)] == left_out).cpu()
    kept, gone = (pool.take(chosen.nonzero().flatten()) for chosen in (~of_class, of_class))
    model = yield from _train_anew(workload, kept, plan, seed=_seed(seed, _WHOLE_CLASSES, left_out))
    _, predictions, _ = sample_signals(model, gone, workload.objective)
    _check_finite(predictions)
    return {"probabilities": predictions.to(_stored(workload.objective)).numpy()}


def _collect_classes(
    models: Sequence[Arrays], workload: Workload, plan: ReferencePlan, *, key: Callable[[str], bytes]
) -> WholeClasses | None:
    """Join what the models without a class said of its samples."""
    if not plan.classes:
        return None
    targets, ids = workload.train.targets.cpu(), workload.train.ids
    places = [(targets == left_out).nonzero().flatten().tolist() for left_out in plan.classes]
    return WholeClasses(
        keys=tuple(key(ids[place]) for of_class in places for place in of_class),
        predictions=torch.cat([torch.from_numpy(model["probabilities"]) for model in models]),
    )


def _check_finite(answers: Tensor) -> None:
    """Raise ReferencesUnusable unless all answers of a reference model are finite."""
    if not bool(torch.isfinite(answers).all()):
        raise ReferencesUnusable(
            "a reference model's predictions are not finite, from several seeds; check the training's learning rate"
        )


def _check_classes(workload: Workload, plan: ReferencePlan) -> None:
    """Raise InvalidSpec for classes of a plan that no model can be trained without."""
    if plan.classes and workload.objective.logits is None:
        raise InvalidSpec("Only a classifier has classes that may be forgotten as a whole.", field="classes")
    for left_out in plan.classes:
        share = float((workload.train.targets == left_out).float().mean())
        if share in (0.0, 1.0):
            raise InvalidSpec(
                f"{'All' if share else 'None'} of the training samples are of class {left_out}; a class that may be forgotten as a "
                "whole must be one of several.",
                field="classes",
            )


def _class_folder(own: Path, left_out: int) -> Path:
    return own / f"class-{left_out}"


@in_float32
def sample_signals(model: nn.Module, samples: SampleSet, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """Compute each sample's signal (n,), predictions (n, j) and loss (n,) in nats, on the CPU; j is 0 without outputs.

    Outputs are read a batch at a time: those of a whole training set may not fit the device. Predictions are in the type in which
    they are stored, where the model is asked for them (`Objective.recorded`). The signal is
    `Objective.known`: with classes the margin φ = z_y − logsumexp_{k≠y} z_k, without outputs minus the loss.
    """
    rows = [_batch_signals(model, batch, objective) for batch in inference_batches(model, samples)]
    signal, predictions, losses = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return signal, predictions, losses


@torch.no_grad()
def _batch_signals(model: nn.Module, batch: Batch, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    found, predicts = answers(objective, model, batch), objective.predicts
    losses = found.losses.float().cpu()
    if predicts is None or found.outputs is None:
        return -losses, torch.empty(batch.size, 0), losses
    outputs, targets = found.outputs.double().cpu(), found.targets.cpu()
    signal = predicts.known(outputs, targets).float()
    if objective.recorded is None:
        return signal, predicts.predictions(outputs).float(), losses
    return signal, objective.recorded(model, batch.inputs).to("cpu", predicts.stored), losses


def _stored(objective: Objective) -> torch.dtype:
    return torch.float32 if objective.predicts is None else objective.predicts.stored


def _collect(
    models: Sequence[Arrays], pool: SampleSet, objective: Objective, plan: ReferencePlan, *, key: Callable[[str], bytes]
) -> References:
    first = plan.rounds * plan.folds
    method, audit = models[:first], models[first:]
    unseen = ~np.stack([model["seen"] for model in method])
    weights, predicts = unseen / unseen.sum(axis=0), objective.predicts
    averaged = weighted_mean if predicts is None else predicts.averaged
    rows = max(1, _AT_ONCE // max(1, method[0]["probabilities"].shape[1]))
    parts = [slice(start, start + rows) for start in range(0, len(pool), rows)]
    mean = torch.cat(
        [
            averaged(
                *map(torch.from_numpy, (np.stack([one["probabilities"][part] for one in method]), weights[:, part]))
            )
            for part in parts
        ]
    )
    losses = sum(w * model["losses"] for w, model in zip(weights, method, strict=True))
    if predicts is not None:
        losses = predicts.losses(mean, pool.targets.cpu()).numpy()
    signal, seen = (np.stack([model[name] for model in audit]) for name in ("signal", "seen"))
    means = [
        (np.where(chosen, signal, 0).sum(axis=0) / chosen.sum(axis=0)).astype(np.float32) for chosen in (~seen, seen)
    ]
    return References(
        keys=tuple(key(sample) for sample in pool.ids),
        predictions=mean.to(_stored(objective)),
        losses=torch.from_numpy(np.asarray(losses, dtype=np.float32)),
        unseen=torch.from_numpy(means[0]),
        seen=torch.from_numpy(means[1]),
        details={},
    )


def preparation_folder(workload: Workload, plan: ReferencePlan, *, seed: int, folder: Path) -> Path:
    """Name the folder of a preparation's finished models, in `folder`, by the SHA-256 of all that the preparation depends on.

    Except for the plan's classes: each has a folder of its own in there, and no other model depends on them.
    """
    parts, network = (workload.train, workload.held_out), fresh(workload.build, seed=seed)
    frozen = frozen_tensors(network)
    what = {
        "workload": workload.name,
        "network": str(network),
        "recipe": training_settings(workload.training),
        "plan": {name: value for name, value in asdict(plan).items() if name != "classes"},
        "samples": _digest([sample for part in parts for sample in part.ids]),
        "subjects": _digest([subject for part in parts for subject in part.subjects or ()]),
        "seed": seed,
        **workload.identity,
    }
    if workload.objective.predicts is not None and workload.objective.predicts.kind:
        what["predictions"] = workload.objective.predicts.kind
    if frozen:
        what["frozen"] = hashlib.sha256(
            safetensors.torch.save({k: t.detach().clone() for k, t in frozen.items()})
        ).hexdigest()
    return folder / hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence([*parts, 9]).generate_state(1)[0])
