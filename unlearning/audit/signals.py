"""What a membership attack may see of each sample, computed once a set from float64 logits."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unlearning.audit.intervals import Floats
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.errors import MethodRefused
from unlearning.hardware import channels_last, inference_batches

ATTACKS = ("loss", "confidence", "entropy", "modified_entropy", "margin")
"""The threshold attacks, by the signal they use. loss, confidence and margin order the samples alike for a single-label
classifier, so their AUC is the same number; they are all printed because readers look for them."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Signals:
    """One set seen through one model. targets: (n,) int64. probabilities: (n, classes). The rest (n,), float64, in nats.

    loss: −log p_y. confidence: p_y. margin: φ = z_y − logsumexp_{k≠y} z_k. entropy: of the prediction.
    modified_entropy: −(1−p_y) log p_y − Σ_{k≠y} p_k log(1−p_k) (Song, Mittal, USENIX Security 2021, eq. 8).
    correct: whether the largest logit is the target's. finite: whether every logit was a finite number.
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
        """The class of the largest probability, (n,)."""
        classes: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return classes

    def membership(self, attack: str) -> Floats:
        """The attack's score, (n,): the higher, the more the sample looks like a member.

        Members have a low loss and a low entropy, so those are negated: forgetting that turns the attack round.
        """
        values: Floats = getattr(self, attack)
        return values if attack in ("confidence", "margin") else -values


def frozen(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that needs no gradient: audits never touch what they are given."""
    return channels_last(copy.deepcopy(model)).eval().requires_grad_(False)


def observe(model: nn.Module, samples: SampleSet, *, objective: Objective, batch_size: int = 1024) -> Signals:
    """The signals of every sample, through `model` as it stands (pass what `frozen` gave). The model's device is used.

    Raises MethodRefused where the objective has no logits.
    """
    if objective.logits is None:
        raise MethodRefused("This audit is for classifiers; the objective offers no logits.")
    device = next((p.device for p in model.parameters()), samples.inputs.device)
    with torch.no_grad():
        parts = [
            objective.logits(model, channels_last(part.to(device))).double().cpu()
            for part in inference_batches(samples.inputs, device, max_size=batch_size)
        ]
    return signals(torch.cat(parts).numpy(), samples.targets.cpu().numpy())


def signals(logits: Floats, targets: NDArray[np.int64]) -> Signals:
    """The signals of logits (n, classes) float64 for targets (n,). Logits that are no numbers count as 0."""
    finite = bool(np.isfinite(logits).all())
    logits = np.nan_to_num(logits, nan=0.0, posinf=1e4, neginf=-1e4)
    rows = np.arange(len(logits))
    total = _logsumexp(logits)
    log_p = logits - total[:, None]
    p = np.exp(log_p)

    others = _logsumexp(_without(logits, targets))
    margin = logits[rows, targets] - others
    loss = np.logaddexp(0.0, -margin)

    # 1 − p loses every digit where p is nearly 1, which is where members are; only the top class can be there.
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
    """The logits with one entry a row taken out (−1e30 in its place: −inf would make NaN where all are out)."""
    out = logits.copy()
    out[np.arange(len(out)), index] = -1e30
    return out
