"""Train a model by its recipe, or by its owner's function."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning import ranks
from unlearning.data.batches import Batch, sent
from unlearning.data.objectives import Objective, divided, undivided
from unlearning.data.samples import SampleSet
from unlearning.data.workload import OwnTraining, Workload
from unlearning.errors import MethodRefused, UnsupportedWorkload
from unlearning.hardware import autocast, in_float32
from unlearning.networks import differentiable_kernels, take_frozen
from unlearning.random_state import isolated, seeded
from unlearning.specs.training import Augmentation, Recipe
from unlearning.state import Epochs, State
from unlearning.steps import Figures, Outcome, Progress, Steps, run_to_completion
from unlearning.training.own import own_steps
from unlearning.training.private import private_steps
from unlearning.training.readiness import readiness_loss, revocable_split
from unlearning.training.slices import KeepSlice, sliced_steps


def fit(
    build: Callable[[], nn.Module],
    samples: SampleSet,
    recipe: Recipe | OwnTraining,
    *,
    objective: Objective,
    seed: int,
    original: nn.Module | None = None,
) -> nn.Module:
    """Initialise a new model as `fresh` does, train it on the samples' device, and return it in evaluation mode."""
    model = fresh(build, seed=seed, original=original).to(samples.device)
    run_to_completion(train(model, samples, recipe, objective=objective, seed=seed))
    return model


@in_float32
def fresh(build: Callable[[], nn.Module], *, seed: int, original: nn.Module | None = None) -> nn.Module:
    """Build the architecture with weights initialised from `seed`; the caller's random state does not change.

    original: what training does not move, such as a frozen pretrained backbone, is taken from it (`take_frozen`).
    """
    with seeded(seed):
        network = build()
    return network if original is None else take_frozen(network, original)


def on_base_of(workload: Workload, original: nn.Module) -> Workload:
    """Return the workload with a `build` that takes what training does not move from `original`, as `fresh` does."""
    return replace(workload, build=partial(_build_on, workload.build, original))


def _build_on(build: Callable[[], nn.Module], original: nn.Module) -> nn.Module:
    return take_frozen(build(), original)


def train(
    model: nn.Module,
    samples: SampleSet,
    recipe: Recipe | OwnTraining,
    *,
    objective: Objective,
    seed: int,
    keep: KeepSlice | None = None,
    state: State | None = None,
) -> Steps:
    """Train `model` in place, yielding after each batch, or at each report of its owner's function; leave it in evaluation mode.

    Samples that come in slices are learned slice by slice (`slices`). keep: keeps the weights after each of them but the last.
    state: gets what a training checkpoint holds, and may hold one to continue from.
    Same seed, same weights on the same machine. The caller's random state does not change.
    """
    state = state or State()
    steps = train_steps(model, samples, recipe, objective=objective, seed=seed, state=state, keep=keep)
    return isolated(steps, seed=seed, state=state)


def train_steps(
    model: nn.Module,
    samples: SampleSet,
    recipe: Recipe | OwnTraining,
    *,
    objective: Objective,
    seed: int,
    state: State,
    after: int | None = None,
    keep: KeepSlice | None = None,
) -> Steps:
    """Train as `train` does, but draw from the process's random state, and register the run's parts in `state`.

    after: the model has learned the slices up to this one already.
    """
    if samples.slices is None:
        return (yield from _whole_steps(model, samples, recipe, objective=objective, seed=seed, state=state))

    def train_slice(part: SampleSet, seed: int, state: State) -> Steps:
        return _whole_steps(model, part, recipe, objective=objective, seed=seed, state=state)

    own = isinstance(recipe, OwnTraining)
    return (
        yield from sliced_steps(
            model, samples, train_slice, seed=seed, state=state, after=after, keep=keep, holds_model=not own
        )
    )


