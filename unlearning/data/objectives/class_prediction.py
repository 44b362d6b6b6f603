"""What the logits of exclusive classes offer: probabilities, margins, and what attacks read."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.data.objectives.prediction import Merit, Prediction, Read

_TOP = 5
_LEAST = 1e-6
"""A probability kept in half precision may be 0."""

ACCURACY = Merit(name="accuracy", complement="error", of=lambda found: 100 - 100 * found.wrong)


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
