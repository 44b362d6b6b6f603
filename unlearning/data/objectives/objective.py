"""The objective of a model: per-sample losses, and what else methods and audits may ask for.

Here is also how an objective calls a model and finds its outputs in what it returns, and how ranks divide a batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from unlearning import ranks
from unlearning.data.batches import Batch, Inputs, same_inputs
from unlearning.data.objectives.prediction import (
    ACCURACY,
    MINUS_LOSS,
    Answers,
    Completion,
    Generation,
    Merit,
    Prediction,
    class_prediction,
)
from unlearning.data.objectives.targets import class_labels, finite
from unlearning.errors import MethodRefused, UnsupportedWorkload

Forward = Callable[..., Any]
"""A model's forward pass, or the same with other parameters passed in (`torch.func.functional_call`).

An objective calls it with a batch's inputs (`call`). It returns whatever the model returns; an objective takes it apart
(`logits_of`).
"""

Outputs = Callable[[Forward, Inputs], Tensor]
"""(forward, inputs) → (n, k)."""

Optimiser = Literal["sgd", "adam"]
"""What takes the methods' steps: SGD with momentum, or Adam."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What a model is trained for. Only `losses` is needed; a method or an audit that needs more refuses before anything runs.

    losses: returns the loss of each sample, (n,), nats, differentiable.
    scramble: returns the same inputs with targets drawn at random, the true one not excluded.
    merit: what utility means; without it accuracy for classes, else minus the loss.

    logits, classes: for one label a sample: (n, classes), and the number of classes. They offer all that `prediction` could.
        Classes without logits are those that a model, such as an image generator, is asked for.
    outputs, prediction: for other models that predict something: (n, k), and what can be read from it.

    recorded: (forward, inputs) → (n, j), the predictions that references keep of a model; without it those of the outputs.
    compared: (forward, inputs, aims (n, j)) → (n, …), differentiable, what `prediction.divergences` compares with these aims;
        without it the outputs. A row of zeros is the aim of a sample that has none.
    token_logits: (forward, inputs) → logits of a text's tokens, (n, length, c), and which tokens are not padding, (n, length) bool;
        for models of texts, whose features are the mean of what enters the layer that gives these.

    targets: (targets, name of the set) → targets as the losses take them; raises InvalidWorkload. A Workload calls it once.
    fit: (converted held-out targets) → the objective that knows them, e.g. their mean. A Workload calls it once. Held-out targets
        are never trained on: with training targets, weights that were trained anew would depend on forgotten ones. fitted: whether
        the objective is one that `fit` returned.
    ceiling: nats; a forget sample's loss is raised no farther. Without it log(classes), else twice the loss of held-out data.
    optimiser: what takes the methods' steps (`optimiser_for`): "adam" for models that learn badly by SGD.
    curvature: the largest second derivative of a sample's loss in any direction of its outputs, (k,), if the loss is convex in
        them; None if it is not, or nobody knows.
    gap: nats; a sample whose loss is so far below its aim is forgotten with full weight [ours].
    lengths: (targets) → (n,), how many predictions a sample's loss is the mean of, such as a text's tokens; without it 1.
    extraction: (forward, batch, generator) → by name (n,), 0 to 1: how much of each sample a model gives away that generates such
        samples. An audit reports it; only shares leave it, never what was generated.
    knowledge: (forward, batch) → (n,), 0 to 1: how well a model answers a question about each sample; NaN for one about which
        nothing is asked.
    completions: (forward, batch) → for each sample its text, and how a model completes it. For the operator's sheet alone.
    renewed: (number) → the objective with noise of its own, where `losses` are estimates with fixed noise; see `for_step`.
    generation: what a model can do that generates samples by class.
    alone: where batches are divided among ranks (`divided`), the objective that computes whole ones in this process.

    Raises UnsupportedWorkload for logits without their number of classes, for outputs without what can be read from them, and for
    another optimiser.
    """

    losses: Callable[[Forward, Batch], Tensor]
    scramble: Callable[[Batch, torch.Generator], Batch] | None = None
    merit: Merit | None = None
    logits: Outputs | None = None
    classes: int | None = None
    outputs: Outputs | None = None
    prediction: Prediction | None = None
    recorded: Outputs | None = None
    compared: Callable[[Forward, Inputs, Tensor], Tensor] | None = None
    token_logits: Callable[[Forward, Inputs], tuple[Tensor, Tensor]] | None = None
    targets: Callable[[Tensor, str], Tensor] | None = None
    fit: "Callable[[Tensor], Objective] | None" = None
    fitted: bool = False
    ceiling: float | None = None
    optimiser: Optimiser = "sgd"
    curvature: float | None = None
    gap: float = 0.5
    lengths: Callable[[Tensor], Tensor] | None = None
    extraction: Callable[[Forward, Batch, torch.Generator], Mapping[str, Tensor]] | None = None
    knowledge: Callable[[Forward, Batch], Tensor] | None = None
    completions: Callable[[Forward, Batch], Sequence[Completion]] | None = None
    renewed: "Callable[[int], Objective] | None" = None
    generation: Generation | None = None
    alone: "Objective | None" = None

    def __post_init__(self) -> None:
        if self.optimiser not in get_args(Optimiser):
            known = " or ".join(get_args(Optimiser))
            raise UnsupportedWorkload(f"An objective's optimiser is {known}, not {self.optimiser!r}.")
        if self.logits is not None and self.classes is None:
            raise UnsupportedWorkload("An objective with logits must name its number of classes.")
        if self.outputs is not None and self.prediction is None:
            raise UnsupportedWorkload("An objective with outputs must say in `prediction` what can be read from them.")

    @property
    def read(self) -> Outputs | None:
        """What the model predicts, (n, k); None if the objective offers losses alone."""
        return self.logits or self.outputs

    @property
    def predicts(self) -> Prediction | None:
        """What can be read from the outputs; None if the objective offers losses alone."""
        if self.read is None:
            return None
        return self.prediction or class_prediction(self.classes or 0)

    @property
    def utility(self) -> Merit:
        """What utility means: the merit if one is given."""
        return self.merit or (MINUS_LOSS if self.logits is None else ACCURACY)

    def for_step(self) -> "Objective":
        """Return the objective of one training step: where losses are estimates, with noise drawn anew.

        The draw is from torch's global random state. A step that trains on fixed noise would fit that noise.
        """
        return self if self.renewed is None else self.renewed(int(torch.randint(2**31, ())))

    def known(self, found: Answers) -> Tensor:
        """Compute the signal of the reference test, (n,): higher the better a sample is known; without outputs minus the loss."""
        if self.predicts is None or found.outputs is None:
            return -found.losses
        return self.predicts.known(found.outputs, found.targets)

    @property
    def known_unit(self) -> str:
        """The unit of `known`, for the report."""
        return "nats" if self.predicts is None else self.predicts.unit

    def attacked(self, forward: Forward, batch: Batch) -> Tensor:
        """Compute what a guide attack reads, differentiable: the outputs, (n, k), or without them the loss, (n, 1)."""
        return self.losses(forward, batch)[:, None] if self.read is None else self.read(forward, batch.inputs)

    def guessed(self, targets: Tensor) -> Answers | None:
        """Answer n samples as whoever knows how often each target occurs and no input; None if the objective does not say how."""
        predicts = self.predicts
        if predicts is None:
            return None
        outputs = predicts.guess(targets).expand(len(targets), -1)
        return Answers(predicts.losses(predicts.predictions(outputs), targets), outputs, targets)

    def scrambled(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Draw targets at random. Raises MethodRefused if the objective does not say how."""
        if self.scramble is None:
            raise MethodRefused("The method trains on random targets; this objective offers no `scramble`. Use IEU.")
        return self.scramble(batch, generator)

    def convert_targets(self, targets: Tensor, *, name: str) -> Tensor:
        """Return targets as the losses take them. Raises InvalidWorkload, which names the set and no sample."""
        if self.targets is not None:
            return self.targets(targets, name)
        if self.classes is not None:
            return class_labels(targets, classes=self.classes, name=name)
        return finite(targets, name=name)

    def highest_loss(self) -> float | None:
        """The loss, nats, above which no forget sample is raised; None if the objective does not tell."""
        return self.ceiling if self.classes is None or self.ceiling is not None else math.log(self.classes)


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


