"""Whether anything was done to the model, and whether anything is left of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from unlearning.audit.signals import Signals
from unlearning.audit.spec import Thresholds
from unlearning.audit.utility import total_variation


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

    def to_json(self) -> dict[str, object]:
        """The report's `change`."""
        return {
            "weight_distance_relative": self.weight_distance_relative,
            "prediction_change": self.prediction_change,
            "no_op": self.no_op,
            "collapsed": self.collapsed,
        }


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
