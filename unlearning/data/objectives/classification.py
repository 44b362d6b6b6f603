"""Classification: one label a sample."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.data.batches import Batch, Inputs, sent
from unlearning.data.objectives.objective import Forward, Objective, call, class_logits
from unlearning.data.objectives.prediction import class_prediction
from unlearning.errors import UnsupportedWorkload


def classification(
    classes: int, *, weights: Sequence[float] | None = None, label_smoothing: float = 0.0, spread: bool = False
) -> Objective:
    """Make the objective of a classifier: cross-entropy over `classes` of the model's logits (`logits_of`), targets (n,) int64.

    A model with one output z a sample, (n,) or (n, 1), is one of two classes, whose logits are 0 and z. bf16 and float16 logits are
    compared in float32. weights: of each class, as of torch's CrossEntropyLoss; a sample's loss is multiplied by its class's, and
    their mean over the classes is made 1. label_smoothing: 0 to 1, as there. What attacks and audits read is the plain prediction.
    spread: how the model takes its inputs, see `call`.
    Raises UnsupportedWorkload for fewer than two classes, and weights or a smoothing out of range; and later for logits of another
    shape.
    """
    if classes < 2:
        raise UnsupportedWorkload(
            f"classification({classes}) leaves nothing to tell apart. A model with one output a sample, trained by binary "
            "cross-entropy, is classification(2) with the labels 0 and 1."
        )
    if not 0 <= label_smoothing < 1:
        raise UnsupportedWorkload(f"label_smoothing must be at least 0 and below 1, not {label_smoothing}.")
    scaled = None if weights is None else _scaled(weights, classes)
    plain = scaled is None and not label_smoothing

    def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
        weight = None if scaled is None else scaled.to(logits)
        return functional.cross_entropy(
            logits, targets, weight=weight, reduction="none", label_smoothing=label_smoothing
        )

    def logits(forward: Forward, inputs: Inputs) -> Tensor:
        return class_logits(call(forward, inputs, spread=spread), classes)

    def losses(forward: Forward, batch: Batch) -> Tensor:
        return cross_entropy(logits(forward, batch.inputs), batch.targets)

    def losses_of_prediction(probabilities: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(probabilities.clamp(min=1e-12).log(), targets)

    def scramble(batch: Batch, generator: torch.Generator) -> Batch:
        targets = torch.randint(classes, batch.targets.shape, generator=generator)
        return Batch(batch.inputs, sent(targets, batch.targets.device))

    return Objective(
        losses=losses,
        scramble=scramble,
        logits=logits,
        classes=classes,
        # The eigenvalues of diag(p) − p·pᵀ are at most ½ (Böhning, Ann. Inst. Statist. Math. 1992), whatever the smoothing.
        curvature=0.5 * (1.0 if scaled is None else float(scaled.max())),
        prediction=None if plain else class_prediction(classes, losses=losses_of_prediction),
    )


def _scaled(weights: Sequence[float], classes: int) -> Tensor:
    given = torch.as_tensor(weights, dtype=torch.float64)
    if given.shape != (classes,) or not bool(((given >= 0) & (given < math.inf)).all()) or not bool(given.sum() > 0):
        raise UnsupportedWorkload(
            f"classification({classes}) needs {classes} class weights that are finite, not negative and not all 0."
        )
    return given / given.mean()