def logits_of(output: Any) -> Tensor:
    """Find the logits, or the predicted values, in what a model returns.

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


def class_logits(output: Any, classes: int) -> Tensor:
    """Find the logits of `classes` exclusive classes, (n, classes); one output z of two classes becomes the logits 0 and z.

    bf16 and float16 become float32. Raises UnsupportedWorkload for another shape.
    """
    found = logits_of(output)
    if classes == 2 and found.shape[1:] in ((), (1,)):
        one = found.reshape(len(found))
        found = torch.stack([torch.zeros_like(one), one], -1)
    if found.dim() != 2 or found.shape[1] != classes:
        raise UnsupportedWorkload(
            f"The model returns logits of shape {_shape(found)}; classification({classes}) needs (n, {classes}). One prediction a "
            "sample is supported; several, as of a segmentation, are not. A language model takes causal_language_model(vocabulary)."
        )
    return at_least_float32(found)


def columns(output: Any, count: int, *, of: str) -> Tensor:
    """Find one number for each of `count` labels or values, (n, count); (n,) will do for one. of: the objective, for the message.

    bf16 and float16 become float32. Raises UnsupportedWorkload for another shape.
    """
    found = logits_of(output)
    if count == 1 and found.dim() == 1:
        found = found[:, None]
    if found.dim() != 2 or found.shape[1] != count:
        raise UnsupportedWorkload(f"The model returns a tensor of shape {_shape(found)}; {of} needs (n, {count}).")
    return at_least_float32(found)


def at_least_float32(found: Tensor) -> Tensor:
    """Return a tensor in float32 if it is in float16 or bf16."""
    return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found


def _shape(found: Tensor) -> str:
    return f"({', '.join(map(str, ('n', *found.shape[1:])))})"


def fitted(objective: Objective, targets: Tensor) -> Objective:
    """Let an objective know converted targets that are never forgotten, once; the result has nothing more to learn."""
    return objective if objective.fit is None else replace(objective.fit(targets), fit=None, fitted=True)


def divided(objective: Objective) -> Objective:
    """Let an objective divide each batch among the ranks of its job; with one process it is returned as it is."""
    if ranks.count() == 1 or objective.alone is not None:
        return objective
    return replace(
        objective,
        alone=objective,
        losses=partial(_divided_rows, objective.losses),
        logits=objective.logits and partial(_divided_rows, objective.logits),
        outputs=objective.outputs and partial(_divided_rows, objective.outputs),
        recorded=objective.recorded and partial(_divided_rows, objective.recorded),
        renewed=objective.renewed and partial(_divided_renewed, objective.renewed),
        generation=objective.generation and _divided_generation(objective.generation),
    )


def _divided_renewed(renew: "Callable[[int], Objective]", number: int) -> Objective:
    return divided(renew(number))


def _divided_generation(given: Generation) -> Generation:
    def moved(forward: Forward, original: Forward, batch: Batch) -> Tensor:
        return _divided_rows(lambda own, part: given.moved(own, original, part), forward, batch)

    return replace(given, predicted=partial(_divided_rows, given.predicted), moved=moved)


def _divided_rows(compute: Callable[[Forward, Any], Tensor], forward: Forward, given: Any) -> Tensor:
    (found,) = ranks.divide(lambda own, part: (compute(own, part),), forward, given)
    return found


def undivided(objective: Objective) -> Objective:
    """Return the objective that computes whole batches in this process, such as under `vmap`, where ranks cannot meet."""
    return objective.alone or objective


def answers(objective: Objective, forward: Forward, batch: Batch, aims: Tensor | None = None) -> Answers:
    """Compute each sample's loss and outputs in one forward pass.

    aims: (n, j), where what the objective compares with these (`Objective.compared`) shall stand in the place of the outputs.
    An objective that does not call `forward` exactly once, or not on the same inputs, for each of the two is given a pass for each.
    Raises UnsupportedWorkload for losses of another shape.
    """
    if objective.alone is not None:
        return _divided_answers(objective.alone, forward, batch, aims)
    read = objective.read if aims is None or objective.compared is None else _comparing(objective.compared, aims)
    if read is None:
        return Answers(_checked(objective.losses(forward, batch), batch), None, batch.targets)
    passes: list[tuple[Inputs, Any]] = []

    def record(*given: Inputs, **named: Inputs) -> Any:
        passes.append(((given, named), forward(*given, **named)))
        return passes[-1][1]

    outputs = read(record, batch.inputs)
    asked: list[Inputs] = []

    def replay(*given: Inputs, **named: Inputs) -> Any:
        asked.append((given, named))
        return passes[0][1]

    losses = objective.losses(replay, batch) if len(passes) == 1 else None
    if losses is None or len(asked) != 1 or not same_inputs(asked[0], passes[0][0]):
        losses = objective.losses(forward, batch)
    return Answers(_checked(losses, batch), outputs, batch.targets)


def _comparing(compared: Callable[[Forward, Inputs, Tensor], Tensor], aims: Tensor) -> Outputs:
    return lambda forward, inputs: compared(forward, inputs, aims)


def _divided_answers(objective: Objective, forward: Forward, batch: Batch, aims: Tensor | None) -> Answers:
    def compute(own: Forward, part: tuple[Any, ...]) -> tuple[Tensor, ...]:
        found = answers(objective, own, *part)
        return (found.losses,) if found.outputs is None else (found.losses, found.outputs)

    losses, *outputs = ranks.divide(compute, forward, (batch,) if aims is None else (batch, aims))
    return Answers(losses, outputs[0] if outputs else None, batch.targets)


def _checked(losses: Tensor, batch: Batch) -> Tensor:
    if losses.shape != (batch.size,):
        shape = tuple(losses.shape)
        raise UnsupportedWorkload(
            f"The objective's losses have the shape {shape}; it must return one loss a sample, (n,)."
        )
    return losses
