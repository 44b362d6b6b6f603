"""Training from scratch by a recipe, plainly or with Ready2Unlearn."""

from collections.abc import Callable, Generator

import torch
from torch import Tensor, nn

from unlearning.objective import Objective
from unlearning.precision import autocast
from unlearning.private_training import private_steps
from unlearning.random_state import isolated
from unlearning.readiness import readiness_loss, revocable_split
from unlearning.recipe import Recipe
from unlearning.samples import SampleSet
from unlearning.state import Epochs, State
from unlearning.task import Outcome, Progress, Steps


def train(model: nn.Module, samples: SampleSet, recipe: Recipe, *, objective: Objective, seed: int) -> Steps:
    """Train `model` in place, yielding after each batch; the model is left in eval mode.

    Same seed, same weights on the same machine. The caller's random state is left alone.
    """
    return isolated(train_steps(model, samples, recipe, objective=objective, seed=seed, state=State()), seed=seed)


def fit(
    build: Callable[[], nn.Module], samples: SampleSet, recipe: Recipe, *, objective: Objective, seed: int
) -> nn.Module:
    """A new model, initialised and trained from `seed`, on the samples' device."""
    model = fresh(build, seed=seed).to(samples.inputs.device)
    drain(train(model, samples, recipe, objective=objective, seed=seed))
    return model


def fresh(build: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """The architecture with weights initialised from `seed`; the caller's random state is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def drain(steps: Generator[Progress, None, Outcome]) -> Outcome:
    """Run to the end and give the outcome."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome


def train_steps(
    model: nn.Module, samples: SampleSet, recipe: Recipe, *, objective: Objective, seed: int, state: State
) -> Steps:
    """As `train`, drawing from the process's random state, with its parts kept in `state`."""
    if recipe.privacy is not None:
        return (
            yield from private_steps(
                model, samples, recipe, recipe.privacy, objective=objective, seed=seed, state=state
            )
        )
    generator = torch.Generator().manual_seed(seed)
    device = samples.inputs.device
    batches = Epochs(samples, recipe.batch_size, recipe.epochs, generator)
    total = batches.total
    optimiser = torch.optim.SGD(
        model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=total, cycle_momentum=False
    )
    readiness = recipe.readiness
    split = revocable_split(samples, share=readiness.revocable_share, seed=seed) if readiness else None
    weights = _weights(samples, recipe, seed=seed)
    first_meta_step = round(readiness.warm_up * total) if readiness else total
    state.keep(model=model, optimiser=optimiser, schedule=schedule, batches=batches, generator=generator)
    model.train()
    try:
        for batch in batches:
            step = batches.taken - 1
            with autocast(device, recipe.precision):
                losses = objective.losses(model, batch)
                loss = losses.mean() if weights is None else (weights[batches.index] * losses).mean()
                if readiness and split and step >= first_meta_step and step % readiness.every == 0:
                    loss = loss + readiness_loss(
                        model,
                        readiness,
                        objective=objective,
                        split=split,
                        batch_size=recipe.batch_size,
                        generator=generator,
                    )
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
            yield Progress(phase="train", step=batches.taken, total=total, metrics={"loss": float(loss.detach())})
    finally:
        model.eval()
    return Outcome(steps=batches.taken, stopped_because="completed")


def _weights(samples: SampleSet, recipe: Recipe, *, seed: int) -> Tensor | None:
    """What each sample's loss counts, (n,), or None where all count the same."""
    if recipe.reweighting is None:
        return None
    split = revocable_split(samples, share=recipe.reweighting.revocable_share, seed=seed)
    revocable = set(split.revocable.ids)
    counts = [recipe.reweighting.weight if sample in revocable else 1.0 for sample in samples.ids]
    return torch.tensor(counts, device=samples.inputs.device)
