"""Training steps for the methods that go through their data a fixed number of times."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unlearning.descent import FEWEST_TO_NORMALISE_BY, batch_norms, follow_statistics
from unlearning.errors import MethodRefused
from unlearning.gradients import Loss, forward_with, trainable
from unlearning.samples import Batch
from unlearning.state import Loop
from unlearning.task import Outcome, Progress, Steps, Task


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
