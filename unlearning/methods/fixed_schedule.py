"""Training steps of the methods with a fixed schedule: they go through their data a given number of times and have no stop."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from unlearning.data.batches import Batch, sent
from unlearning.data.samples import SampleSet, joined
from unlearning.errors import MethodRefused
from unlearning.gradients import Loss, forward_with, trainable
from unlearning.specs import NPO, AmnesiacRelabel, BadTeacher, GradDiff, SimNPO
from unlearning.state import Loop
from unlearning.steps import Figures, Outcome, Progress, Steps
from unlearning.task import Task
from unlearning.training.optimisation import set_rate, training_mode, update_running_statistics


def run_schedule(
    task: Task, optimiser: torch.optim.Optimizer, steps: Iterable[Callable[[], Tensor]], *, total: int
) -> Steps:
    """Take `total` steps, each of which returns its loss, and end with the outcome "completed".

    A resumed run draws the steps before it again without taking them: which samples they use, and everything else drawn while
    they are listed, depends on the seed alone.
    """
    loop = Loop(total)
    task.state.register(model=task.model, optimiser=optimiser, loop=loop)
    for number, step in zip(loop, islice(steps, loop.done, None), strict=True):
        yield Progress(phase="unlearn", step=number, total=total, metrics=Figures(loss=step()))
    return Outcome(steps=total, stopped_because="completed")


def mean_loss(task: Task, batch: Batch) -> Loss:
    """Return the objective's mean loss of a batch as a function of the forward pass."""
    return lambda forward: task.objective.for_step().losses(forward, batch).mean()


def rehearse(task: Task, optimiser: torch.optim.Optimizer, batch: Batch) -> Tensor:
    """Take one step on remaining data with their true targets and return the loss; batch norm's running statistics are updated."""
    with training_mode(task.model, samples=batch.size):
        return _step(optimiser, mean_loss(task, batch)(task.model))


def rehearse_epochs(
    task: Task, optimiser: torch.optim.Optimizer, generator: torch.Generator, *, shares: Sequence[float], size: int
) -> Steps:
    """Train on D_r alone, one epoch at each share of the learning rate, in batches of `size`."""

    def step_at(share: float, batch: Batch) -> Tensor:
        set_rate(optimiser, share)
        return rehearse(task, optimiser, batch)

    steps = (partial(step_at, share, batch) for share in shares for batch in task.remain.epoch(size, generator))
    return (yield from run_schedule(task, optimiser, steps, total=len(shares) * task.remain.batch_count(size)))


def learn_forget_batch(task: Task, optimiser: torch.optim.Optimizer, loss: Loss, *, samples: int) -> Tensor:
    """Take one step on a loss that forget samples enter and return the loss; batch norm's running statistics do not change.

    samples: the size of the batch.
    """
    with training_mode(task.model, samples=samples):
        # Through a copy of the buffers: forget samples must leave no trace in the running statistics.
        return _step(optimiser, loss(forward_with(task.model, trainable(task.model))))


def learn_and_forget(
    task: Task, optimiser: torch.optim.Optimizer, remain: Batch, forget: Batch, *, loss: Loss, remain_weight: float
) -> Tensor:
    """Take one step on α·L(B_r; θ) plus a loss of the forget batch, α being `remain_weight`, and return that sum.

    The remaining batch alone updates batch norm's running statistics.
    """
    with training_mode(task.model, samples=remain.size):
        kept = mean_loss(task, remain)(task.model)
    with training_mode(task.model, samples=forget.size):
        forgotten = loss(forward_with(task.model, trainable(task.model)))
    return _step(optimiser, remain_weight * kept + forgotten)


def ascent(task: Task, batch: Batch, *, weight: float) -> Loss:
    """Return −γ·L(B; θ), γ being `weight`, as a function of the forward pass."""
    return lambda forward: -weight * mean_loss(task, batch)(forward)


def forget_epochs(task: Task, *, epochs: int, size: int, generator: torch.Generator) -> Iterator[tuple[Batch, Batch]]:
    """Yield each forget sample once an epoch, in batches of `size`, each with as many remaining samples drawn at random."""
    for _ in range(epochs):
        for forget in task.forget.epoch(size, generator):
            yield forget, task.remain.draw(forget.size, generator)


def learn_and_forget_epochs(
    spec: GradDiff | NPO | SimNPO, task: Task, *, loss: Callable[[Batch], Loss], remain_weight: float
) -> Steps:
    """Take the steps of `learn_and_forget` on the batches of `forget_epochs`, by AdamW. loss: (forget batch) → its loss."""
    generator = torch.Generator().manual_seed(task.seed)
    optimiser = torch.optim.AdamW(trainable(task.model).values(), lr=spec.learning_rate)
    steps = (
        partial(learn_and_forget, task, optimiser, remain, forget, loss=loss(forget), remain_weight=remain_weight)
        for forget, remain in forget_epochs(task, epochs=spec.epochs, size=spec.batch_size, generator=generator)
    )
    total = spec.epochs * task.forget.batch_count(spec.batch_size)
    return (yield from run_schedule(task, optimiser, steps, total=total))


class MixedBatch(NamedTuple):
    """A batch of remaining and forget samples. forgotten: (n,) bool, which of them are forget samples."""

    batch: Batch
    forgotten: Tensor


def learn_mixed_epochs(
    spec: AmnesiacRelabel | BadTeacher,
    task: Task,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    *,
    remain: SampleSet,
    forget: SampleSet,
    loss: Callable[[MixedBatch], Loss],
) -> Steps:
    """Learn every sample of both sets once an epoch, in a random order (`learn_mixed_batch`). loss: (mixed batch) → its loss."""
    samples = joined(remain, forget)

    def steps() -> Iterator[Callable[[], Tensor]]:
        for _ in range(spec.epochs):
            chunks = torch.split(torch.randperm(len(samples), generator=generator), spec.batch_size)
            for index, batch in zip(chunks, samples.stream(chunks, training=True), strict=True):
                mixed = MixedBatch(batch, sent(index >= len(remain), samples.device))
                yield partial(learn_mixed_batch, task, optimiser, mixed, loss)

    total = spec.epochs * -(-len(samples) // spec.batch_size)
    return (yield from run_schedule(task, optimiser, steps(), total=total))


def learn_mixed_batch(
    task: Task, optimiser: torch.optim.Optimizer, mixed: MixedBatch, loss: Callable[[MixedBatch], Loss]
) -> Tensor:
    """Take one step on a mixed batch and return the loss; its remaining samples alone update batch norm's running statistics."""
    value = learn_forget_batch(task, optimiser, loss(mixed), samples=len(mixed.forgotten))
    remaining = mixed.batch.take(~mixed.forgotten)
    if remaining.size:
        update_running_statistics(task.model, task.objective, remaining)
    return value


def wrong_labels(task: Task, targets: Tensor, generator: torch.Generator) -> Tensor:
    """Draw labels (n,) int64 uniformly from all classes but the true one. Raises MethodRefused without classes."""
    classes = task.objective.classes
    if classes is None or classes < 2:
        raise MethodRefused(
            "Relabelling draws a wrong class, and this objective has no classes. Use random labels, IEU or Retrain."
        )
    shift = sent(torch.randint(1, classes, targets.shape, generator=generator), targets.device)
    return (targets + shift) % classes


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
    optimiser.step()
    optimiser.zero_grad()
    return loss.detach()
