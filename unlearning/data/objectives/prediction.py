"""What an objective may offer beside the losses: how its outputs are read, and what utility means.

`class_prediction` is that of classifiers: what the logits of exclusive classes offer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.data.batches import Batch, Inputs

Read = Callable[[Tensor, Tensor], Tensor]
"""(outputs (n, k), targets (n, …)) → a number or a row for each sample."""

_TOP = 5
"""Log-probabilities that a guide attack reads."""
_LEAST = 1e-6
"""A probability kept in half precision may be 0."""


class Answers(NamedTuple):
    """A model's answers to n samples. losses: (n,), nats. outputs: (n, k), None if the objective offers none. targets: (n, …)."""

    losses: Tensor
    outputs: Tensor | None
    targets: Tensor

    def take(self, chosen: Tensor | slice) -> "Answers":
        """Return the answers to the samples that `chosen`, (n,) bool, (k,) int64 or a slice, names."""
        return Answers(
            self.losses[chosen], None if self.outputs is None else self.outputs[chosen], self.targets[chosen]
        )

    def float(self) -> "Answers":
        """Return them in float32, in which statistics are computed."""
        return Answers(self.losses.float(), None if self.outputs is None else self.outputs.float(), self.targets)

    @property
    def attacked(self) -> Tensor:
        """What a guide attack reads (`Objective.attacked`)."""
        return self.losses[:, None] if self.outputs is None else self.outputs

    @property
    def wrong(self) -> Tensor:
        """1 for each wrongly classified sample, else 0, (n,). Only with class logits."""
        assert self.outputs is not None
        return (self.outputs.argmax(-1) != self.targets).float()


@dataclass(frozen=True, kw_only=True, slots=True)
class Merit:
    """What utility means: a number for each sample whose mean is the merit of a set; higher is better.

    name, complement, unit: for the report, e.g. "accuracy", "error" and "%": the complement is `bounds[1]` less the merit.
    of: returns (n,), in points of the unit. bounds: merits of a set below or above these count as these.
    chance: (targets) → the merit of a set, in points, for the best answer that uses no input; by default that of the guess
        (`Prediction.guess`).
    """

    name: str
    complement: str
    of: Callable[[Answers], Tensor]
    unit: str = "%"
    bounds: tuple[float, float] = (0.0, 100.0)
    chance: Callable[[Tensor], float] | None = None


ACCURACY = Merit(name="accuracy", complement="error", of=lambda found: 100 - 100 * found.wrong)
"""The merit of a classifier."""

MINUS_LOSS = Merit(
    name="minus the loss",
    complement="loss",
    of=lambda found: -100 * found.losses,
    unit="hundredths of a nat",
    bounds=(-1e6, 0.0),
)
"""The merit of an objective that names none."""


