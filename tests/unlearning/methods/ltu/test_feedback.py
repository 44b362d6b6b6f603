"""LTU's meta-gradient (eqs. 1-5) and harmonisation (eq. 12) against finite differences and against the formulas."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.unlearning.small import flat, same, state
from unlearning.gradients import Loss
from unlearning.methods.ltu.feedback import harmonise, meta_gradient

RATE = 0.3
WEIGHT = 0.7


def smooth() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def loss_on(seed: int) -> Loss:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (7,), generator=generator)
    return lambda forward: functional.cross_entropy(forward(inputs), targets)


SUPPORT, QUERIES = loss_on(1), [loss_on(2), loss_on(3), loss_on(4)]


@pytest.fixture(autouse=True)
def kept_random_state() -> object:
    with torch.random.fork_rng():
        yield


def put(model: nn.Module, weights: Tensor) -> None:
    nn.utils.vector_to_parameters(weights, model.parameters())


def gradient_at(model: nn.Module, weights: Tensor, loss: Loss) -> Tensor:
    """∇loss at `weights`, through the model's own parameters: nothing is put in from outside."""
    before = flat(model)
    put(model, weights)
    found = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(model), list(model.parameters()))])
    put(model, before)
    return found


def value_at(model: nn.Module, weights: Tensor, loss: Loss) -> float:
    before = flat(model)
    put(model, weights)
    found = float(loss(model).detach())
    put(model, before)
    return found


def finite_differences(function: Callable[[Tensor], float], at: Tensor, step: float = 1e-5) -> Tensor:
    result = torch.zeros_like(at)
    for i in range(len(at)):
        nudge = torch.zeros_like(at)
        nudge[i] = step
        result[i] = (function(at + nudge) - function(at - nudge)) / (2 * step)
    return result


def test_the_second_order_gradient_is_that_of_finite_differences() -> None:
    model = smooth()

    def objective(weights: Tensor) -> float:
        tuned = weights - RATE * gradient_at(model, weights, SUPPORT)
        queried = sum(value_at(model, tuned, query) for query in QUERIES)
        return WEIGHT * value_at(model, weights, SUPPORT) + queried

    found = meta_gradient(model, support=SUPPORT, queries=QUERIES, inner_rate=RATE, support_weight=WEIGHT)

    torch.testing.assert_close(found, finite_differences(objective, flat(model)), rtol=1e-6, atol=1e-8)


def test_the_first_order_gradient_is_taken_at_the_tuned_weights() -> None:
    model = smooth()
    weights = flat(model)
    tuned = weights - RATE * gradient_at(model, weights, SUPPORT)
    by_hand = WEIGHT * gradient_at(model, weights, SUPPORT) + sum(gradient_at(model, tuned, q) for q in QUERIES)

    found = meta_gradient(
        model, support=SUPPORT, queries=QUERIES, inner_rate=RATE, support_weight=WEIGHT, order="first"
    )

    torch.testing.assert_close(found, by_hand)


def test_the_orders_differ_and_agree_as_the_inner_step_vanishes() -> None:
    model = smooth()

    def distance(rate: float) -> float:
        found = [
            meta_gradient(model, support=SUPPORT, queries=QUERIES, inner_rate=rate, order=order)
            for order in ("first", "second")
        ]
        return float((found[0] - found[1]).norm())

    assert distance(RATE) > 1e-2
    assert distance(RATE / 1000) < distance(RATE) / 500


def test_without_the_meta_step_all_losses_are_taken_where_the_model_stands() -> None:
    model = smooth()
    by_hand = sum(gradient_at(model, flat(model), loss) for loss in (SUPPORT, *QUERIES))

    found = meta_gradient(model, support=SUPPORT, queries=QUERIES, inner_rate=RATE, meta=False)

    torch.testing.assert_close(found, by_hand)


@pytest.mark.parametrize("order", ["first", "second"])
def test_the_query_reaches_the_model_through_the_inner_step(order: str) -> None:
    """Differentiating through `copy.deepcopy(model)` would give zeros here."""
    model = smooth()
    found = meta_gradient(model, support=SUPPORT, queries=QUERIES, inner_rate=RATE, support_weight=0.0, order=order)

    assert found.norm() > 0.1


def test_the_model_itself_is_not_moved() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)).double()
    model.train()
    before = state(model)
    meta_gradient(model, support=SUPPORT, queries=QUERIES, inner_rate=RATE)

    assert same(state(model), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def pairs(count: int = 200) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, count, 5, generator=generator, dtype=torch.float64)
    return list(zip(*vectors, strict=True))


def test_a_forgetting_gradient_that_does_not_conflict_is_left_alone() -> None:
    agreeing = [(f, r) for f, r in pairs() if f @ r >= 0]

    assert len(agreeing) > 50
    assert all(torch.equal(harmonise(f, r), f) for f, r in agreeing)
    assert torch.equal(harmonise(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])), torch.tensor([1.0, 0.0]))


def test_a_conflicting_one_is_made_orthogonal_and_loses_nothing_else() -> None:
    for f, r in (pair for pair in pairs() if pair[0] @ pair[1] < 0):
        found = harmonise(f, r)
        closed_form = f - (f @ r) / r.norm() ** 2 * r
        unit = r / r.norm()

        torch.testing.assert_close(found, closed_form)
        assert abs(float(found @ unit)) < 1e-12
        torch.testing.assert_close(found - f, -(f @ unit) * unit)


def test_the_sum_of_the_two_never_works_against_remembering() -> None:
    assert all((harmonise(f, r) + r) @ r >= r @ r - 1e-12 for f, r in pairs())


def test_in_bfloat16_too_nothing_is_left_of_the_conflict() -> None:
    for f, r in pairs():
        f, r = f.float(), r.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = harmonise(f, r)

        assert torch.equal(found, harmonise(f, r))
        assert found @ r >= -1e-5 * f.norm() * r.norm()


def test_a_remembering_gradient_of_zero_changes_nothing() -> None:
    f = torch.tensor([1.0, -2.0])

    assert torch.equal(harmonise(f, torch.zeros(2)), f)
