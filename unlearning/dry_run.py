"""The dry run: a few samples go through every step of a job, so that what will not work is found before the first request.

What a job does with a model is more than its training does: per-sample losses, second derivatives, copies, files, an audit. A model
that one of them does not suit would fail late, after hours. The dry run takes seconds: one or two steps of everything.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, assert_never

import torch
from torch import nn

from unlearning.audit.audit import audit
from unlearning.data.objectives import answers
from unlearning.data.references import uninformed_references
from unlearning.data.samples import SampleSet, joined
from unlearning.data.stored import read_twice
from unlearning.data.workload import HeldOut, OwnTraining, Workload, split_held_out
from unlearning.errors import InvalidWorkload, NotFinite, TrainerFault
from unlearning.gradients import Parameters, descend, flat_gradient, forward_with, trainable
from unlearning.hardware import batched_answers
from unlearning.methods.registry import check_needs, unlearn
from unlearning.networks import copy_network, differentiable_kernels, is_finite, twice_differentiable_kernels
from unlearning.random_state import seeded
from unlearning.sharding import blocks_of
from unlearning.specs import CT, IEU, LTU, Certified, DropAdapter, GradientAscent, Matching, Method, Retrain, Rewind
from unlearning.specs.audit import AuditSpec, Thresholds
from unlearning.specs.training import Recipe
from unlearning.state import State
from unlearning.steps import run_to_completion
from unlearning.storage import load_training_checkpoint, load_weights, save_training_checkpoint, save_weights
from unlearning.task import Task
from unlearning.training.loop import fresh, train
from unlearning.training.own import check_model, state_of
from unlearning.training.run import TrainingRun
from unlearning.training.slices import SliceCheckpoint

_FORGOTTEN, _OTHERS = 10, 40
"""Samples of the forget set, and of each other set."""

_STEPS = 2
"""Steps that each method takes, and reports after which the owner's training function is asked to stop."""

_PATIENCE = 60.0
"""Seconds for which the owner's training function may report nothing."""

_SILENT = (
    "It reports nothing: its progress cannot be shown, its jobs cannot be cancelled, and one that takes longer than "
    "EXPUNGE_STALL_UNLEARN_SECONDS counts as stalled. Call `run.report` in each step."
)
_BY_CHANCE = (
    "Two trainings by the same seed gave different weights. Draw everything by `run.seed`; otherwise an interrupted training does "
    "not end in the weights of one that was not."
)