def weighted_mean(predictions: Tensor, weights: Tensor) -> Tensor:
    """Compute the weighted mean of predictions (m, n, j) by weights (m, n), (n, j) float64."""
    return (weights.double()[..., None] * predictions.double()).sum(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What can be read from a model's outputs, (n, k), beside the losses.

    predictions: (outputs) → (n, j), what is averaged over reference models and matched: probabilities, values. Where outputs hold
        too little of it, models are asked for it themselves (`Objective.recorded`).
    stored: the type in which they are kept. kind: what they hold, where an objective may keep one thing or another.
    averaged: (predictions of m models (m, n, j), weights (m, n) that sum to 1) → (n, j); their weighted mean unless said otherwise.
    calibrated: (predictions (n, j), references (m, j), own (m, j)) → (n, j): predictions on the model's own scale, given what the
        references and the model itself predict of data that neither has seen; None where predictions are taken as they are.
    divergences: (aim, outputs, temperature) → (n,), nats, differentiable: how far outputs, or what the objective computes in their
        place (`Objective.compared`), are from a prediction; 0 where they give it. temperature: T, by which the logits of both are
        divided; times T², so that gradients keep their scale (Hinton et al., 2015). Without logits it has no effect.
    losses: (predictions, targets) → (n,), nats: the objective's loss of the targets under a prediction.
    known: (outputs, targets) → (n,), higher the better the model knows the sample, and as evenly spread as possible: what the
        reference test compares, in `unit`.
    signals: by name, (outputs, targets) → (n,), higher for data that the model does not know: what an attack may see beside the
        loss.
    features: (outputs, targets) → (n, d), differentiable: what LTU's guide attacks read.
    answered: (predictions) → outputs that give them, as far as `features` can tell; None where nothing says so: guide attacks then
        learn from no reference predictions.
    guess: (targets) → outputs (1, k) of whoever knows these targets and no input: the chance that a model must beat; (n, k) where
        outputs are about the target itself.
    distributions: (outputs) → (m, c), rows that sum to 1, for each sample one or more: how far two models differ is computed from
        these. counted: (targets) → (m,) bool, which rows count, such as those of tokens that are no padding; all if it is None.
    decisions: (outputs) → (m,) int64, what the model decides for each row; None if it decides nothing.
    likeness: (targets (m, …), others (n, …)) → (m, n), higher for more similar targets; None where classes tell.
    """

    predictions: Callable[[Tensor], Tensor]
    divergences: Callable[[Tensor, Tensor, float], Tensor]
    losses: Read
    known: Read
    guess: Callable[[Tensor], Tensor]
    distributions: Callable[[Tensor], Tensor]
    counted: Callable[[Tensor], Tensor] | None = None
    decisions: Callable[[Tensor], Tensor] | None = None
    likeness: Read | None = None
    signals: Mapping[str, Read] = field(default_factory=dict)
    features: tuple[Read, ...] = ()
    answered: Callable[[Tensor], Tensor] | None = None
    averaged: Callable[[Tensor, Tensor], Tensor] = weighted_mean
    calibrated: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    stored: torch.dtype = torch.float32
    kind: str = ""
    unit: str = "nats"


class Completion(NamedTuple):
    """A text and how a model completes it. beginning: what it is given. true, written: the rest, of the text and by the model."""

    beginning: str
    true: str
    written: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """What an objective offers whose model generates samples of the classes that it is asked for.

    generate: (forward, classes (n,), generator) → (n, …), a sample of each class, such as an image.
    images: (inputs) → (n, …), the samples in a batch's inputs. bounds: of their numbers, for pictures.
    relabelled: (batch, classes (n,)) → the same samples as ones of other classes.
    predicted: (forward, batch) → (n, …), differentiable: what the model predicts of the samples, given their classes.
    moved: (forward, original forward, batch) → (n,), differentiable: how far what is predicted has moved from what the original
        predicts, nats; 0 for the original itself, whatever the noise that is drawn. See `remaining_losses`.
    classifier: returns a trained classifier of such samples; None lets an audit train a small one.
    """

    generate: Callable[[Callable[..., Any], Tensor, torch.Generator], Tensor]
    images: Callable[[Inputs], Tensor]
    relabelled: Callable[[Batch, Tensor], Batch]
    predicted: Callable[[Callable[..., Any], Batch], Tensor]
    moved: Callable[[Callable[..., Any], Callable[..., Any], Batch], Tensor]
    bounds: tuple[float, float]
    classifier: Callable[[], nn.Module] | None = None


def class_prediction(classes: int, *, losses: Read | None = None) -> Prediction:
    """Make what the logits of `classes` classes offer. losses: of targets under probabilities, if not plain cross-entropy."""
    return Prediction(
        predictions=partial(torch.softmax, dim=-1),
        divergences=_divergences,
        losses=losses or _losses,
        known=margin,
        guess=partial(_log_shares, classes=classes),
        distributions=partial(torch.softmax, dim=-1),
        decisions=partial(torch.argmax, dim=-1),
        signals={"entropy": _entropy},
        features=(sorted_log_probabilities, labelled_logits, loss_margin_entropy),
        answered=lambda probabilities: probabilities.clamp(min=_LEAST).log(),
        stored=torch.float16,
    )


def margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute φ = z_y − logsumexp_{k≠y} z_k, (n,) (Carlini et al., S&P 2022, eq. 4)."""
    true = logits.gather(1, targets[:, None]).squeeze(1)
    return true - logits.scatter(1, targets[:, None], -torch.inf).logsumexp(1)


def sorted_log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the k = 5 largest log-probabilities in falling order, (n, k); the target is not used."""
    log_p = logits.log_softmax(-1)
    return log_p.topk(min(_TOP, log_p.shape[-1]), dim=-1).values.clamp(min=-20)


def labelled_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """Return centred logits and the one-hot target, (n, 2·classes)."""
    return torch.cat(
        [logits - logits.mean(-1, keepdim=True), functional.one_hot(targets, logits.shape[-1]).float()], -1
    )


def loss_margin_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return cross-entropy, margin between the true and the best other logit, and entropy, (n, 3)."""
    log_p = logits.log_softmax(-1)
    true = logits.gather(1, targets[:, None]).squeeze(1)
    others = logits.masked_fill(functional.one_hot(targets, logits.shape[-1]).bool(), -torch.inf).amax(-1)
    return torch.stack(
        [-log_p.gather(1, targets[:, None]).squeeze(1), true - others, -(log_p.exp() * log_p).sum(-1)], -1
    )


def _divergences(aim: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Compute T² KL(aim ‖ p), (n,), nats."""
    aim = aim.to(logits)
    if temperature != 1:
        aim = (aim.log() / temperature).softmax(-1)
    return temperature**2 * functional.kl_div((logits / temperature).log_softmax(-1), aim, reduction="none").sum(-1)


def _losses(probabilities: Tensor, targets: Tensor) -> Tensor:
    return -probabilities.gather(1, targets[:, None]).squeeze(1).clamp(min=1e-12).log()


def _entropy(logits: Tensor, targets: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def _log_shares(targets: Tensor, *, classes: int) -> Tensor:
    """Compute the logarithm of each class's share, (1, classes); of a class that does not occur −∞."""
    counts = torch.bincount(targets, minlength=classes).double()
    return (counts / len(targets)).log()[None]
