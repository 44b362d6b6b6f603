"""The rate of a run and of the repair that may follow it."""

import pytest
import torch

from unlearning.gradients import anneal, share_left


def rates(steps: int, repair_steps: int) -> list[float]:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    found = []
    for number in range(1, steps + repair_steps + 1):
        anneal(optimiser, rate=0.1, share_left=share_left(number, steps=steps, repair_steps=repair_steps))
        found.append(optimiser.param_groups[0]["lr"])
    return found


def test_the_rate_is_full_for_half_of_a_run_and_then_falls_to_nothing() -> None:
    assert rates(8, 0) == pytest.approx([0.1] * 5 + [0.075, 0.05, 0.025])


def test_a_repair_begins_at_half_of_the_rate_and_falls_to_nothing_too() -> None:
    assert rates(2, 4)[2:] == pytest.approx([0.05, 0.0375, 0.025, 0.0125])
