import pytest
import torch
from torch import nn

from tests.unlearning.small import OBJECTIVE, WIDTH, flat, normalised, plain, same, samples, state
from unlearning.gradients import (
    batch_statistics,
    clipped,
    descend,
    descent,
    flat_gradient,
    follow,
    follow_statistics,
    forward_with,
    shortened,
    step_along,
    trainable,
)
from unlearning.training.loop import fresh

BATCH = samples(32, seed=1).batch


def test_a_forward_pass_with_other_weights_is_that_of_a_model_that_has_them() -> None:
    one, other = fresh(normalised, seed=1).eval(), fresh(normalised, seed=2).eval()

    torch.testing.assert_close(forward_with(one, trainable(other))(BATCH.inputs), other(BATCH.inputs))


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


def test_a_long_gradient_is_scaled_and_a_short_one_is_not() -> None:
    gradient = torch.tensor([3.0, 4.0])

    torch.testing.assert_close(clipped(gradient, 1.0), torch.tensor([0.6, 0.8]))
    assert torch.equal(clipped(gradient, 6.0), gradient)
    assert torch.equal(clipped(torch.zeros(2), 1.0), torch.zeros(2))


@pytest.mark.parametrize(("longest", "share"), [(0.01, None), (1e9, 1.0)])
def test_a_shortened_loss_has_its_value_and_a_gradient_of_that_length(longest: float, share: float | None) -> None:
    model = fresh(plain, seed=1)
    loss = OBJECTIVE.losses(model, BATCH).mean()
    whole = flat_gradient(OBJECTIVE.losses(model, BATCH).mean(), trainable(model))
    found = shortened(loss, trainable(model), longest)
    gradient = flat_gradient(found, trainable(model))

    assert found.item() == loss.item()
    torch.testing.assert_close(gradient, whole * (share or longest / whole.norm()))


def test_a_step_along_a_vector_moves_each_parameter_by_its_part() -> None:
    model = fresh(plain, seed=1)
    before, direction = flat(model), torch.randn(len(flat(model)), generator=torch.Generator().manual_seed(0))
    step_along(model.parameters(), direction, rate=0.5)

    torch.testing.assert_close(flat(model), before - 0.5 * direction)


def test_following_a_direction_steps_once_and_leaves_no_gradient() -> None:
    model = fresh(plain, seed=1)
    before, direction = flat(model), torch.ones(len(flat(model)))
    follow(descent(model, rate=0.1), direction)

    torch.testing.assert_close(flat(model), before - 0.1 * (direction + 5e-4 * before))
    assert all(parameter.grad is None for parameter in model.parameters())


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
    follow_statistics(model, BATCH.inputs)

    torch.testing.assert_close(model[0].running_mean, 0.1 * BATCH.inputs.mean(0))
