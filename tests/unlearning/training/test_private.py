"""DP-SGD against its definition written out, its ε against the Gaussian mechanism's own."""

import dataclasses
import math
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.unlearning.small import (
    CLASSES,
    OBJECTIVE,
    RECIPE,
    WIDTH,
    convolutional,
    flat,
    normalised,
    plain,
    same,
    samples,
    state,
    task,
)
from unlearning.errors import MethodRefused
from unlearning.methods.registry import unlearn
from unlearning.specs import Retrain
from unlearning.specs.training import DPSGD, Precision, Recipe
from unlearning.state import State
from unlearning.steps import run_to_completion
from unlearning.training.loop import fit, fresh, train, train_steps
from unlearning.training.private import PoissonBatches, epsilon

QUIET = 1e-9
"""A noise that is below what float32 can tell."""
TRAINING = samples(100, seed=1)


def private(**settings: float) -> Recipe:
    return dataclasses.replace(RECIPE, epochs=2, batch_size=20, privacy=DPSGD(**settings))


def by_hand(recipe: Recipe, *, steps: int) -> nn.Module:
    """Poisson batches, each sample's gradient clipped, their sum over the expected batch size."""
    model = fresh(plain, seed=5)
    generator = torch.Generator().manual_seed(5)
    batches = PoissonBatches(TRAINING, recipe.batch_size, steps, generator)
    optimiser = torch.optim.SGD(model.parameters(), lr=recipe.learning_rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=steps, cycle_momentum=False
    )
    assert recipe.privacy is not None
    for batch in batches:
        total = [torch.zeros_like(p) for p in model.parameters()]
        for x, y in zip(*batch, strict=True):
            gradients = torch.autograd.grad(functional.cross_entropy(model(x[None]), y[None]), list(model.parameters()))
            length = math.sqrt(sum(float(g.square().sum()) for g in gradients))
            for sums, gradient in zip(total, gradients, strict=True):
                sums += gradient * min(1.0, recipe.privacy.clip / (length + 1e-6))
        for p, sums in zip(model.parameters(), total, strict=True):
            p.grad = sums / recipe.batch_size
        optimiser.step()
        schedule.step()
    return model


@pytest.mark.parametrize("clip", [0.1, 1e3])
def test_without_noise_it_is_clipped_sample_by_sample(clip: float) -> None:
    recipe = private(noise=QUIET, clip=clip)
    found = fit(plain, TRAINING, recipe, objective=OBJECTIVE, seed=5)

    torch.testing.assert_close(flat(found), flat(by_hand(recipe, steps=10)), rtol=1e-4, atol=1e-5)


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 500), nn.ReLU(), nn.Linear(500, CLASSES))


def test_the_noise_is_sigma_times_the_clip_over_the_batch() -> None:
    weights = []
    for noise in (QUIET, 3.0):
        model = fresh(wide, seed=5)
        recipe = private(noise=noise, clip=0.1)
        next(train(model, TRAINING, recipe, objective=OBJECTIVE, seed=5))
        weights.append(flat(model))
    # The first step's rate of a one-cycle schedule is a 25th of the peak.
    units = (weights[1] - weights[0]) / (RECIPE.learning_rate / 25 * 3.0 * 0.1 / 20)

    # A sample standard deviation is within 1/sqrt(2n) of the true one; four of those.
    assert abs(float(units.std()) - 1) < 4 / math.sqrt(2 * len(units))
    assert abs(float(units.mean())) < 4 / math.sqrt(len(units))


def test_without_subsampling_epsilon_is_the_gaussian_mechanisms() -> None:
    """Rényi: T·α/(2σ²), then the best order of Balle et al.'s conversion; the orders are those that Opacus tries."""
    sigma, steps, delta = 5.0, 30, 1e-5
    orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))
    wanted = min(
        steps * a / (2 * sigma**2) - (math.log(delta) + math.log(a)) / (a - 1) + math.log((a - 1) / a) for a in orders
    )

    assert epsilon(DPSGD(noise=sigma, delta=delta), rate=1.0, steps=steps) == pytest.approx(wanted)


def test_less_noise_and_more_steps_spend_more() -> None:
    spent = [epsilon(DPSGD(noise=noise), rate=0.1, steps=steps) for noise, steps in ((4, 50), (2, 50), (2, 100))]

    assert spent == sorted(spent)


def test_the_outcome_tells_what_was_spent() -> None:
    outcome = run_to_completion(train(fresh(plain, seed=0), TRAINING, private(noise=2.0), objective=OBJECTIVE, seed=0))

    assert outcome.metrics["epsilon"] == pytest.approx(epsilon(DPSGD(noise=2.0), rate=0.2, steps=10))
    assert outcome.metrics["delta"] == 1e-5


def test_batches_are_poisson_samples_of_the_wanted_size() -> None:
    batches = PoissonBatches(TRAINING, 20, 400, torch.Generator().manual_seed(0))
    sizes = torch.tensor([float(len(batch.targets)) for batch in batches])

    # Binomial with n = 100 and q = 0.2: mean 20, variance 16; four standard errors of both.
    assert abs(float(sizes.mean()) - 20) < 4 * math.sqrt(16 / 400)
    assert abs(float(sizes.var()) / 16 - 1) < 4 * math.sqrt(2 / 400)


def test_batch_norm_is_refused_with_the_reason_before_anything_changes() -> None:
    model = fresh(normalised, seed=0)
    before = state(model)
    with pytest.raises(MethodRefused, match="BatchNorm"):
        run_to_completion(train(model, TRAINING, private(), objective=OBJECTIVE, seed=0))

    assert same(state(model), before)
    assert not any(module.training for module in model.modules())


def test_without_opacus_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "opacus"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(MethodRefused, match="privacy"):
        run_to_completion(train(fresh(plain, seed=0), TRAINING, private(), objective=OBJECTIVE, seed=0))


@pytest.mark.parametrize("build", [plain, convolutional])
def test_the_model_is_left_as_an_ordinary_one(build) -> None:
    model = fit(build, TRAINING, private(), objective=OBJECTIVE, seed=0)

    assert not any(vars(p) for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks or module.training for module in model.modules())
    assert type(model) is type(build())


def test_the_same_seed_gives_the_same_weights_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = (fit(plain, TRAINING, private(), objective=OBJECTIVE, seed=seed) for seed in (1, 1, 2))

    assert same(state(first), state(second))
    assert not same(state(first), state(other))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_method_trains_anew_as_the_model_was_trained_in_either_precision(precision: Precision) -> None:
    given = task(plain)
    given.recipe = dataclasses.replace(private(), precision=precision)
    run_to_completion(unlearn(Retrain(), given))
    trained = fit(plain, given.remain, given.recipe, objective=OBJECTIVE, seed=given.seed)

    assert same(state(given.model), state(trained))
    assert same(state(trained), state(fit(plain, given.remain, private(), objective=OBJECTIVE, seed=given.seed)))


def test_an_interrupted_run_ends_in_the_same_weights() -> None:
    whole = fit(plain, TRAINING, private(), objective=OBJECTIVE, seed=3)
    parts, first = State(), fresh(plain, seed=3)
    steps = train_steps(first, TRAINING, private(), objective=OBJECTIVE, seed=3, state=parts)
    for _ in range(4):
        next(steps)
    content = torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, parts.snapshot())
    steps.close()
    second = fresh(plain, seed=3)
    run_to_completion(train_steps(second, TRAINING, private(), objective=OBJECTIVE, seed=3, state=State(content)))

    assert same(state(second), state(whole))
