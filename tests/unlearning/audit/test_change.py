import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.unlearning.small import OBJECTIVE, plain, task
from unlearning.audit.comparison import change, collapsed, layer_distances, weight_distance
from unlearning.audit.signals import Signals, frozen, observe, signals
from unlearning.methods.registry import unlearn
from unlearning.specs import SSD, FineTune, Spec
from unlearning.specs.audit import Thresholds
from unlearning.task import run_to_completion


def seen(right: float, *, scale: float = 4.0, n: int = 1000) -> Signals:
    """A model that is right on the first share of balanced samples, and says class 0 elsewhere."""
    targets = np.arange(n) % 4
    predicted = np.where(np.arange(n) < right * n, targets, 0)
    return signals(scale * np.eye(4)[predicted], targets)


def moved(by: float) -> tuple[nn.Module, nn.Module]:
    model = nn.Linear(3, 2)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.weight += by
    return model, other


def test_the_weight_distance_is_relative_to_the_original() -> None:
    first, second = moved(0.5)
    norm = math.sqrt(sum(float(p.detach().double().pow(2).sum()) for p in first.parameters()))
    assert math.isclose(weight_distance(first, second), math.sqrt(6 * 0.25) / norm, rel_tol=1e-5)
    assert layer_distances(first, second)["bias"] == 0


def test_a_model_that_did_not_move_is_a_no_op_and_one_that_did_is_not() -> None:
    same = {"forget": seen(0.9), "remain": seen(0.9), "held_out": seen(0.9)}
    other = {"forget": seen(0.5), "remain": seen(0.9), "held_out": seen(0.9)}
    assert change(*moved(0.0), before=same, after=same, thresholds=Thresholds()).no_op
    # The weights moved but nothing they say did, as with a dampening that is too weak.
    assert change(*moved(0.5), before=same, after=same, thresholds=Thresholds()).no_op
    assert not change(*moved(0.5), before=same, after=other, thresholds=Thresholds()).no_op


def test_a_model_that_guesses_has_collapsed_and_one_that_lost_a_little_has_not() -> None:
    assert collapsed(seen(1.0), seen(0.0), share=0.5)
    assert not collapsed(seen(1.0), seen(0.9), share=0.5)


def test_weights_that_are_no_numbers_are_a_collapse_and_make_no_infinity() -> None:
    before = {"forget": seen(0.9), "remain": seen(0.9), "held_out": seen(0.9)}
    found = change(*moved(math.inf), before=before, after=before, thresholds=Thresholds())
    assert found.collapsed
    assert not found.no_op
    assert math.isfinite(found.weight_distance_relative)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (SSD(selection=1e6), "no_op"),
        (SSD(selection=0.01, dampening=0.001), "collapsed"),
        (FineTune(epochs=30, learning_rate=100.0), "collapsed"),
    ],
)
def test_a_method_that_did_nothing_or_too_much_is_told_as_that(spec: Spec, found: str) -> None:
    """SSD's published constant dampens nothing of a random forget set, and a smaller one destroys the model."""
    given, original = task(plain), task(plain).model
    run_to_completion(unlearn(spec, given))
    sets = {"forget": given.forget, "remain": given.remain, "held_out": given.criterion}
    before, after = (
        {name: observe(frozen(model), part, objective=OBJECTIVE) for name, part in sets.items()}
        for model in (original, given.model)
    )
    told = change(original, given.model, before=before, after=after, thresholds=Thresholds())

    assert (told.no_op, told.collapsed) == (found == "no_op", found == "collapsed")