_AUDIT = AuditSpec(
    replicates=100,
    vector_seeds=1,
    relearn_samples=_FORGOTTEN,
    relearn_steps=4,
    relearn_limit=1.5,
    relearn_controls=3,
    relearn_controls_more=3,
    thresholds=Thresholds(relearn_least=1),
)
"""The shortest audit with every kind of test. Its few samples count as enough: ranks among many control sets are left to real
audits."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fault:
    """What will not work. step: of a job. error: what it raised. advice: sentences that say what to do.

    only_note: it works, but less well than it could.
    """

    step: str
    error: Exception
    advice: str
    only_note: bool = False


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Scene:
    """The workload with a few samples of each set, on one device. folder: for files."""

    workload: Workload
    model: nn.Module
    forget: SampleSet
    remain: SampleSet
    held_out: HeldOut
    test: SampleSet
    folder: Path
    seed: int


def dry_run(workload: Workload, model: nn.Module, *, policy: Sequence[Method], seed: int = 0) -> tuple[Fault, ...]:
    """Run a job on a few samples: forward pass, losses, gradients, a copy, files, each method of the policy, the audit.

    model: the served one; its device is used, and it does not change. Returns what will not work, and notes on what works less well
    than it could; empty if everything works. What builds on a step that has failed is left out.
    """
    found: list[Fault] = []

    def passes(step: str, act: Callable[[], object], advice: str) -> bool:
        error = _error_of(act)
        if error is not None:
            found.append(Fault(step=step, error=error, advice=advice))
        return error is None

    with tempfile.TemporaryDirectory(prefix="expunge-dry-run-") as folder, seeded(seed):
        scenes: list[_Scene] = []
        if not passes(
            "data", lambda: scenes.append(_prepare(workload, model, folder=Path(folder), seed=seed)), _SAME_DATA
        ):
            return tuple(found)
        scene = scenes[0]
        if not all(passes(step, partial(act, scene), advice) for step, act, advice in _BASICS):
            return tuple(found)
        if _needs_second_order(workload, policy):
            passes("second-order gradient", partial(_second_gradient, scene), _FIRST_ORDER)
        passes("save and load", partial(_save_and_load, scene), _SAME_ARCHITECTURE)
        if not passes("trainer", lambda: found.extend(_trainer(scene)), _TRAINER):
            policy = [spec for spec in policy if not isinstance(spec, Retrain | Rewind)]
        for spec in policy:
            error = _error_of(partial(_unlearn, scene, spec))
            if error is not None:
                found.append(Fault(step=f"method {spec.kind}", error=error, advice=_advise(scene, spec, policy)))
        passes("audit", partial(_audit, scene), "No job of this model could end, because every result is audited.")
    return tuple(found)


def _needs_second_order(workload: Workload, policy: Sequence[Method]) -> bool:
    recipe = workload.training
    readiness = recipe.readiness if isinstance(recipe, Recipe) else None
    ltu = any(isinstance(spec, LTU) and spec.meta and spec.order == "second" for spec in policy)
    return ltu or (readiness is not None and readiness.order == "second")


def _error_of(act: Callable[[], object]) -> Exception | None:
    """Return what an act raises, or None."""
    try:
        act()
    except Exception as error:
        return error
    return None


def _prepare(workload: Workload, model: nn.Module, *, folder: Path, seed: int) -> _Scene:
    """Draw a few samples of each set. Raises InvalidWorkload if they cannot be read, or not twice alike."""
    generator = torch.Generator().manual_seed(seed)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def some(samples: SampleSet, most: int) -> SampleSet:
        return read_twice(samples.take(torch.randperm(len(samples), generator=generator)[:most])).to(device)

    train = some(workload.train, _FORGOTTEN + _OTHERS)
    forgotten = max(1, min(_FORGOTTEN, len(train) // 2))
    index, held_out = torch.arange(len(train)), split_held_out(workload.held_out)
    return _Scene(
        workload=workload,
        model=model,
        forget=train.take(index[:forgotten]),
        remain=train.take(index[forgotten:]),
        held_out=HeldOut(
            guide=some(held_out.guide, _OTHERS),
            criterion=some(held_out.criterion, _OTHERS),
            audit=some(held_out.audit, _OTHERS),
        ),
        test=some(workload.test, _OTHERS),
        folder=folder,
        seed=seed,
    )


def _evaluated(model: nn.Module) -> nn.Module:
    """Copy a model into evaluation mode."""
    return copy_network(model).eval()


@torch.no_grad()
def _outputs(scene: _Scene, model: nn.Module) -> torch.Tensor:
    """Compute the outputs of the forget samples, (n, k), or where the objective offers none their losses, (n,)."""
    objective, batch = scene.workload.objective, scene.forget.batch
    return objective.losses(model, batch) if objective.read is None else objective.read(model, batch.inputs)


def _forward(scene: _Scene) -> None:
    objective, n = scene.workload.objective, len(scene.forget)
    found = _outputs(scene, _evaluated(scene.model))
    if objective.read is None:
        return
    shape = tuple(found.shape)
    if len(shape) != 2 or shape[0] != n or (objective.logits is not None and shape[1] != objective.classes):
        wanted = f"({n}, {objective.classes or 'k'})"
        raise InvalidWorkload(f"The outputs of {n} samples have the shape {shape}, not {wanted}.")
    if not found.isfinite().all():
        raise NotFinite("The outputs are not finite numbers.")


@torch.no_grad()
def _one_by_one(scene: _Scene) -> None:
    """Check that a sample's outputs and loss are the same in another batch."""
    model, batch = _evaluated(scene.model), scene.forget.batch
    exact = all(p.dtype in (torch.float32, torch.float64) for p in model.parameters())
    near = partial(torch.allclose, rtol=1e-3 if exact else 0.05, atol=1e-3 if exact else 0.05, equal_nan=True)
    together = answers(scene.workload.objective, model, batch)
    alone = [answers(scene.workload.objective, model, part) for part in batch.batches(1)]
    for name in ("losses", "outputs"):
        found, parts = getattr(together, name), [getattr(each, name) for each in alone]
        if found is not None and not near(found.double(), torch.cat(parts).double()):
            raise InvalidWorkload(
                f"The {name} of a sample depend on the other samples of its batch, in evaluation mode too."
            )


