"""The forget weight of each forget sample."""

import math

import torch
from torch import Tensor

from tests.unlearning.small import CLASSES, OBJECTIVE, plain, task
from unlearning.data.samples import joined
from unlearning.specs import Stop
from unlearning.stopping.criterion import calibrate
from unlearning.stopping.forget_weights import forget_weights, loss_gap_weights

HELD_OUT = torch.tensor([0.0, 0.1, 0.2, 0.3, 4.0])
EQUAL = torch.full((5,), 0.2)


def of(losses: list[float], *, held_out: Tensor = HELD_OUT, weights: Tensor = EQUAL, aim: float = 1.0) -> list[float]:
    return [round(value, 4) for value in loss_gap_weights(torch.tensor(losses), held_out, weights, aim=aim).tolist()]


def test_what_looks_held_out_has_no_weight() -> None:
    assert of(HELD_OUT.tolist()) == [0, 0, 0, 0, 0]
    assert of([9.0] * 5) == [0, 0, 0, 0, 0]


def test_only_the_samples_with_the_highest_losses_have_the_full_weight() -> None:
    assert of([0.0, 0.1, 0.2, 0.3, 0.4]) == [0, 0, 0, 0, 1]


def test_the_weight_grows_with_the_loss_gap_of_the_rank() -> None:
    assert of([0.0, 0.0, 0.1, 0.2, 3.9]) == [0, 0.2, 0.2, 0.2, 0.2]


def test_the_order_of_the_samples_is_not_changed() -> None:
    assert of([0.4, 0.0, 0.3, 0.1, 0.2]) == [1, 0, 0, 0, 0]


def test_the_aim_multiplies_the_held_out_losses() -> None:
    assert of([0.0, 0.1, 0.2, 0.3, 4.0], aim=2.0) == [0, 0.2, 0.4, 0.6, 1]


def test_held_out_samples_count_by_their_weight() -> None:
    hard_class_only = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])
    assert of([0.1, 3.8], weights=hard_class_only) == [1, 0.4]


def test_any_number_of_samples_is_matched_with_any_other() -> None:
    assert of([0.0]) == [0.4]
    assert len(of([0.0] * 64)) == 64


def test_a_fully_forgotten_class_aims_at_the_loss_of_a_guess_and_others_at_held_out_losses() -> None:
    given = task(plain)
    together = joined(given.forget, given.remain)
    chosen = (together.targets == 2) | (torch.arange(len(together)) < 20)
    given.forget, given.remain = (together.take(mask.nonzero().flatten()) for mask in (chosen, ~chosen))
    criterion = calibrate(given, Stop())
    found = forget_weights(given, criterion, given.forget.batch, held_out_losses=criterion.original_losses)
    losses = OBJECTIVE.losses(given.model, given.forget.batch).detach()
    of_class = given.forget.targets == 2

    torch.testing.assert_close(found[of_class], ((math.log(CLASSES) - losses[of_class]) / 0.5).clamp(0, 1))
    expected = loss_gap_weights(losses[~of_class], criterion.original_losses, criterion.weights)
    torch.testing.assert_close(found[~of_class], expected)
    assert 0 < int(of_class.sum()) < len(of_class)
