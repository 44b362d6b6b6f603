"""The attack on features: does the layer before the output tell the forget set from data never seen, even where outputs do not?

Outputs can hide what features keep, for instance if a method changes the last layer alone. So a new last layer is fitted to the
features of remaining samples. If features still hold the labels of the forgotten samples, it knows these better than those of data
never seen.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unlearning.audit.intervals import Floats
from unlearning.audit.membership import Attack, Pairing, attack_by_scores, member_threshold
from unlearning.audit.signals import SignalsBySet
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.features import FeatureReader, output_layer
from unlearning.networks import device_of
from unlearning.specs.audit import AuditSpec

NAME = "features"
_RIDGE = 1e-2
"""Weight of the penalty, in mean variances of a feature [ours]."""


def feature_readers(
    model: nn.Module,
    sets: Mapping[str, SampleSet],
    pairing: Pairing,
    *,
    objective: Objective,
    spec: AuditSpec,
    seed: int,
) -> dict[str, FeatureReader]:
    """Make a reader of the features that the attack takes, for each set: those of at most `spec.vector_samples` remaining samples.

    Read them while the sets' answers are computed. Empty without classes, and for a model whose outputs come from no linear layer.
    """
    if objective.classes is None:
        return {}
    batch = sets["forget"].select(torch.arange(min(2, len(sets["forget"]))))
    layer = output_layer(model, objective, batch.to(device_of(model, batch.device)))
    if layer is None:
        return {}
    rng = np.random.default_rng([seed, 5])
    places = {
        "remain": rng.permutation(len(sets["remain"]))[: spec.vector_samples],
        "test": rng.permutation(len(sets["test"]))[: spec.vector_samples],
        "forget": pairing.forget,
        "held_out": pairing.held_out,
    }
    return {name: FeatureReader(layer, chosen) for name, chosen in places.items()}


def feature_attack(
    readers: Mapping[str, FeatureReader],
    signals: SignalsBySet,
    pairing: Pairing,
    *,
    classes: int | None,
    spec: AuditSpec,
) -> Attack | None:
    """Fit a linear probe to the features of remaining samples, and attack the forget set [ours].

    The score of a sample is the probe's margin: the output of its class less the largest other one. The threshold of the balanced
    accuracy is chosen on remaining samples, by a probe that did not see them, and on test samples. readers: have read each set
    (`feature_readers`). Returns None without them, and if fewer than two classes remain.
    """
    if classes is None or not readers:
        return None

    def read(name: str) -> tuple[Floats, NDArray[np.int64]]:
        features = np.nan_to_num(readers[name].features.double().cpu().numpy(), nan=0.0, posinf=0.0, neginf=0.0)
        return features, signals[name].targets[readers[name].places]

    features, targets = read("remain")
    if len(np.unique(targets)) < 2:
        return None
    probe = LinearProbe(features, targets, classes=classes)
    margins = {name: probe.margins(*read(name)) for name in ("test", "forget", "held_out")}
    asked = {name: np.zeros(len(signals[name])) for name in ("forget", "held_out")}
    for name, values in asked.items():
        values[readers[name].places] = margins[name]
    return attack_by_scores(
        NAME,
        asked["forget"],
        asked["held_out"],
        pairing,
        threshold=member_threshold(_unfitted(features, targets, classes=classes), margins["test"]),
        spec=spec,
    )


class LinearProbe:
    """A linear layer that is fitted to features, (n, d), and targets, (n,) int64, by penalised least squares on their classes."""

    def __init__(self, features: Floats, targets: NDArray[np.int64], *, classes: int) -> None:
        self._mean = features.mean(axis=0)
        centred = features - self._mean
        wanted = np.eye(classes)[targets]
        self._bias = wanted.mean(axis=0)
        products = centred.T @ centred
        penalty = _RIDGE * max(float(np.trace(products)) / len(products), np.finfo(float).tiny)
        self._weights = np.linalg.solve(products + penalty * np.eye(len(products)), centred.T @ (wanted - self._bias))

    def margins(self, features: Floats, targets: NDArray[np.int64]) -> Floats:
        """Compute by how much the output of each sample's class exceeds the largest other one, (n,)."""
        outputs = (features - self._mean) @ self._weights + self._bias
        rows = np.arange(len(outputs))
        own = outputs[rows, targets]
        outputs[rows, targets] = -np.inf
        found: Floats = own - outputs.max(axis=1)
        return found


def _unfitted(features: Floats, targets: NDArray[np.int64], *, classes: int) -> Floats:
    """Compute the margin of each sample by a probe that was fitted to the other half, (n,)."""
    margins = np.zeros(len(targets))
    halves = slice(0, None, 2), slice(1, None, 2)
    for fitted, other in (halves, halves[::-1]):
        probe = LinearProbe(features[fitted], targets[fitted], classes=classes)
        margins[other] = probe.margins(features[other], targets[other])
    return margins