def _losses(scene: _Scene) -> None:
    objective = scene.workload.objective
    found = batched_answers(objective, _evaluated(scene.model), scene.forget.batch)
    if not found.losses.isfinite().all():
        raise NotFinite("The losses are not finite numbers.")
    if objective.prediction is None or found.outputs is None:
        return
    of_outputs = objective.prediction.losses(objective.prediction.predictions(found.outputs), found.targets)
    if not torch.allclose(of_outputs.double(), found.losses.double(), rtol=0.01, atol=0.01):
        raise InvalidWorkload(
            "The losses are not those that `prediction.losses` computes from the outputs. The targets of a causal language model "
            "are the tokens of its inputs, not shifted by one; those of a diffusion model are the `classes` of its inputs."
        )


def _gradient(scene: _Scene) -> None:
    model = _evaluated(scene.model)
    parameters = trainable(model)
    if not parameters:
        raise InvalidWorkload("No parameter of the model requires a gradient.")
    with differentiable_kernels(model):
        loss = _mean_loss(scene, model, parameters)
        gradient = flat_gradient(loss, parameters)
    if not gradient.isfinite().all():
        raise NotFinite("The gradient of the loss is not finite.")


def _second_gradient(scene: _Scene) -> None:
    """Differentiate the loss after a step of descent with respect to the parameters before it, as LTU does."""
    model = _evaluated(scene.model)
    parameters = trainable(model)
    with twice_differentiable_kernels(model):
        moved = descend(parameters, _mean_loss(scene, model, parameters), rate=1e-3, differentiable=True)
        gradient = flat_gradient(_mean_loss(scene, model, moved), parameters)
    if not gradient.isfinite().all():
        raise NotFinite("The gradient of the loss after a step is not finite.")


def _mean_loss(scene: _Scene, model: nn.Module, parameters: Parameters) -> torch.Tensor:
    return scene.workload.objective.losses(forward_with(model, parameters), scene.forget.batch).mean()


def _blocks(scene: _Scene) -> None:
    if scene.workload.sharded:
        blocks_of(scene.model, scene.workload.sharded)


def _copy(scene: _Scene) -> None:
    _check_same(scene, copy_network(scene.model), "A copy of the model")


def _save_and_load(scene: _Scene) -> None:
    path, sha256 = save_weights(scene.model, scene.folder)
    loaded = scene.workload.build()
    load_weights(loaded, path, sha256)
    _check_same(scene, loaded.to(scene.forget.device), "The model that `build` gives, with the saved weights,")


def _check_same(scene: _Scene, model: nn.Module, what: str) -> None:
    before, after = (_outputs(scene, each) for each in (_evaluated(scene.model), model.eval()))
    if not torch.allclose(before.double(), after.double(), rtol=1e-3, atol=1e-3, equal_nan=True):
        raise InvalidWorkload(f"{what} gives other outputs than the model itself.")


