"""Training by a recipe: repeatable, and alone with its random numbers."""

import dataclasses
import shutil
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from tests.unlearning.small import OBJECTIVE, RECIPE, convolutional, dropping, normalised, plain, same, samples, state
from unlearning.errors import InvalidSpec
from unlearning.specs.training import Recipe, Reweighting
from unlearning.steps import Progress, run_to_completion
from unlearning.training.loop import fit, fresh, train
from unlearning.training.readiness import revocable_split

GIVEN = samples(64, seed=1)
SHORT = dataclasses.replace(RECIPE, epochs=3)


def fitted(build: Callable[[], nn.Module] = plain, *, recipe: Recipe = SHORT, seed: int = 0) -> dict[str, torch.Tensor]:
    return state(fit(build, GIVEN, recipe, objective=OBJECTIVE, seed=seed))


@pytest.mark.parametrize("build", [plain, normalised, dropping])
def test_the_same_seed_gives_the_same_weights_and_another_does_not(build: Callable[[], nn.Module]) -> None:
    first = fitted(build)
    torch.rand(5)

    assert same(first, fitted(build))
    assert not same(first, fitted(build, seed=1))


def test_the_random_state_is_untouched_between_batches_and_after() -> None:
    before = torch.get_rng_state()
    model = fresh(dropping, seed=0)
    for _ in train(model, GIVEN, SHORT, objective=OBJECTIVE, seed=0):
        assert torch.equal(torch.get_rng_state(), before)

    assert torch.equal(torch.get_rng_state(), before)


def test_it_learns_and_leaves_evaluation_mode_and_no_gradients() -> None:
    model = fit(normalised, GIVEN, RECIPE, objective=OBJECTIVE, seed=0)

    assert (model(GIVEN.inputs).argmax(-1) == GIVEN.targets).float().mean() > 0.95
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_closed_early_it_leaves_evaluation_mode_and_the_random_state() -> None:
    before = torch.get_rng_state()
    model = fresh(dropping, seed=0)
    steps = train(model, GIVEN, SHORT, objective=OBJECTIVE, seed=0)
    next(steps)
    steps.close()

    assert not model.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 33, 64])
def test_it_counts_its_batches_rightly_and_takes_any_number_of_samples(count: int) -> None:
    given = GIVEN.take(torch.arange(count))
    build = plain if count == 1 else normalised
    steps = train(fresh(build, seed=0), given, SHORT, objective=OBJECTIVE, seed=0)
    seen: list[Progress] = []
    outcome = run_to_completion(steps, seen.append)

    assert [progress.step for progress in seen] == list(range(1, len(seen) + 1))
    assert {progress.total for progress in seen} == {len(seen)}
    assert outcome.steps == len(seen)
    assert outcome.stopped_because == "completed"


def test_bfloat16_trains_weights_that_stay_float32() -> None:
    found = fitted(normalised, recipe=dataclasses.replace(SHORT, precision="bfloat16"))

    assert all(torch.isfinite(tensor).all() for tensor in found.values())
    assert {t.dtype for name, t in found.items() if "num_batches" not in name} == {torch.float32}
    assert not same(found, fitted(normalised))


def test_bfloat16_learns_as_well() -> None:
    recipe = dataclasses.replace(RECIPE, precision="bfloat16")
    model = fit(normalised, GIVEN, recipe, objective=OBJECTIVE, seed=0)

    assert (model(GIVEN.inputs).argmax(-1) == GIVEN.targets).float().mean() > 0.95


def test_the_momentum_asked_for_is_used() -> None:
    assert not same(*(fitted(recipe=dataclasses.replace(SHORT, momentum=momentum)) for momentum in (0.0, 0.9)))


@pytest.mark.parametrize("change", [{"learning_rate": 0.01}, {"weight_decay": 0.1}, {"batch_size": 32}, {"epochs": 4}])
def test_every_other_setting_makes_a_difference(change: dict[str, float]) -> None:
    assert not same(fitted(), fitted(recipe=dataclasses.replace(SHORT, **change)))


@pytest.mark.parametrize("change", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": -1.0}])
def test_an_impossible_recipe_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(InvalidSpec):
        Recipe(**{"epochs": 1, **change})


def test_fresh_weights_depend_on_the_seed_alone() -> None:
    before = torch.get_rng_state()
    one, again, other = (state(fresh(plain, seed=seed)) for seed in (1, 1, 2))

    assert same(one, again)
    assert not same(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_that_numpy_draws_depend_on_the_seed_alone_too() -> None:
    def build() -> nn.Module:
        layer = nn.Linear(2, 2)
        layer.weight.data = torch.from_numpy(np.random.rand(2, 2))
        return layer

    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    one, again, other = (state(fresh(build, seed=seed)) for seed in (1, 1, 2))

    assert same(one, again)
    assert not same(one, other)
    assert np.random.rand() == expected


def test_reweighting_with_the_full_weight_is_plain_training() -> None:
    assert same(fitted(recipe=dataclasses.replace(SHORT, reweighting=Reweighting(weight=1.0))), fitted())


def test_what_has_no_weight_has_no_say() -> None:
    """Whatever the revocable samples are; with half a weight they have some."""
    revocable = set(revocable_split(GIVEN, share=0.25, seed=0).revocable.ids)
    chosen = torch.tensor([sample in revocable for sample in GIVEN.ids])
    others = dataclasses.replace(GIVEN, inputs=torch.where(chosen[:, None], -GIVEN.inputs, GIVEN.inputs))
    for weight in (0.0, 0.5):
        recipe = dataclasses.replace(SHORT, reweighting=Reweighting(weight=weight, revocable_share=0.25))
        found = [state(fit(plain, given, recipe, objective=OBJECTIVE, seed=0)) for given in (GIVEN, others)]

        assert same(*found) == (weight == 0)


def test_reweighting_is_the_weighted_loss() -> None:
    recipe = dataclasses.replace(SHORT, epochs=1, batch_size=64, reweighting=Reweighting(weight=0.3))
    revocable = set(revocable_split(GIVEN, share=0.5, seed=0).revocable.ids)
    weights = torch.tensor([0.3 if sample in revocable else 1.0 for sample in GIVEN.ids])
    model = fresh(plain, seed=0)
    wanted = float((weights * OBJECTIVE.losses(model, GIVEN.batch)).mean().detach())

    assert next(train(model, GIVEN, recipe, objective=OBJECTIVE, seed=0)).metrics["loss"] == pytest.approx(wanted)


def test_a_compiled_training_gives_the_same_weights() -> None:
    """With the backend that compiles nothing, so that torch's tracing of the forward pass is what is tested."""
    assert same(fitted(normalised, recipe=dataclasses.replace(SHORT, compiler="eager")), fitted(normalised))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch uses what it deprecates when it compiles
def test_a_training_that_torch_compiles_ends_near_one_that_it_does_not() -> None:
    counters.clear()
    found = fitted(convolutional, recipe=dataclasses.replace(SHORT, compiler="inductor"))
    wanted = fitted(convolutional)

    assert counters["frames"]["ok"] > 0  # it was compiled
    assert all(torch.allclose(tensor, wanted[name], atol=1e-4) for name, tensor in found.items())
