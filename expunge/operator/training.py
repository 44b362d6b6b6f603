"""Train a workload's model by its own recipe, prepared for unlearning, or by its own function."""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from connectors.storage import LocalFolder
from expunge.errors import CannotTrain, explain
from expunge.operator.references import ReferenceTraining, reference_steps
from expunge.operator.workloads import as_owners_error, find_left_out, processes, without_samples
from unlearning import ranks
from unlearning.data.workload import FINGERPRINTS, OwnTraining, Workload, check_data
from unlearning.errors import CheckpointUnusable, UnlearningError
from unlearning.files import file_sha256, write_atomically, write_file
from unlearning.networks import is_finite
from unlearning.sharding import place, whole
from unlearning.specs.references import ReferencePlan
from unlearning.specs.training import Ready2Unlearn, Recipe
from unlearning.state import State
from unlearning.steps import Outcome, Progress, run_to_completion
from unlearning.storage import checkpoint_to_bytes, load_training_checkpoint, save_weights, to_bytes
from unlearning.training.loop import fresh, on_base_of, train
from unlearning.training.own import training_settings
from worker.failures import WorkerError
from worker.inputs import load_workload
from worker.launch import Launch

CHECKPOINT_SECONDS = 30.0
"""Between two training checkpoints."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """Weights on disk. seconds: the training time. left_out: how many samples of the training set were left out.

    details: the content of the JSON file beside the weights.
    """

    path: Path
    sha256: str
    seconds: float
    left_out: int
    details: dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What a process needs to train a model. left_out: samples of the training set. folder: for weights between slices."""

    reference: str
    allowed: Sequence[str]
    left_out: frozenset[str]
    plain: bool
    seed: int
    folder: Path

    def recipe(self, workload: Workload) -> Recipe | OwnTraining:
        """Return how the model is trained. A sharded model's training is never prepared."""
        return prepare_recipe(workload.training, plain=self.plain or bool(workload.sharded))

    def load(self) -> Workload:
        """Load the workload. Raises CannotTrain."""
        try:
            return load_workload(self.reference, allowed=self.allowed)
        except WorkerError as error:
            raise CannotTrain(str(error)) from error


def training_steps(
    order: Training, device: torch.device, state: State, *, workload: Workload | None = None
) -> Generator[Progress, None, tuple[dict[str, Tensor], Outcome]]:
    """Train a new model, and return its weights and buffers. workload: `order.load()`, if this process has it.

    Raises CannotTrain.
    """
    workload = workload or order.load()
    recipe = order.recipe(workload)
    model = place(fresh(workload.build, seed=order.seed), workload.sharded, device)

    def keep(number: int, model: nn.Module) -> dict[str, object]:
        content = to_bytes(model)
        found = {"slice": number, "sha256": ranks.by_first(lambda: write_file(content, order.folder)[1])}
        return found if workload.fitted_to is None else {**found, "fitted_to": workload.fitted_to}

    try:
        with as_owners_error(CannotTrain, workload, owned=order.allowed):
            outcome = yield from train(
                model,
                without_samples(workload.train, order.left_out).to(device),
                recipe,
                objective=workload.objective,
                seed=order.seed,
                keep=keep,
                state=state,
            )
    except UnlearningError as error:
        hint = " --plain trains without Ready2Unlearn." if isinstance(recipe, Recipe) and recipe.readiness else ""
        raise CannotTrain(f"{error}{hint}") from error
    if not is_finite(model):
        raise CannotTrain(
            "The trained weights are not finite numbers. Lower the recipe's learning rate; nothing was written."
        )
    return whole(model.state_dict()), outcome


