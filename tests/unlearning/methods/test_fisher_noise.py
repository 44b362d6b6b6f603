"""Fisher forgetting: noise where the remaining set can bear it, by the fourth root of the information."""

import math

import pytest
import torch

from tests.unlearning.methods.watching import without_classes
from tests.unlearning.small import plain, state, task
from unlearning.errors import MethodRefused
from unlearning.methods.importance import add_squared_gradients, with_drawn_labels, zero_importance
from unlearning.methods.registry import unlearn
from unlearning.specs import FisherNoise
from unlearning.steps import run_to_completion

NOISE = 0.003
FLOOR = 1e-6


def test_the_noise_is_the_inverse_fourth_root_of_the_information() -> None:
    given = task(plain)
    before = state(given.model)
    information = zero_importance(given)
    drawn = with_drawn_labels(given, given.remain.batch, torch.Generator().manual_seed(given.seed))
    add_squared_gradients(information, given, drawn, of=len(given.remain))
    run_to_completion(unlearn(FisherNoise(noise=NOISE, floor=FLOOR, batch_size=1000), given))
    after = state(given.model)
    units = torch.cat(
        [
            ((after[name] - before[name]) / (NOISE * information[name].clamp(min=FLOOR) ** -0.25)).flatten()
            for name in information
        ]
    )

    # A sample standard deviation is within 1/sqrt(2n) of the true one; four of those.
    assert abs(float(units.std()) - 1) < 4 / math.sqrt(2 * len(units))
    assert abs(float(units.mean())) < 4 / math.sqrt(len(units))


def test_the_remaining_set_suffers_least_where_the_noise_follows_the_information() -> None:
    """Against noise of the same size that does not know it, averaged over seeds: what the method is for."""
    losses = []
    for shuffled in (False, True):
        total = 0.0
        for seed in range(8):
            given = task(plain, seed=seed)
            before = state(given.model)
            run_to_completion(unlearn(FisherNoise(noise=0.01, floor=FLOOR), given))
            if shuffled:
                generator = torch.Generator().manual_seed(seed)
                for name, p in given.model.named_parameters():
                    noise = (p.detach() - before[name]).flatten()
                    p.data = before[name] + noise[torch.randperm(len(noise), generator=generator)].view_as(p)
            with torch.no_grad():
                total += float(given.objective.losses(given.model, given.remain.batch).mean())
        losses.append(total)

    assert losses[0] < losses[1]


def test_without_logits_it_is_refused() -> None:
    given = task(plain)
    given.objective = without_classes()

    with pytest.raises(MethodRefused, match="no classes"):
        run_to_completion(unlearn(FisherNoise(), given))
