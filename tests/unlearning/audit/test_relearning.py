import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.unlearning.audit.conftest import OBJECTIVE, World
from unlearning.audit.relearning import Relearner, calibrate, mean_loss, relearn
from unlearning.data.objectives import Forward, Objective
from unlearning.data.samples import Batch

SGD = Relearner(kind="sgd", learning_rate=0.1, target=0.01, limit=60, batch_size=8)


def squared(forward: Forward, batch: Batch) -> torch.Tensor:
    return (forward(batch.inputs) - batch.targets).pow(2).mean(dim=1) / 2


PARABOLA = Objective(losses=squared, scramble=lambda batch, _: batch)


def parabola(start: float) -> tuple[nn.Module, Batch]:
    """Loss w²/2 for a single weight w, so that a step of gradient descent multiplies w by 1 − rate."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, start)
    return model, Batch(torch.ones(8, 1), torch.zeros(8, 1))


@pytest.mark.parametrize(("start", "rate"), [(1.0, 0.1), (3.0, 0.02), (0.5, 0.5)])
def test_the_delay_on_a_parabola_is_the_closed_form(start: float, rate: float) -> None:
    model, batch = parabola(start)
    curve = relearn(
        model, batch, objective=PARABOLA, relearner=replace(SGD, learning_rate=rate, limit=300), seed=0, at_least=3
    )
    # w = start (1 − rate)^t, and w²/2 = 0.01 where w = √0.02
    expected = math.ceil(math.log(math.sqrt(0.02) / start) / math.log(1 - rate))
    assert (curve.delay, curve.censored) == (expected, False)
    assert curve.losses[3] == pytest.approx((start * (1 - rate) ** 3) ** 2 / 2, rel=1e-4)
    assert curve.travelled == pytest.approx(start - start * (1 - rate) ** expected, rel=1e-4)


def test_a_set_already_known_has_no_delay_and_may_still_be_drawn() -> None:
    model, batch = parabola(0.1)
    curve = relearn(model, batch, objective=PARABOLA, relearner=SGD, seed=0, at_least=12)
    assert (curve.delay, curve.censored, len(curve.losses)) == (0, False, 13)


def test_adam_on_a_parabola_takes_a_step_of_the_rate_at_first() -> None:
    """Adam's first steps are the rate in length, whatever the gradient; its delay is that of the same steps taken by torch."""
    model, batch = parabola(1.0)
    curve = relearn(model, batch, objective=PARABOLA, relearner=replace(SGD, kind="adam", limit=300), seed=0)
    weight = nn.Parameter(torch.tensor([[1.0]]))
    adam, expected = torch.optim.Adam([weight], lr=0.1), 0
    while float(weight.detach() ** 2 / 2) > 0.01:
        weight.grad = weight.detach().clone()
        adam.step()
        expected += 1
    assert (curve.delay, curve.censored) == (expected, False)
    assert curve.losses[1] == pytest.approx(0.9**2 / 2, rel=1e-4)


def test_a_set_never_learned_in_time_is_censored_at_the_limit() -> None:
    model, batch = parabola(1.0)
    curve = relearn(model, batch, objective=PARABOLA, relearner=replace(SGD, limit=5), seed=0)
    assert (curve.delay, curve.censored, curve.diverged, len(curve.losses)) == (5, True, False, 6)
    assert curve.travelled == pytest.approx(1 - 0.9**5, rel=1e-4)


def test_a_run_that_leaves_the_finite_numbers_ends_there_and_says_so() -> None:
    model, batch = parabola(1.0)
    curve = relearn(model, batch, objective=PARABOLA, relearner=replace(SGD, learning_rate=1e9), seed=0)
    assert curve.diverged
    assert math.isfinite(curve.travelled)
    assert all(map(math.isfinite, curve.losses))


def test_the_audited_model_itself_is_never_fine_tuned(world: World) -> None:
    """A public relearn-time measure trains the model it was asked to measure."""
    model = world.models["retrained"].train()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    relearn(model, world.sets["forget"].batch, objective=OBJECTIVE, relearner=replace(SGD, limit=4), seed=0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    model.eval()


def test_the_same_seed_gives_the_same_curve_and_another_another(world: World) -> None:
    def run(seed: int) -> tuple[float, ...]:
        relearner = replace(SGD, learning_rate=0.01, limit=6, batch_size=32)
        batch = world.sets["forget"].batch
        return relearn(world.models["retrained"], batch, objective=OBJECTIVE, relearner=relearner, seed=seed).losses

    assert run(0) == run(0)
    assert run(0) != run(1)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_calibrated_rate_teaches_the_original_a_control_in_about_the_wanted_steps(world: World, kind: str) -> None:
    original, control = world.models["original"], world.sets["held_out"].take(torch.arange(120)).batch
    target = mean_loss(original, control, OBJECTIVE) / 4
    found = calibrate(
        original, control, objective=OBJECTIVE, kind=kind, target=target, steps=20, limit=3.0, batch_size=32, seed=0
    )
    assert found is not None
    curve = relearn(original, control, objective=OBJECTIVE, relearner=found, seed=0)
    assert 13 <= curve.delay <= 40
    assert found.limit >= 60


def test_nothing_is_calibrated_where_there_is_nothing_to_learn(world: World) -> None:
    original, control = world.models["original"], world.sets["remain"].take(torch.arange(60)).batch
    settings = {"objective": OBJECTIVE, "kind": "sgd", "steps": 20, "limit": 3.0, "batch_size": 32, "seed": 0}
    assert calibrate(original, control, target=10.0, **settings) is None  # type: ignore[arg-type]
