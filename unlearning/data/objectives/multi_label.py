"""Multi-label classification: each sample has any number of labels."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.data.batches import Batch, Inputs, sent
from unlearning.data.objectives.objective import Forward, Objective, call, columns
from unlearning.data.objectives.prediction import Answers, Merit, Prediction
from unlearning.data.objectives.targets import multi_hot
from unlearning.errors import UnsupportedWorkload


def multi_label(labels: int, *, spread: bool = False) -> Objective:
    """Make the objective of a model with `labels` yes-or-no labels a sample: mean binary cross-entropy of logits (n, labels).

    Targets are multi-hot, (n, labels). The merit is the mean F1 score over samples: where labels are rare, the share of right
    answers would be high for a model that never gives one. spread: how the model takes its inputs, see `call`. Raises
    UnsupportedWorkload for no label, and later for logits of another shape.
    """
    if labels < 1:
        raise UnsupportedWorkload(f"multi_label({labels}) leaves nothing to predict.")
    name = f"multi_label({labels})"

    def outputs(forward: Forward, inputs: Inputs) -> Tensor:
        return columns(call(forward, inputs, spread=spread), labels, of=name)

    def losses(forward: Forward, batch: Batch) -> Tensor:
        return _losses(outputs(forward, batch.inputs), batch.targets).mean(-1)

    def scramble(batch: Batch, generator: torch.Generator) -> Batch:
        """Give each label to half of the samples at random."""
        targets = torch.randint(2, batch.targets.shape, generator=generator)
        return Batch(batch.inputs, sent(targets, batch.targets.device).to(batch.targets))

    return Objective(
        losses=losses,
        scramble=scramble,
        merit=Merit(name="F1 score", complement="F1 error", of=_f1, chance=_best_constant),
        outputs=outputs,
        prediction=PREDICTION,
        targets=lambda targets, name: multi_hot(targets, labels=labels, name=name),
        ceiling=math.log(2),
        curvature=0.25 / labels,  # p·(1 − p) is at most ¼
        gap=0.5 / math.sqrt(labels),
    )


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, targets.to(logits), reduction="none")


def _f1(found: Answers) -> Tensor:
    """Compute each sample's F1 score in points, (n,): 2·|given ∩ true| / (|given| + |true|), and 100 where both are empty."""
    assert found.outputs is not None
    given, true = found.outputs > 0, found.targets > 0.5
    sizes = given.sum(-1) + true.sum(-1)
    return torch.where(sizes == 0, 100.0, 200.0 * (given & true).sum(-1) / sizes.clamp(min=1))


def _best_constant(targets: Tensor) -> float:
    """Compute the largest mean F1 score, points, of always giving the same labels: the j commonest, for the best j."""
    order = targets.mean(0).argsort(descending=True)
    always = torch.full_like(targets, -1.0)
    scores = [float(_f1(Answers(targets[:, 0], always, targets)).mean())]
    for label in order:
        always[:, label] = 1.0
        scores.append(float(_f1(Answers(targets[:, 0], always, targets)).mean()))
    return max(scores)


def _known(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the logit of the probability of exactly the true labels, (n,): with one label its margin."""
    joint = _losses(logits, targets).sum(-1).clamp(min=1e-12)
    return -joint - torch.log(-torch.expm1(-joint))


def _divergences(aim: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Compute the mean of T² KL(aim ‖ p) over the labels, (n,), nats."""
    aim, logits = (aim.to(logits).logit(1e-6) / temperature).sigmoid(), logits / temperature
    entropy = -(torch.xlogy(aim, aim) + torch.xlogy(1 - aim, 1 - aim))
    return temperature**2 * (_losses(logits, aim) - entropy).mean(-1)


def _losses_of_prediction(probabilities: Tensor, targets: Tensor) -> Tensor:
    p = probabilities.clamp(1e-12, 1 - 1e-12)
    return functional.binary_cross_entropy(p, targets.to(p), reduction="none").mean(-1)


def _entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return _losses(logits, logits.sigmoid()).mean(-1)


def _label_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the losses of a sample's labels in falling order, (n, labels)."""
    return _losses(logits, targets).sort(-1, descending=True).values


def _labelled_logits(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.cat([logits, targets.to(logits)], -1)


def _summary(logits: Tensor, targets: Tensor) -> Tensor:
    """Return loss, margin of the whole and entropy, (n, 3)."""
    return torch.stack([_losses(logits, targets).mean(-1), _known(logits, targets), _entropy(logits, targets)], -1)


def _guess(targets: Tensor) -> Tensor:
    """Compute the logit of each label's share, (1, labels)."""
    return targets.double().mean(0, keepdim=True).logit()


def _distributions(logits: Tensor) -> Tensor:
    """Return a label's probabilities of no and yes as a row, (n·labels, 2)."""
    p = logits.sigmoid().flatten()
    return torch.stack([1 - p, p], -1)


def _likeness(targets: Tensor, others: Tensor) -> Tensor:
    """Compute the cosine of the label rows, (m, n)."""
    return functional.normalize(targets, dim=-1) @ functional.normalize(others, dim=-1).T


PREDICTION = Prediction(
    predictions=torch.sigmoid,
    divergences=_divergences,
    losses=_losses_of_prediction,
    known=_known,
    guess=_guess,
    distributions=_distributions,
    decisions=lambda logits: (logits > 0).long().flatten(),
    likeness=_likeness,
    signals={"entropy": _entropy},
    features=(_label_losses, _labelled_logits, _summary),
    answered=lambda probabilities: probabilities.logit(1e-6),
)
"""What the logits of independent labels offer."""
