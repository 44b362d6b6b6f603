"""Objectives: what a model is trained for, as functions. Methods and audits know the modality only through these."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.data.batches import Batch, Inputs, same_inputs, sent
from unlearning.errors import UnsupportedWorkload

Forward = Callable[..., Any]
"""A model's forward pass, or the same with other parameters passed in (`torch.func.functional_call`).

An objective calls it with a batch's inputs (`call`). It returns whatever the model returns; an objective takes it apart
(`logits_of`).
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What a model is trained for.

    losses: returns the loss of each sample, (n,), nats, differentiable. scramble: returns the same inputs with targets drawn at
    random, the true one not excluded. logits: returns (n, classes), for classifiers; if it is None, methods and audits that need
    logits refuse.
    classes: the number of classes; None without logits. Raises UnsupportedWorkload for logits without their number of classes.
    """

    losses: Callable[[Forward, Batch], Tensor]
    scramble: Callable[[Batch, torch.Generator], Batch]
    logits: Callable[[Forward, Inputs], Tensor] | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        if self.logits is not None and self.classes is None:
            raise UnsupportedWorkload("An objective with logits must name its number of classes.")


def call(forward: Forward, inputs: Inputs, *, spread: bool = False) -> Any:
    """Call a forward pass with a batch's inputs as its only argument.

    spread: pass a dict as keyword arguments, and a tuple or list as several arguments. Hugging Face's models take their inputs so.
    """
    match inputs if spread else None:
        case dict() as named:
            return forward(**named)
        case tuple() | list() as several:
            return forward(*several)
    return forward(inputs)


def classification(classes: int, *, spread: bool = False) -> Objective:
    """Make the objective of a classifier: cross-entropy over `classes` of the model's logits (`logits_of`), targets (n,) int64.

    A model with one output z a sample, (n,) or (n, 1), is one of two classes, whose logits are 0 and z. bf16 and float16 logits are
    compared in float32. spread: how the model takes its inputs, see `call`. Raises UnsupportedWorkload for fewer than two classes,
    and later for logits of another shape.
    """
    if classes < 2:
        raise UnsupportedWorkload(
            f"classification({classes}) leaves nothing to tell apart. A model with one output a sample, trained by binary "
            "cross-entropy, is classification(2) with the labels 0 and 1."
        )

    def logits(forward: Forward, inputs: Inputs) -> Tensor:
        return _class_logits(logits_of(call(forward, inputs, spread=spread)), classes)

    def losses(forward: Forward, batch: Batch) -> Tensor:
        return functional.cross_entropy(logits(forward, batch.inputs), batch.targets, reduction="none")

    def scramble(batch: Batch, generator: torch.Generator) -> Batch:
        targets = torch.randint(classes, batch.targets.shape, generator=generator)
        return Batch(batch.inputs, sent(targets, batch.targets.device))

    return Objective(losses=losses, scramble=scramble, logits=logits, classes=classes)


def logits_of(output: Any) -> Tensor:
    """Find the logits in what a model returns.

    A tensor is the logits. Otherwise they are the entry or attribute named `logits`, as in Hugging Face's ModelOutput; without one,
    the first tensor of a tuple, a list or a mapping. Raises UnsupportedWorkload where there is none.
    """
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    entries = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    found = next((entry for entry in entries if isinstance(entry, Tensor)), None)
    if found is None:
        raise UnsupportedWorkload(
            f"The model returns a {type(output).__name__} without logits. Return a tensor (n, classes), a tuple that begins with "
            "it, or an object or dict with `logits`."
        )
    return found


def _class_logits(found: Tensor, classes: int) -> Tensor:
    if classes == 2 and found.shape[1:] in ((), (1,)):
        one = found.reshape(len(found))
        found = torch.stack([torch.zeros_like(one), one], -1)
    if found.dim() != 2 or found.shape[1] != classes:
        shape = ", ".join(map(str, ("n", *found.shape[1:])))
        raise UnsupportedWorkload(
            f"The model returns logits of shape ({shape}); classification({classes}) needs (n, {classes}). One prediction a sample "
            "is supported; several, as of a language model or a segmentation, are not."
        )
    return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found


class Answers(NamedTuple):
    """A model's answers to n samples. losses: (n,), nats. logits: (n, classes), or None without logits. targets: the samples'."""

    losses: Tensor
    logits: Tensor | None
    targets: Tensor

    def take(self, chosen: Tensor) -> "Answers":
        """Return the answers to the samples that `chosen`, (n,) bool or (k,) int64, names."""
        return Answers(self.losses[chosen], None if self.logits is None else self.logits[chosen], self.targets[chosen])

    def float(self) -> "Answers":
        """Return them in float32, in which statistics are computed."""
        return Answers(self.losses.float(), None if self.logits is None else self.logits.float(), self.targets)

    @property
    def wrong(self) -> Tensor:
        """1 for each wrongly classified sample, else 0, (n,). Only with logits."""
        assert self.logits is not None
        return (self.logits.argmax(-1) != self.targets).float()


def answers(objective: Objective, forward: Forward, batch: Batch) -> Answers:
    """Compute each sample's loss and logits in one forward pass.

    An objective that does not call `forward` exactly once, or not on the same inputs, for each of the two is given a pass for each.
    Raises UnsupportedWorkload for losses of another shape.
    """
    if objective.logits is None:
        return Answers(_checked(objective.losses(forward, batch), batch), None, batch.targets)
    passes: list[tuple[Inputs, Any]] = []

    def record(*given: Inputs, **named: Inputs) -> Any:
        passes.append(((given, named), forward(*given, **named)))
        return passes[-1][1]

    logits = objective.logits(record, batch.inputs)
    asked: list[Inputs] = []

    def replay(*given: Inputs, **named: Inputs) -> Any:
        asked.append((given, named))
        return passes[0][1]

    losses = objective.losses(replay, batch) if len(passes) == 1 else None
    if losses is None or len(asked) != 1 or not same_inputs(asked[0], passes[0][0]):
        losses = objective.losses(forward, batch)
    return Answers(_checked(losses, batch), logits, batch.targets)


def _checked(losses: Tensor, batch: Batch) -> Tensor:
    if losses.shape != (batch.size,):
        shape = tuple(losses.shape)
        raise UnsupportedWorkload(
            f"The objective's losses have the shape {shape}; it must return one loss a sample, (n,)."
        )
    return losses
