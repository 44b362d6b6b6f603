"""Whether anything was done to the model, and whether anything is left of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from unlearning.audit.measures import jensen_shannon, total_variation
from unlearning.audit.signals import Signals
from unlearning.specs.audit import Thresholds


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """weight_distance_relative: ‖θ − θ_o‖ / ‖θ_o‖. prediction_change: mean total variation, 0 to 1, on D_f and D_v.

    no_op: weights or predictions hardly moved. collapsed: a number is not finite, or too little is left of the accuracy over
    chance on the remaining set. largest_class: share of the held-out predictions that fall in one class.
    """

    weight_distance_relative: float
    prediction_change: float
    largest_class: float
    finite: bool
    no_op: bool
    collapsed: bool


def change(
    original: nn.Module,
    unlearned: nn.Module,
    *,
    before: Mapping[str, Signals],
    after: Mapping[str, Signals],
    thresholds: Thresholds,
) -> Change:
    """Compare the two models and their signals on "forget", "remain" and "held_out"."""
    distance = weight_distance(original, unlearned)
    moved = [total_variation(before[s].probabilities, after[s].probabilities) for s in ("forget", "held_out")]
    finite = math.isfinite(distance) and all(signals.finite for signals in after.values())
    predictions = after["held_out"].predictions
    return Change(
        weight_distance_relative=distance if math.isfinite(distance) else 0.0,
        prediction_change=max(moved),
        largest_class=float(np.bincount(predictions).max() / len(predictions)),
        finite=finite,
        no_op=finite and (distance < thresholds.no_op_weights or max(moved) < thresholds.no_op_predictions),
        collapsed=not finite or collapsed(before["remain"], after["remain"], share=thresholds.collapse_share),
    )


def collapsed(before: Signals, after: Signals, *, share: float) -> bool:
    """Whether less than `share` of the accuracy over guessing the commonest class is left."""
    chance = float(np.bincount(before.targets).max() / len(before.targets))
    gained = float(before.correct.mean()) - chance
    return gained > 0 and float(after.correct.mean()) - chance < share * gained


def weight_distance(first: nn.Module, second: nn.Module) -> float:
    """‖θ₂ − θ₁‖ / ‖θ₁‖ over all parameters, in float64."""
    moved = sum(float(d) for d in layer_distances(first, second, squared=True).values())
    norm = sum(float(p.detach().double().pow(2).sum()) for p in first.parameters())
    return math.sqrt(moved / norm) if norm > 0 else math.sqrt(moved)


@torch.no_grad()
def layer_distances(first: nn.Module, second: nn.Module, *, squared: bool = False) -> dict[str, float]:
    """‖θ₂ − θ₁‖ of each parameter tensor by its name, in float64; or its square."""
    others = dict(second.named_parameters())
    distances = {
        name: float((p.double().cpu() - others[name].double().cpu()).pow(2).sum())
        for name, p in first.named_parameters()
    }
    return distances if squared else {name: math.sqrt(value) for name, value in distances.items()}


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
