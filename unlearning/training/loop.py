"""Training steps for the methods that go through their data a fixed number of times."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unlearning.data.objectives import Objective
from unlearning.data.samples import Batch, SampleSet
from unlearning.errors import MethodRefused
from unlearning.gradients import FEWEST_TO_NORMALISE_BY, Loss, batch_norms, follow_statistics, forward_with, trainable
from unlearning.precision import autocast
from unlearning.random_state import isolated
from unlearning.specs.training import Recipe
from unlearning.state import Epochs, Loop, State
from unlearning.task import Outcome, Progress, Steps, Task
from unlearning.training.private import private_steps
from unlearning.training.readiness import readiness_loss, revocable_split


def counted(task: Task, optimiser: torch.optim.Optimizer, steps: Iterable[Callable[[], float]], *, total: int) -> Steps:
    """Take `total` steps, each of which gives its loss, then completed.

    A resumed run draws the steps before it once more and does not take them: which samples they are, and all that is drawn while
    they are listed, follows from the seed alone.
    """
    loop = Loop(total)
    task.state.keep(model=task.model, optimiser=optimiser, loop=loop)
    for number, step in zip(loop, islice(steps, loop.done, None), strict=True):
        yield Progress(phase="unlearn", step=number, total=total, metrics={"loss": step()})
    return Outcome(steps=total, stopped_because="completed")


@contextmanager
def training_mode(model: nn.Module, *, samples: int) -> Iterator[None]:
    """As in training: dropout on, batch norm by the batch's statistics unless it has fewer than 16 samples."""
    model.train()
    if samples < FEWEST_TO_NORMALISE_BY:
        for norm in batch_norms(model):
            norm.eval()
    try:
        yield
    finally:
        model.eval()


def rehearse(task: Task, optimiser: torch.optim.Optimizer, batch: Batch) -> float:
    """One step on remaining data with their true targets; batch norm's running statistics follow them. Gives the loss."""
    with training_mode(task.model, samples=len(batch.targets)):
        return _step(optimiser, mean_loss(task, batch)(task.model))


def mean_loss(task: Task, batch: Batch) -> Loss:
    """The objective's mean loss of a batch, as a function of the forward pass."""
    return lambda forward: task.objective.losses(forward, batch).mean()


def learn_blindly(task: Task, optimiser: torch.optim.Optimizer, loss: Loss, *, samples: int) -> float:
    """One step on a loss in which the forget set is: batch norm's running statistics are left alone. Gives the loss."""
    with training_mode(task.model, samples=samples):
        # Through a copy of the buffers: what is to be forgotten must not leave its statistics in them.
        return _step(optimiser, loss(forward_with(task.model, trainable(task.model))))


class Mixed(NamedTuple):
    """A batch of remaining and forget samples. forgotten: (n,) bool, which they are."""

    batch: Batch
    forgotten: Tensor


def mixed_epoch(remain: Batch, forget: Batch, *, size: int, generator: torch.Generator) -> Iterator[Mixed]:
    """Every sample of both once, in a random order."""
    inputs, targets = (torch.cat(pair) for pair in zip(remain, forget, strict=True))
    for index in torch.split(torch.randperm(len(inputs), generator=generator), size):
        forgotten = (index >= len(remain.inputs)).to(inputs.device)
        yield Mixed(Batch(inputs[index], targets[index]), forgotten)


def mixed_count(remain: Batch, forget: Batch, *, size: int) -> int:
    """How many batches `mixed_epoch` gives."""
    return -(-(len(remain.targets) + len(forget.targets)) // size)


def learn_mixed(task: Task, optimiser: torch.optim.Optimizer, mixed: Mixed, loss: Loss) -> float:
    """One step on a mixed batch; batch norm's running statistics follow its remaining part alone. Gives the loss."""
    found = learn_blindly(task, optimiser, loss, samples=len(mixed.forgotten))
    remaining = mixed.batch.inputs[~mixed.forgotten]
    if len(remaining):
        follow_statistics(task.model, remaining)
    return found


def wrong_labels(task: Task, targets: Tensor, generator: torch.Generator) -> Tensor:
    """Labels (n,) int64 drawn uniformly from all classes but the true one. Raises MethodRefused without classes."""
    classes = task.objective.classes
    if classes is None or classes < 2:
        raise MethodRefused("Relabelling needs two classes or more to draw a wrong one from; use IEU or Retrain.")
    shift = torch.randint(1, classes, targets.shape, generator=generator).to(targets.device)
    return (targets + shift) % classes


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> float:
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
    optimiser.step()
    optimiser.zero_grad()
    return float(loss.detach())


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
