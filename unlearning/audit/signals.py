"""Signals: what a membership attack may read of each sample, computed once for each set from float64 logits."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unlearning.audit.intervals import Floats
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.errors import UnsupportedWorkload
from unlearning.hardware import batched_answers, in_fastest_layout
from unlearning.networks import copy_network

ATTACKS = ("loss", "confidence", "entropy", "modified_entropy", "margin")
"""The threshold attacks, by the signal they use.

For a single-label classifier loss, confidence and margin order the samples alike, so their AUC is the same number. All are printed
because readers expect them.
"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Signals:
    """The signals of one set through one model. targets: (n,) int64. probabilities: (n, classes). The others: (n,), float64, nats.

    loss: −log p_y. confidence: p_y. margin: φ = z_y − logsumexp_{k≠y} z_k. entropy: of the prediction.
    modified_entropy: −(1−p_y) log p_y − Σ_{k≠y} p_k log(1−p_k) (Song, Mittal, USENIX Security 2021, eq. 8).
    correct: whether the largest logit is the target's. finite: whether all logits were finite.
    """

    targets: NDArray[np.int64]
    probabilities: Floats
    loss: Floats
    confidence: Floats
    margin: Floats
    entropy: Floats
    modified_entropy: Floats
    correct: NDArray[np.bool_]
    finite: bool

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The class with the largest probability, (n,)."""
        classes: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return classes

    def membership(self, attack: str) -> Floats:
        """Return the attack's score, (n,): the higher, the more the sample looks like a member.

        Members have a low loss and a low entropy, so these are negated. Without that the attack's sign would be reversed.
        """
        values: Floats = getattr(self, attack)
        return values if attack in ("confidence", "margin") else -values


SignalsBySet = Mapping[str, Signals]
"""The signals of one model by set: "forget", "remain", "held_out", "test"."""


def check_auditable(objective: Objective) -> None:
    """Raise UnsupportedWorkload for an objective whose results no audit of this version can judge: one without logits."""
    if objective.logits is None:
        raise UnsupportedWorkload(
            "The objective has no logits. This version unlearns classifiers with one label a sample; regression, multi-label, "
            "language and generative models are not supported yet."
        )


def audit_copy(model: nn.Module, samples: SampleSet) -> nn.Module:
    """Copy a model into evaluation mode, in the fastest layout for these samples: an audit changes no model that it is given."""
    return in_fastest_layout(copy_network(model).eval(), samples.select(torch.arange(min(2, len(samples)))).inputs)


def observe(model: nn.Module, samples: SampleSet, *, objective: Objective, batch_size: int = 1024) -> Signals:
    """Compute the signals of every sample through `model`, an `audit_copy`, on the model's device.

    Raises UnsupportedWorkload without logits.
    """
    check_auditable(objective)
    device = next((p.device for p in model.parameters()), samples.device)
    found = batched_answers(objective, model, samples, device=device, max_size=batch_size)
    assert found.outputs is not None
    return signals(found.outputs.double().cpu().numpy(), found.targets.cpu().numpy())


def signals(logits: Floats, targets: NDArray[np.int64]) -> Signals:
    """Compute the signals of logits (n, classes) float64 for targets (n,). A logit that is NaN counts as 0."""
    finite = bool(np.isfinite(logits).all())
    logits = np.nan_to_num(logits, nan=0.0, posinf=1e4, neginf=-1e4)
    rows = np.arange(len(logits))
    total = _logsumexp(logits)
    log_p = logits - total[:, None]
    p = np.exp(log_p)

    others = _logsumexp(_without(logits, targets))
    margin = logits[rows, targets] - others
    loss = np.logaddexp(0.0, -margin)

    # 1 − p loses all digits if p is nearly 1, as it is for members. Only the class with the largest logit can have such a p.
    top = logits.argmax(axis=1)
    log_rest = np.log1p(-np.minimum(p, 0.5))
    between = (p > 0.5) & (p < 1)
    log_rest[between] = np.log1p(-p[between])
    log_rest[rows, top] = _logsumexp(_without(logits, top)) - total
    weighted = p * log_rest
    weighted[rows, targets] = 0.0
    return Signals(
        targets=targets,
        probabilities=p,
        loss=loss,
        confidence=np.exp(-loss),
        margin=margin,
        entropy=np.maximum(0.0, -(p * log_p).sum(axis=1)),
        modified_entropy=np.exp(others - total) * loss - weighted.sum(axis=1),
        correct=top == targets,
        finite=finite,
    )


def _logsumexp(values: Floats) -> Floats:
    top = values.max(axis=1)
    result: Floats = top + np.log(np.exp(values - top[:, None]).sum(axis=1))
    return result


def _without(logits: Floats, index: NDArray[np.int64]) -> Floats:
    """Replace one entry of each row by −1e30, as if it were absent; −inf would give NaN if a row has no other entry."""
    out = logits.copy()
    out[np.arange(len(out)), index] = -1e30
    return out
