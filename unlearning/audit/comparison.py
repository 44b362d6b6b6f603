"""Tier 1: the unlearned model against one retrained without the forget set, the oracle."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from unlearning.audit.change import layer_distances
from unlearning.audit.signals import Signals
from unlearning.audit.utility import jensen_shannon


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """gaps: absolute differences in points over ua, ra, ta and mi. average_gap: their mean, as the papers print it.

    tow: "tug of war", Π over D_f, D_r, D_t of 1 − |difference of accuracy|, 1 being the best (Zhao et al., NeurIPS 2024).
    activation_distance: mean Euclidean distance of the predicted distributions on D_f (Golatkar et al., CVPR 2020).
    jensen_shannon: mean divergence on D_f, nats. layers: ‖θ − θ_r‖ by parameter.
    """

    gaps: Mapping[str, float]
    average_gap: float
    tow: float
    activation_distance: float
    jensen_shannon: float
    layers: Mapping[str, float]

    def to_json(self) -> dict[str, object]:
        """Plain JSON."""
        return {
            "gaps": dict(self.gaps),
            "average_gap": self.average_gap,
            "tow": self.tow,
            "activation_distance": self.activation_distance,
            "jensen_shannon": self.jensen_shannon,
            "layers": dict(self.layers),
        }


def compare(
    unlearned: Mapping[str, Signals],
    reference: Mapping[str, Signals],
    *,
    measures: Mapping[str, float],
    reference_measures: Mapping[str, float],
    models: tuple[nn.Module, nn.Module],
) -> Comparison:
    """Compare two models: their signals on "forget", "remain", "test", and their measures in percent by name."""
    gaps = {name: abs(measures[name] - reference_measures[name]) for name in measures}
    p, q = unlearned["forget"].probabilities, reference["forget"].probabilities
    return Comparison(
        gaps=gaps,
        average_gap=float(np.mean(list(gaps.values()))),
        tow=tug_of_war(unlearned, reference),
        activation_distance=float(np.sqrt(((p - q) ** 2).sum(axis=1)).mean()),
        jensen_shannon=jensen_shannon(p, q),
        layers=layer_distances(*models),
    )


def tug_of_war(unlearned: Mapping[str, Signals], reference: Mapping[str, Signals]) -> float:
    """Π over forget, remain and test of 1 − |accuracy − the reference's|."""
    sets = ("forget", "remain", "test")
    return float(np.prod([1 - abs(unlearned[s].correct.mean() - reference[s].correct.mean()) for s in sets]))