def _unlearn(scene: _Scene, spec: Method) -> nn.Module:
    """Take a few steps of a method on a copy, with a training checkpoint in between; return the copy."""
    check_needs(spec.kind, remain=scene.workload.train, sharded=bool(scene.workload.sharded))
    task = _task(scene, spec)
    steps = unlearn(_short(spec), task)
    try:
        for _ in range(_STEPS):
            if next(steps, None) is None:
                break
            path, sha256 = save_training_checkpoint(task.state.snapshot(), scene.folder)
            load_training_checkpoint(path, sha256)
    finally:
        steps.close()
    if not is_finite(task.model):
        raise NotFinite(f"After {_STEPS} steps the weights are not finite numbers.")
    return task.model


def _trainer(scene: _Scene) -> list[Fault]:
    """Try the owner's training function, if there is one; return notes on what works, but less well than it could.

    It trains twice by the same seed, and once more from a checkpoint if it has kept one.
    """
    training = scene.workload.training
    if not isinstance(training, OwnTraining):
        return []
    first, again = (_train_by_owner(scene, training, resumed={}) for _ in range(2))
    if first.checkpoint:
        _train_by_owner(scene, training, resumed=first.checkpoint)
    notes = [] if first.reported else [_SILENT]
    if any(not torch.equal(tensor, again.weights[name]) for name, tensor in first.weights.items()):
        notes.append(_BY_CHANCE)
    return [Fault(step="trainer", error=TrainerFault(text), advice="", only_note=True) for text in notes]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Trained:
    """What a trial of the owner's function left. reported: whether it reported. checkpoint: the last it kept, or empty."""

    weights: dict[str, torch.Tensor]
    reported: bool
    checkpoint: Mapping[str, Any]


def _train_by_owner(scene: _Scene, training: OwnTraining, *, resumed: Mapping[str, Any]) -> _Trained:
    """Train a new model for `_STEPS` reports. Raises what the function raises, and what `check_model` and `own_steps` do."""
    runs: list[TrainingRun] = []
    stop = False

    def observed(model: nn.Module, data: SampleSet, run: TrainingRun) -> object:
        runs.append(run)
        return training.trainer(model, data, run)

    model = fresh(scene.workload.build, seed=scene.seed, original=scene.model).to(scene.remain.device)
    state = State(resumed, should_stop=lambda: stop)
    before, saved = state_of(model), dict[str, Any]()
    observing = dataclasses.replace(training, trainer=observed, patience=_PATIENCE)
    objective, seed = scene.workload.objective, scene.seed
    steps = train(model, scene.remain, observing, objective=objective, seed=seed, state=state)
    try:
        for _ in range(_STEPS):
            if next(steps, None) is None:
                break
            if state.step:
                saved = load_training_checkpoint(*save_training_checkpoint(state.snapshot(), scene.folder))
        stop = True
        next(steps, None)
    finally:
        steps.close()
    check_model(model, before, finished=False)
    return _Trained(weights=model.state_dict(), reported=runs[0].step > 0, checkpoint=saved)


def _task(scene: _Scene, spec: Method) -> Task:
    objective, forget, remain = scene.workload.objective, scene.forget, scene.remain
    adapters = scene.workload.adapters
    if isinstance(spec, DropAdapter) and adapters is not None:  # which forgets all samples of an adapter
        drawn, first = joined(forget, remain), adapters[forget.ids[0]]
        chosen = torch.tensor([adapters[sample] == first for sample in drawn.ids])
        forget, remain = drawn.take(chosen.nonzero().flatten()), drawn.take((~chosen).nonzero().flatten())
    references = uninformed_references(objective, forget) if isinstance(spec, Matching) else None
    return Task(
        model=_evaluated(scene.model),
        build=scene.workload.build,
        objective=objective,
        recipe=_short_training(scene.workload.training),
        forget=forget,
        remain=remain,
        guide=scene.held_out.guide,
        criterion=scene.held_out.criterion,
        seed=scene.seed,
        references=references,
        checkpoint=None if remain.slices is None else SliceCheckpoint(number=-1, load=lambda model: None),
        adapters=adapters,
    )


