from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.unlearning.small import WIDTH, flat, plain, samples
from unlearning.data.objectives import Objective
from unlearning.errors import UnsupportedWorkload
from unlearning.training.loop import fresh
from unlearning.training.optimisation import (
    anneal,
    apply_gradient,
    batch_statistics,
    optimiser_for,
    sgd,
    share_left,
    update_running_statistics,
)

BATCH = samples(32, seed=1).batch
SUM = Objective(losses=lambda forward, batch: forward(batch.inputs).sum(1), scramble=lambda batch, generator: batch)


def test_applying_a_gradient_takes_one_step_and_leaves_no_gradient() -> None:
    model = fresh(plain, seed=1)
    before, direction = flat(model), torch.ones(len(flat(model)))
    apply_gradient(sgd(model, rate=0.1), direction)

    torch.testing.assert_close(flat(model), before - 0.1 * (direction + 5e-4 * before))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_objective_names_adam_which_steps_by_a_fiftieth_of_sgds_rate() -> None:
    model = fresh(plain, seed=1)
    before = flat(model)
    assert isinstance(optimiser_for(model, SUM, rate=0.1), torch.optim.SGD)
    optimiser = optimiser_for(model, replace(SUM, optimiser="adam"), rate=0.1)
    assert isinstance(optimiser, torch.optim.Adam)
    assert isinstance(
        optimiser_for(fresh(plain, seed=1).half(), replace(SUM, optimiser="adam"), rate=0.1), torch.optim.SGD
    )
    with pytest.raises(UnsupportedWorkload, match="'adamw'"):
        replace(SUM, optimiser="adamw")  # type: ignore[arg-type]
    apply_gradient(optimiser, torch.full((len(before),), 7.0))
    torch.testing.assert_close(flat(model), before - 0.002)
    anneal(optimiser, share_left=0.25, factor=0.5)
    apply_gradient(optimiser, torch.full((len(before),), 7.0))
    torch.testing.assert_close(flat(model), before - 0.0025)


@pytest.mark.parametrize(("count", "training"), [(15, False), (16, True)])
def test_batch_norm_alone_trains_and_only_on_batches_of_some_size(count: int, training: bool) -> None:
    model = nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Dropout(0.5)).eval()
    with batch_statistics(model, samples=count):
        assert model[0].training is training
        assert not model[1].training

    assert not model[0].training


def test_batch_norm_is_put_back_after_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm1d(WIDTH)).eval()
    with pytest.raises(RuntimeError, match="on purpose"), batch_statistics(model, samples=99):
        raise RuntimeError("on purpose")

    assert not model[0].training


def test_running_statistics_follow_the_inputs_given() -> None:
    model = nn.Sequential(nn.BatchNorm1d(WIDTH)).eval()
    update_running_statistics(model, SUM, BATCH)

    torch.testing.assert_close(model[0].running_mean, 0.1 * BATCH.inputs.mean(0))


def rates(steps: int, repair_steps: int) -> list[float]:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    found = []
    for number in range(1, steps + repair_steps + 1):
        anneal(optimiser, share_left=share_left(number, steps=steps, repair_steps=repair_steps))
        found.append(optimiser.param_groups[0]["lr"])
    return found


def test_the_rate_is_full_for_half_of_a_run_and_then_falls_to_nothing() -> None:
    assert rates(8, 0) == pytest.approx([0.1] * 5 + [0.075, 0.05, 0.025])


def test_a_repair_begins_at_half_of_the_rate_and_falls_to_nothing_too() -> None:
    assert rates(2, 4)[2:] == pytest.approx([0.05, 0.0375, 0.025, 0.0125])