def _whole_steps(
    model: nn.Module,
    samples: SampleSet,
    recipe: Recipe | OwnTraining,
    *,
    objective: Objective,
    seed: int,
    state: State,
) -> Steps:
    """Train on all samples at once."""
    if isinstance(recipe, OwnTraining):
        return (yield from own_steps(model, samples, recipe, seed=seed, state=state))
    if recipe.privacy is not None:
        return (
            yield from private_steps(
                model, samples, recipe, recipe.privacy, objective=undivided(objective), seed=seed, state=state
            )
        )
    objective, device = divided(objective), samples.device
    generator = torch.Generator().manual_seed(seed)
    batches = Epochs(samples, recipe.batch_size, recipe.epochs, generator)
    total = batches.total
    optimiser = torch.optim.SGD(
        model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=total, cycle_momentum=False
    )
    # Whole batches alone: a compiled pass is compiled again for a batch of another size.
    # Not with several ranks either, which put other tensors in place of the parameters.
    compiler = recipe.compiler if ranks.count() == 1 else None
    compiled = model if compiler is None else torch.compile(model, backend=compiler, dynamic=False)
    augmentation, variation = recipe.augmentation, torch.Generator(device).manual_seed(seed)
    if augmentation is not None:
        _check_images(samples)
        state.register(augmentation=variation)
    prepare = _preparation(model, samples, recipe, objective=objective, seed=seed, total=total, generator=generator)
    weights = _sample_weights(samples, recipe, seed=seed)
    state.register(model=model, optimiser=optimiser, schedule=schedule, batches=batches, generator=generator)
    model.train()
    try:
        for batch in batches:
            if augmentation is not None:
                batch = Batch(augmented(batch.inputs, augmentation, variation), batch.targets)
            with autocast(device, recipe.precision), differentiable_kernels(model):
                losses = objective.for_step().losses(compiled if batch.size == recipe.batch_size else model, batch)
                loss = losses.mean() if weights is None else (weights[sent(batches.index, device)] * losses).mean()
                loss = prepare(loss, batches.taken - 1)
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
            yield Progress(phase="train", step=batches.taken, total=total, metrics=Figures(loss=loss))
    finally:
        model.eval()
    return Outcome(steps=batches.taken, stopped_because="completed")


def _preparation(
    model: nn.Module,
    samples: SampleSet,
    recipe: Recipe,
    *,
    objective: Objective,
    seed: int,
    total: int,
    generator: torch.Generator,
) -> Callable[[Tensor, int], Tensor]:
    """Return what adds Ready2Unlearn's terms to the loss of a step, from 0, if the recipe has them. Raises MethodRefused."""
    readiness = recipe.readiness
    if readiness is None:
        return lambda loss, step: loss
    if not samples.random_access:
        raise MethodRefused(
            "Ready2Unlearn draws simulated requests at random, and the training set is a stream. Train without it "
            "(`expunge train --plain`), or write the stream to files and use StoredSet.of."
        )
    split = revocable_split(samples, share=readiness.revocable_share, seed=seed, unit=readiness.unit)
    first = round(readiness.warm_up * total)

    def prepare(loss: Tensor, step: int) -> Tensor:
        if step < first or step % readiness.every:
            return loss
        return loss + readiness_loss(
            model, readiness, objective=objective, split=split, batch_size=recipe.batch_size, generator=generator
        )

    return prepare


@torch.no_grad()
def augmented(images: Tensor, spec: Augmentation, generator: torch.Generator) -> Tensor:
    """Return a batch of images (n, c, h, w), each cropped and mirrored by chance, in the memory format of the given ones.

    generator: on the images' device.
    """
    n, _, height, width = images.shape
    device, layout = images.device, torch.contiguous_format
    if not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last):
        layout = torch.channels_last
    if spec.padding:
        padded = functional.pad(images, (spec.padding,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        top, left = torch.randint(2 * spec.padding + 1, (2, n), generator=generator, device=device)
        images = windows[torch.arange(n, device=device), :, top, left]
    if spec.mirror:
        mirrored = torch.rand(n, generator=generator, device=device) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return images.contiguous(memory_format=layout)


def _check_images(samples: SampleSet) -> None:
    """Raise UnsupportedWorkload unless the samples are images, which is what a recipe's augmentation varies."""
    inputs = samples.select(torch.arange(1)).inputs
    if not isinstance(inputs, Tensor) or inputs.dim() != 4:
        what = str(tuple(inputs.shape[1:])) if isinstance(inputs, Tensor) else "of several tensors"
        raise UnsupportedWorkload(
            f"The recipe's augmentation is for images, (channels, height, width); samples are {what}."
        )


def _sample_weights(samples: SampleSet, recipe: Recipe, *, seed: int) -> Tensor | None:
    """Return the weight of each sample's loss, (n,), or None if all weigh the same."""
    if recipe.reweighting is None:
        return None
    split = revocable_split(samples, share=recipe.reweighting.revocable_share, seed=seed)
    revocable = set(split.revocable.ids)
    weights = [recipe.reweighting.weight if sample in revocable else 1.0 for sample in samples.ids]
    return torch.tensor(weights, device=samples.device)