def train_workload(
    reference: str,
    *,
    allowed: Sequence[str],
    folder: Path,
    seed: int = 0,
    plain: bool = False,
    without: Collection[str] = (),
    without_subjects: Collection[str] = (),
    references: ReferencePlan | None = None,
    launch: Launch | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    show: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train the workload that `reference` names and write `<sha256>.safetensors` with `<sha256>.json` beside it.

    Of a training in slices the weights after each slice but the last are written too; the JSON file lists them as `checkpoints`.
    A training that is interrupted continues from its last training checkpoint, `<digest>.checkpoint`, when it is begun again in the
    same folder. The digest is of everything that it depends on except the content of the samples.

    without: IDs of training samples to leave out; without_subjects: people, all of whose samples are left out. plain: train without
    Ready2Unlearn, which a trainer adds or leaves out by itself. show: called after each step.
    references: a plan of reference models to train as well; what they say of the samples is kept in `<folder>/references`, for
    `expunge references --prepared`. launch: how several processes are started that train together; None to train in this one.
    checkpoint_seconds: between two checkpoints; 0 for one at every step.
    Raises CannotTrain with the reason, also if the folder cannot be written to, which is tried before the training, and
    NobodyLeftOut if the training set has nothing of what is to be left out.
    """
    order = Training(reference=reference, allowed=allowed, left_out=frozenset(), plain=plain, seed=seed, folder=folder)
    workload = order.load()
    left_out = find_left_out(workload.train, without, frozenset(without_subjects))
    order = dataclasses.replace(order, left_out=left_out)
    try:
        check_data(workload)
    except UnlearningError as error:
        raise CannotTrain(str(error)) from error
    recipe = order.recipe(workload)
    try:
        LocalFolder(folder).check()
    except OSError as error:
        raise CannotTrain(
            f"The weights could not be written to {folder}, so nothing was trained. {explain(error)}"
        ) from error
    unfinished = _Unfinished(path=checkpoint_path(order, workload, recipe), interval=checkpoint_seconds)
    try:
        weights, outcome, seconds = _train(order, workload, unfinished, launch=launch, show=show)
        model = fresh(workload.build, seed=seed)
        model.load_state_dict(weights)
        path, sha256 = save_weights(model, folder)
        details: dict[str, object] = {
            "workload": reference,
            "seed": seed,
            "training_seconds": round(seconds, 3),
            "left_out": len(left_out),
            "recipe" if isinstance(recipe, Recipe) else "trainer": training_settings(recipe),
        }
        if workload.fingerprints:
            details[FINGERPRINTS] = dict(workload.fingerprints)
        if outcome.kept:
            details["checkpoints"] = list(outcome.kept)
        write_atomically(path.with_suffix(".json"), f"{json.dumps(details, indent=2)}\n".encode())
        unfinished.path.unlink(missing_ok=True)
    except OSError as error:
        raise CannotTrain(
            f"The training did not come to its end. {explain(error)} Given again, the same command goes on from the last training "
            "checkpoint, if one could be written."
        ) from error
    trained = Trained(path=path, sha256=sha256, seconds=seconds, left_out=len(left_out), details=details)
    if references is not None:
        _train_references(order, workload, trained, model=model, plan=references, launch=launch, show=show)
    return trained


def _train(
    order: Training,
    workload: Workload,
    unfinished: "_Unfinished",
    *,
    launch: Launch | None,
    show: Callable[[Progress], None],
) -> tuple[dict[str, Tensor], Outcome, float]:
    """Train from the last training checkpoint on, if there is one, and save further ones; also return the seconds.

    Raises CannotTrain, OSError.
    """
    make = partial(training_steps, order, workload=workload if launch is None else None)
    with processes(launch, CannotTrain) as where:
        steps = where.begin(make, resumed=unfinished.read(), expected=CannotTrain)

        def after_step(progress: Progress) -> None:
            unfinished.save_if_due(where.state, progress)
            show(progress)

        weights, outcome = run_to_completion(steps, on_progress=after_step)
        return weights, outcome, unfinished.seconds


def _train_references(
    order: Training,
    workload: Workload,
    trained: Trained,
    *,
    model: nn.Module,
    plan: ReferencePlan,
    launch: Launch | None,
    show: Callable[[Progress], None],
) -> None:
    """Train the reference models of a `model` that was trained just now. Raises CannotTrain."""
    further = ReferenceTraining(
        reference=order.reference,
        allowed=order.allowed,
        left_out=order.left_out,
        weights=trained.path,
        sha256=trained.sha256,
        plan=plan,
        seed=order.seed,
        folder=order.folder / "references",
    )
    seen = None
    if launch is None:
        samples = without_samples(workload.train, order.left_out)
        seen = on_base_of(dataclasses.replace(workload, train=samples), model.cpu())
    try:
        with processes(launch, CannotTrain) as where:
            make = partial(reference_steps, further, kind=CannotTrain, workload=seen)
            run_to_completion(where.begin(make, expected=CannotTrain), show)
    except (CannotTrain, OSError) as error:
        why = explain(error) if isinstance(error, OSError) else str(error)
        raise CannotTrain(
            f"The model was trained and written to {trained.path}. Its references were not: {why} Mend it and register the model; "
            "`expunge references --prepared` keeps the reference models that are finished, and trains the others."
        ) from error


@dataclass(slots=True, eq=False)
class _Unfinished:
    """The training checkpoint of a training that has not ended. seconds: of training, those before an interruption included."""

    path: Path
    interval: float
    before: float = 0.0
    begun: float = field(default_factory=time.monotonic)
    saved_at: float = field(default_factory=time.monotonic)
    saved_step: int = 0

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.begun

    def read(self) -> dict[str, Any]:
        """Return the state to continue from; empty if there is none that can be used."""
        try:
            content = load_training_checkpoint(self.path, file_sha256(self.path))
        except (CheckpointUnusable, FileNotFoundError):
            return {}
        self.before = content["seconds"]
        state: dict[str, Any] = content["state"]
        return state

    def save_if_due(self, state: State, progress: Progress) -> None:
        """Write a checkpoint once the interval is over. A full disk does not end the training."""
        step = progress.step if state.step is None else state.step
        if time.monotonic() - self.saved_at < self.interval or step == self.saved_step:
            return
        self.saved_at, self.saved_step = time.monotonic(), step
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, checkpoint_to_bytes({"seconds": self.seconds, "state": state.snapshot()}))


def checkpoint_path(order: Training, workload: Workload, recipe: Recipe | OwnTraining) -> Path:
    """Name the training checkpoint by the SHA-256 of what the training depends on."""
    what = {
        "workload": order.reference,
        "network": str(fresh(workload.build, seed=0)),
        "recipe": training_settings(recipe),
        "samples": workload.train.ids,
        "left_out": sorted(order.left_out),
        "slices": workload.train.slices,
        "seed": order.seed,
        **workload.identity,
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    return order.folder / f"{digest}.checkpoint"


def prepare_recipe(recipe: Recipe | OwnTraining, *, plain: bool) -> Recipe | OwnTraining:
    """Add Ready2Unlearn's defaults to a recipe that names no preparation; with `plain`, remove the preparation.

    An owner's function stays as it is.
    """
    if isinstance(recipe, OwnTraining):
        return recipe
    if plain:
        return dataclasses.replace(recipe, readiness=None)
    chosen = recipe.readiness or recipe.reweighting or recipe.privacy
    return recipe if chosen else dataclasses.replace(recipe, readiness=Ready2Unlearn())
