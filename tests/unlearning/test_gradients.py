from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.unlearning.small import OBJECTIVE, flat, normalised, plain, same, samples, state
from unlearning.errors import UnsupportedWorkload
from unlearning.gradients import (
    clip_gradient,
    clip_loss_gradient,
    descend,
    flat_gradient,
    forward_with,
    step_along,
    trainable,
)
from unlearning.training.loop import fresh

BATCH = samples(32, seed=1).batch


@pytest.mark.parametrize("wrap", [torch.jit.script, nn.DataParallel])
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is:DeprecationWarning")
def test_a_module_whose_parameters_cannot_be_replaced_is_refused(wrap: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(UnsupportedWorkload, match="plain network"):
        forward_with(wrap(nn.Linear(3, 2)), {})


def test_a_forward_pass_with_other_weights_is_that_of_a_model_that_has_them() -> None:
    one, other = fresh(normalised, seed=1).eval(), fresh(normalised, seed=2).eval()

    torch.testing.assert_close(forward_with(one, trainable(other))(BATCH.inputs), other(BATCH.inputs))


def test_a_layer_that_is_used_twice_gets_its_own_weights_back() -> None:
    layer = nn.Linear(3, 3)
    model, own = nn.Sequential(layer, nn.ReLU(), layer), layer.weight
    forward_with(model, {"0.weight": torch.zeros(3, 3)})(torch.ones(2, 3))

    assert layer.weight is own
    assert model[2].weight is own


def test_batch_norms_statistics_are_not_written_through_it() -> None:
    model = fresh(normalised, seed=1).train()
    before = state(model)
    forward_with(model, trainable(model))(BATCH.inputs)

    assert same(state(model), before)


def test_frozen_parameters_are_not_trainable() -> None:
    model = fresh(plain, seed=1)
    model[0].requires_grad_(False)

    assert list(trainable(model)) == ["2.weight", "2.bias"]


@pytest.mark.parametrize("rate", [0.1, -0.1])
def test_one_step_is_that_of_plain_sgd(rate: float) -> None:
    model = fresh(plain, seed=1)
    loss = OBJECTIVE.losses(model, BATCH).mean()
    found = descend(trainable(model), loss, rate=rate, differentiable=False)
    loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.detach() - rate * parameter.grad)


def test_a_flat_gradient_has_zeros_where_the_loss_does_not_reach() -> None:
    model = nn.ModuleDict({"used": fresh(plain, seed=1), "unused": nn.Linear(2, 2)})
    found = flat_gradient(OBJECTIVE.losses(model["used"], BATCH).mean(), trainable(model))

    assert len(found) == len(flat(model))
    assert (found[-6:] == 0).all()
    assert found[:-6].norm() > 0


def test_a_gradient_is_scaled_down_only_if_it_is_too_long() -> None:
    gradient = torch.tensor([3.0, 4.0])

    torch.testing.assert_close(clip_gradient(gradient, 1.0), torch.tensor([0.6, 0.8]))
    assert torch.equal(clip_gradient(gradient, 6.0), gradient)
    assert torch.equal(clip_gradient(torch.zeros(2), 1.0), torch.zeros(2))


@pytest.mark.parametrize(("max_norm", "share"), [(0.01, None), (1e9, 1.0)])
def test_a_clipped_loss_keeps_its_value_and_its_gradient_gets_that_norm(max_norm: float, share: float | None) -> None:
    model = fresh(plain, seed=1)
    loss = OBJECTIVE.losses(model, BATCH).mean()
    whole = flat_gradient(OBJECTIVE.losses(model, BATCH).mean(), trainable(model))
    found = clip_loss_gradient(loss, trainable(model), max_norm)
    gradient = flat_gradient(found, trainable(model))

    assert found.item() == loss.item()
    torch.testing.assert_close(gradient, whole * (share or max_norm / whole.norm()))


def test_in_bfloat16_too_the_gradient_of_a_clipped_loss_is_not_rounded() -> None:
    parameters = trainable(model := fresh(plain, seed=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first, second = (OBJECTIVE.losses(model, BATCH).mean() for _ in range(2))
        found = flat_gradient(clip_loss_gradient(first, parameters, 0.01), parameters)

        assert torch.equal(found, clip_gradient(flat_gradient(second, parameters), 0.01))


def test_a_step_along_a_vector_moves_each_parameter_by_its_part() -> None:
    model = fresh(plain, seed=1)
    before, direction = flat(model), torch.randn(len(flat(model)), generator=torch.Generator().manual_seed(0))
    step_along(model.parameters(), direction, rate=0.5)

    torch.testing.assert_close(flat(model), before - 0.5 * direction)
