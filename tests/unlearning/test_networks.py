import contextlib
import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.unlearning.kinds import KINDS, FrozenNorm
from tests.unlearning.small import same, state
from tests.worker.digits import Once
from unlearning.errors import MethodRefused
from unlearning.gradients import descend
from unlearning.networks import (
    copy_network,
    is_finite,
    moving_batch_norm,
    take_frozen,
    twice_differentiable_kernels,
)


@pytest.mark.parametrize("name", ["old weight norm", "old spectral norm", "features kept and a lock"])
def test_what_deepcopy_refuses_is_copied_and_answers_alike(name: str) -> None:
    kind = KINDS[name]
    network, inputs = kind.build().eval(), torch.randn(4, *kind.shape)
    answers = network(inputs)
    with pytest.raises((RuntimeError, TypeError)):
        copy.deepcopy(network)
    copied = copy_network(network)

    assert same(state(copied), state(network))
    assert torch.equal(copied(inputs), answers)
    with torch.no_grad():
        next(copied.parameters()).add_(1.0)
    assert not torch.equal(copied(inputs), answers)
    assert torch.equal(network(inputs), answers)


def test_a_copy_keeps_modes_and_what_requires_a_gradient() -> None:
    network = FrozenNorm()
    copied = copy_network(network)

    assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in network.parameters()]
    assert [m.training for m in copied.modules()] == [m.training for m in network.modules()]


def test_a_module_whose_list_holds_itself_and_a_lock_is_copied() -> None:
    network = nn.Linear(3, 2)
    network.held = [threading.Lock()]  # type: ignore[assignment]  # as users' modules do
    network.held.append(network.held)  # type: ignore[operator]

    assert same(state(copy_network(network)), state(network))


def test_weights_are_finite_although_a_frozen_mask_is_not() -> None:
    """As attention has them: −∞ where a token must not be seen."""
    network = nn.Linear(3, 2)
    network.mask = nn.Parameter(torch.full((3,), -torch.inf), requires_grad=False)
    assert is_finite(network)
    network.bias.data[0] = torch.nan
    assert not is_finite(network)


@pytest.mark.parametrize("mode", [True, False])
def test_the_batch_norm_that_train_leaves_in_evaluation_mode_does_not_move(mode: bool) -> None:
    network = FrozenNorm().train(mode)
    before = [module.training for module in network.modules()]

    assert moving_batch_norm(network) == [network.moved]
    assert [module.training for module in network.modules()] == before


def test_a_new_network_takes_over_what_is_frozen_and_nothing_else() -> None:
    original, network = FrozenNorm(), FrozenNorm()
    for layer in (original.kept, original.moved):
        layer.running_mean.fill_(7.0)
    head = network.head.weight.detach().clone()
    take_frozen(network, original)

    assert same(state(network.backbone), state(original.backbone))
    assert same(state(network.kept), state(original.kept))
    assert not network.moved.running_mean.any()
    assert torch.equal(network.head.weight, head)


def test_an_operation_without_a_second_derivative_is_refused_with_what_to_do() -> None:
    weight = torch.ones(3, requires_grad=True)
    (first,) = torch.autograd.grad((Once.apply(weight) ** 2).sum(), weight, create_graph=True)
    with pytest.raises(MethodRefused, match="order"), twice_differentiable_kernels(nn.Identity()):
        first.sum().backward()


@pytest.mark.parametrize("operation", [Once.apply, torch.relu], ids=["once", "relu"])
def test_an_operation_that_autograd_passes_over_in_silence_is_refused_too(
    operation: Callable[[Tensor], Tensor],
) -> None:
    network = nn.Linear(3, 2)
    loss = operation(network(torch.ones(4, 3))).logsumexp(1).mean()
    refused = operation is not torch.relu
    with pytest.raises(MethodRefused, match="order") if refused else contextlib.nullcontext():
        descend(dict(network.named_parameters()), loss, rate=0.1, differentiable=True)


def test_an_error_of_another_cause_is_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="on purpose"), twice_differentiable_kernels(nn.Identity()):
        raise RuntimeError("on purpose")
