"""Relearning: fine-tune a copy of a model on a set until its loss is where the original had it."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unlearning.objective import Objective
from unlearning.passing import fast, in_pieces
from unlearning.samples import Batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Relearner:
    """How to relearn, the same for every model and set of an audit. kind: "sgd" (plain) or "adam".

    target: the loss at which a set counts as relearned. limit: T_max, steps. batch_size: samples a step.
    """

    kind: str
    learning_rate: float
    target: float
    limit: int
    batch_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One relearning. losses: the set's mean loss before step 1, after it, … delay: T, the first step at which the loss is
    at the target. censored: T_max came first (then delay is T_max). travelled: ‖θ_T − θ_0‖, T being the last step where it
    is censored. diverged: the loss left the
    finite numbers, and the curve ends there.
    """

    losses: tuple[float, ...]
    delay: int
    censored: bool
    travelled: float
    diverged: bool

    def to_json(self) -> dict[str, list[int] | list[float]]:
        """The curve's part of the report."""
        return {"steps": list(range(len(self.losses))), "loss": list(self.losses)}

    def delay_json(self) -> dict[str, object]:
        """The delay's part of the report."""
        return {"steps": self.delay, "censored": self.censored, "travelled": self.travelled}


def relearn(
    model: nn.Module, batch: Batch, *, objective: Objective, relearner: Relearner, seed: int, at_least: int = 0
) -> Curve:
    """Fine-tune a deep copy of `model` on `batch` until its mean loss is back at the target, or T_max is reached.

    The order is fixed by `seed`. Evaluation mode throughout: batch-norm statistics and dropout would make a step depend on
    which samples share its batch. at_least: go on for so many steps where the target comes sooner (for plots).
    """
    copied = fast(copy.deepcopy(model)).eval().requires_grad_(True)
    batch = Batch(fast(batch.inputs), batch.targets)
    parameters = [p for p in copied.parameters() if p.is_floating_point()]
    start = [p.detach().clone() for p in parameters]
    optimiser = _optimiser(relearner, parameters)
    losses = [mean_loss(copied, batch, objective)]
    delay = 0 if losses[0] <= relearner.target else None
    travelled = 0.0
    for index in _order(len(batch.targets), relearner.batch_size, relearner.limit, seed):
        if delay is not None and len(losses) > at_least:
            break
        optimiser.zero_grad(set_to_none=True)
        with torch.enable_grad():
            loss = objective.losses(copied, Batch(batch.inputs[index], batch.targets[index])).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
        value = mean_loss(copied, batch, objective)
        if not math.isfinite(value):
            break
        losses.append(value)
        if delay is None and value <= relearner.target:
            delay = len(losses) - 1
            travelled = _distance(start, parameters)
    if delay is None:
        travelled = _distance(start, parameters)
    diverged = not math.isfinite(losses[0]) or (delay is None and len(losses) <= relearner.limit)
    return Curve(
        losses=tuple(x for x in losses if math.isfinite(x)),
        delay=relearner.limit if delay is None else delay,
        censored=delay is None,
        travelled=travelled if math.isfinite(travelled) else 0.0,
        diverged=diverged,
    )


def calibrate(
    model: nn.Module, control: Batch, *, objective: Objective, kind: str, target: float, steps: int, limit: float,
    batch_size: int, seed: int, tries: int = 5,
) -> Relearner | None:  # fmt: skip
    """The learning rate at which `model`, the original, learns a control set in about `steps` steps; None if none does.

    Looks at the original and at held-out data only, so everything is fixed before the unlearned model is touched. The first
    rate at which it takes between two thirds and twice as many is taken, else the nearest tried; T_max is `limit` times what
    it took. The search begins low and goes up by halves at most: at the edge of stability plain SGD's delay is mostly noise.
    """
    rate = 0.01 if kind == "sgd" else 0.0005
    best: tuple[float, Relearner] | None = None
    for _ in range(tries):
        trial = Relearner(kind=kind, learning_rate=rate, target=target, limit=3 * steps, batch_size=batch_size)
        curve = relearn(model, control, objective=objective, relearner=trial, seed=seed)
        if curve.delay == 0:
            return None
        if not curve.censored:
            miss = abs(math.log(curve.delay / steps))
            if best is None or miss < best[0]:
                best = (miss, replace(trial, limit=math.ceil(limit * max(curve.delay, steps))))
            if steps / 1.5 <= curve.delay <= 2 * steps:
                break
        rate *= 0.25 if curve.diverged else min(1.5, curve.delay / steps)
    return best[1] if best else None


def _optimiser(relearner: Relearner, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if relearner.kind == "adam":
        return torch.optim.Adam(parameters, lr=relearner.learning_rate)
    return torch.optim.SGD(parameters, lr=relearner.learning_rate)


def _order(n: int, size: int, limit: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while True:
        for index in torch.split(torch.randperm(n, generator=generator), size):
            if done == limit:
                return
            done += 1
            yield index


@torch.no_grad()
def mean_loss(model: nn.Module, batch: Batch, objective: Objective) -> float:
    """The mean loss of the batch, nats."""
    return float(objective.losses(in_pieces(model), batch).double().mean())


def _distance(start: list[Tensor], parameters: list[nn.Parameter]) -> float:
    pairs = zip(start, parameters, strict=True)
    return math.sqrt(sum(float((p.detach() - s).double().pow(2).sum()) for s, p in pairs))
