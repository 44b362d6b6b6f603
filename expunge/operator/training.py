"""Train a workload's model by its own recipe, prepared for unlearning, or by its own function."""

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from expunge.errors import CannotTrain
from expunge.operator.workloads import as_owners_error, choose_device, find_left_out
from unlearning.data.workload import OwnTraining, check_data
from unlearning.errors import UnlearningError
from unlearning.networks import is_finite
from unlearning.specs.references import ReferencePlan
from unlearning.specs.training import Ready2Unlearn, Recipe
from unlearning.storage import save_weights
from unlearning.task import Progress, run_to_completion
from unlearning.training.loop import fresh, on_base_of, train
from unlearning.training.own import training_settings
from unlearning.training.references import train_reference_models
from worker.failures import WorkerError
from worker.inputs import load_workload


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
    show: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train the workload that `reference` names and write `<sha256>.safetensors` with `<sha256>.json` beside it.

    Of a training in slices the weights after each slice but the last are written too; the JSON file lists them as `checkpoints`.

    without: IDs of training samples to leave out; without_subjects: people, all of whose samples are left out. plain: train without
    Ready2Unlearn, which a trainer adds or leaves out by itself. show: called after each step.
    references: a plan of reference models to train as well; what they say of the samples is kept in `<folder>/references`, for
    `expunge references --prepared`.
    Raises CannotTrain with the reason, NobodyLeftOut if the training set has nothing of what is to be left out, and OSError if the
    weights cannot be written.
    """
    try:
        workload = load_workload(reference, allowed=allowed)
    except WorkerError as error:
        raise CannotTrain(str(error)) from error
    recipe = prepare_recipe(workload.training, plain=plain)
    device = choose_device()
    model = fresh(workload.build, seed=seed).to(device)
    left_out = find_left_out(workload.train, without, frozenset(without_subjects))
    samples = workload.train.take(
        torch.tensor([i for i, name in enumerate(workload.train.ids) if name not in left_out])
    )
    try:
        check_data(workload)
    except UnlearningError as error:
        raise CannotTrain(str(error)) from error
    started = time.monotonic()

    def keep(number: int, model: nn.Module) -> dict[str, object]:
        return {"slice": number, "sha256": save_weights(model, folder)[1]}

    try:
        with as_owners_error(CannotTrain, workload, owned=allowed):
            steps = train(model, samples.to(device), recipe, objective=workload.objective, seed=seed, keep=keep)
            outcome = run_to_completion(steps, on_progress=show)
    except UnlearningError as error:
        hint = " --plain trains without Ready2Unlearn." if isinstance(recipe, Recipe) and recipe.readiness else ""
        raise CannotTrain(f"{error}{hint}") from error
    seconds = time.monotonic() - started
    if not is_finite(model):
        raise CannotTrain(
            "The trained weights are not finite numbers. Lower the recipe's learning rate; nothing was written."
        )
    path, sha256 = save_weights(model, folder)
    details: dict[str, object] = {
        "workload": reference,
        "seed": seed,
        "training_seconds": round(seconds, 3),
        "left_out": len(left_out),
        "recipe" if isinstance(recipe, Recipe) else "trainer": training_settings(recipe),
    }
    if outcome.kept:
        details["checkpoints"] = list(outcome.kept)
    path.with_suffix(".json").write_text(json.dumps(details, indent=2) + "\n")
    if references is not None:
        seen = on_base_of(dataclasses.replace(workload, train=samples), model.cpu())
        models = train_reference_models(seen, references, seed=seed, folder=folder / "references", device=device)
        try:
            with as_owners_error(CannotTrain, workload, owned=allowed):
                run_to_completion(models, show)
        except (UnlearningError, CannotTrain) as error:
            raise CannotTrain(
                f"The model was trained and written to {path}. Its references were not: {error} Mend it and register the model; "
                "`expunge references --prepared` keeps the reference models that are finished, and trains the others."
            ) from error
    return Trained(path=path, sha256=sha256, seconds=seconds, left_out=len(left_out), details=details)


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