def _short_training(recipe: Recipe | OwnTraining) -> Recipe | OwnTraining:
    if isinstance(recipe, OwnTraining):
        return dataclasses.replace(recipe, patience=_PATIENCE)
    readiness = recipe.readiness and dataclasses.replace(recipe.readiness, warm_up=0.0, every=1)
    return dataclasses.replace(recipe, readiness=readiness, batch_size=min(recipe.batch_size, 8))


def _short(spec: Method) -> Method:
    """Shorten a method's schedule to a few steps of a few samples; whatever it computes stays."""
    match spec:
        case LTU():
            return dataclasses.replace(
                spec, steps=_STEPS, passes=0.0, repair_steps=1, rehearsals=1, batch_size=8, query_size=8
            )
        case IEU():
            return dataclasses.replace(spec, steps=_STEPS, passes=0.0, repair_steps=1, batch_size=8)
        case Matching():
            return dataclasses.replace(spec, steps=_STEPS, passes=0.0, batch_size=8)
        case CT():
            return dataclasses.replace(spec, epochs=1, batch_size=8)
        case GradientAscent():
            return dataclasses.replace(spec, steps=_STEPS, batch_size=8)
        case Certified():
            return dataclasses.replace(spec, steps=_STEPS)
        case Rewind():
            return dataclasses.replace(spec, max_share=1.0)
        case Retrain() | DropAdapter():
            return spec
    assert_never(spec)


_BASICS: tuple[tuple[str, Callable[[_Scene], None], str], ...] = (
    (
        "forward pass",
        _forward,
        "In evaluation mode the model must give finite outputs for the workload's inputs: a row a sample, as the objective needs.",
    ),
    ("copy", _copy, "A copy of the model must give the same outputs: let `copy.deepcopy` copy what its modules hold."),
    (
        "losses by sample",
        _losses,
        "`objective.losses` must return one finite loss a sample, (n,), not their mean, and the targets must suit it.",
    ),
    (
        "samples by themselves",
        _one_by_one,
        "A sample's loss must say something about this sample alone: give batch norm running statistics "
        "(`track_running_stats=True`), and take no mean over the batch.",
    ),
    (
        "gradient",
        _gradient,
        "The loss must be differentiable with respect to the model's parameters, and some must require a gradient.",
    ),
    ("sharding", _blocks, "No job could place the model on its ranks."),
)
"""Each step with what to do if it fails. If one fails, what follows would only fail for the same reason."""

_SAME_DATA = "Each item of a data set must be readable, of finite numbers, and the same each time; see its position in the message."
_TRAINER = "Retraining and reference models would fail. Let the trainer train the given model on few samples too."
_FIRST_ORDER = (
    """Use first order: --method '{"kind": "ltu", "order": "first"}', Ready2Unlearn(order="first"); or IEU."""
)
_SAME_ARCHITECTURE = (
    "`build` must return the architecture whose weights and buffers the file has, with the same outputs."
)


def _advise(scene: _Scene, spec: Method, policy: Sequence[Method]) -> str:
    others = [other.kind for other in policy if other.kind != spec.kind] or ["retrain"]
    without = f"Leave it out of the policy: {' '.join(f'--method {kind}' for kind in others)}."
    if isinstance(spec, Retrain | Rewind):
        return f"Retraining as the model was trained must work: check `build`, and `recipe` or `trainer`. {without}"
    if isinstance(spec, LTU) and spec.order == "second":
        if _error_of(partial(_unlearn, scene, dataclasses.replace(spec, order="first"))) is not None:
            return without
        return f"""It works without second derivatives: --method '{{"kind": "ltu", "order": "first"}}'. {without}"""
    return without


def _audit(scene: _Scene) -> None:
    changed = _evaluated(scene.model)
    with torch.no_grad():
        for parameter in changed.parameters():
            if parameter.is_floating_point():
                parameter.mul_(0.9)
    run_to_completion(
        audit(
            original=_evaluated(scene.model),
            unlearned=changed,
            forget=scene.forget,
            remain=scene.remain,
            held_out=scene.held_out.audit,
            test=scene.test,
            objective=scene.workload.objective,
            spec=_AUDIT,
            seed=scene.seed,
        )
    )
