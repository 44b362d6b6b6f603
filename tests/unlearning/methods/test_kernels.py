"""MSG and CT change the kernels of convolutions, and then fine-tune on the remaining set."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.unlearning.small import CLASSES, OBJECTIVE, RECIPE, flat, plain, same, samples, state, task
from unlearning.data.objectives.objective import Optimiser
from unlearning.data.workload import Workload
from unlearning.errors import MethodRefused
from unlearning.methods.msg import rise_and_fall
from unlearning.methods.registry import find_lacks, unlearn
from unlearning.networks import kernels
from unlearning.specs import CT, MSG, Spec
from unlearning.specs.suitability import Need, why_unsuitable
from unlearning.state import State
from unlearning.steps import run_to_completion
from unlearning.task import Task

NEXT_TO_NOTHING = 1e-12
"""A learning rate that leaves the weights as they were before the first step."""


def images() -> nn.Module:
    """Two convolutions, of which the second has no square kernel, and a linear layer."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(),
        nn.Conv2d(6, 5, (1, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 9, CLASSES),
    )  # fmt: skip


def run(spec: Spec, given: Task) -> None:
    run_to_completion(unlearn(spec, given))


def loss_of(model: nn.Module, given: Task, part: str, places: torch.Tensor) -> torch.Tensor:
    samples = getattr(given, part)
    return functional.cross_entropy(model(samples.inputs[places]), samples.targets[places])


def trained_by_hand(
    given: Task, generator: torch.Generator, rates: list[float], scales: dict[nn.Parameter, torch.Tensor]
) -> None:
    """Train on the remaining set by plain SGD, an epoch at each rate, with these factors of the gradients."""
    optimiser = torch.optim.SGD(given.model.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4)
    for rate in rates:
        optimiser.param_groups[0]["lr"] = rate
        for index in torch.randperm(len(given.remain), generator=generator).split(16):
            optimiser.zero_grad()
            loss_of(given.model, given, "remain", index).backward()
            for p, scale in scales.items():
                p.grad = p.grad * scale
            optimiser.step()


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_msg_redraws_the_weights_with_the_smallest_gradients_and_trains_the_others_slowly(optimiser: Optimiser) -> None:
    """By SGD in any case: how far Adam moves a weight does not follow the scale of its gradient."""
    given, by_hand = task(images), task(images)
    given.objective = dataclasses.replace(given.objective, optimiser=optimiser)
    run(MSG(epochs=3, batch_size=16, learning_rate=0.05, redrawn=0.4, kept_gradient=0.1), given)

    model, generator = by_hand.model, torch.Generator().manual_seed(by_hand.seed)
    forgotten = loss_of(model, by_hand, "forget", torch.arange(24))
    kept = loss_of(model, by_hand, "remain", torch.randperm(96, generator=generator)[:32])
    (kept - forgotten).backward()
    scales = {}
    for p in (model[1].weight, model[3].weight):
        smallest = p.grad.abs().flatten().argsort()[: round(0.4 * p.numel())]
        anew = torch.zeros(p.numel(), dtype=torch.bool).index_fill(0, smallest, True).view(p.shape)
        drawn = torch.empty(p.shape).normal_(0, math.sqrt(2 / (p.shape[0] * p[0, 0].numel())), generator=generator)
        scales[p] = torch.where(anew, 1.0, 0.1)
        with torch.no_grad():
            p.copy_(torch.where(anew, drawn, p))
    trained_by_hand(by_hand, generator, [0.05 / 2, 0.05, 0.05 / 2], scales)

    torch.testing.assert_close(flat(given.model), flat(model))


def test_msg_takes_matrices_where_there_are_no_convolutions() -> None:
    given = task(plain)
    before = state(given.model)
    run(MSG(epochs=1, batch_size=16, learning_rate=NEXT_TO_NOTHING, redrawn=0.3), given)
    changed = {name: float((t != before[name]).double().mean()) for name, t in state(given.model).items()}

    moved = {name: not torch.allclose(t, before[name], atol=1e-6) for name, t in state(given.model).items()}
    assert moved == {"0.weight": True, "0.bias": False, "2.weight": True, "2.bias": False}
    assert changed["0.weight"] > 0


def test_the_rate_rises_to_the_middle_and_falls() -> None:
    assert rise_and_fall(5) == [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]
    assert rise_and_fall(2) == [1, 1 / 2]
    assert rise_and_fall(1) == [1]


def test_ct_transposes_square_kernels_alone() -> None:
    given = task(images)
    before = state(given.model)
    run(CT(epochs=1, batch_size=16, learning_rate=NEXT_TO_NOTHING), given)

    after = state(given.model)
    torch.testing.assert_close(after.pop("1.weight"), before.pop("1.weight").transpose(2, 3))
    assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in before)


def test_ct_is_then_fine_tuning_by_half_a_cosine() -> None:
    given, by_hand = task(images), task(images)
    run(CT(epochs=2, batch_size=16, learning_rate=0.04), given)
    with torch.no_grad():
        by_hand.model[1].weight.copy_(by_hand.model[1].weight.transpose(2, 3).clone())
    trained_by_hand(by_hand, torch.Generator().manual_seed(by_hand.seed), [0.04, 0.02], {})

    torch.testing.assert_close(flat(given.model), flat(by_hand.model))


def test_ct_refuses_a_model_without_square_kernels_before_anything_changes() -> None:
    given = task(plain)
    before = state(given.model)

    with pytest.raises(MethodRefused, match="square kernels"):
        next(unlearn(CT(), given))

    assert same(state(given.model), before)


def test_what_a_model_lacks_for_ct_is_known_beforehand() -> None:
    given = Workload(
        name="images",
        build=images,
        train=samples(8, seed=1),
        held_out=samples(8, seed=2),
        test=samples(8, seed=3),
        objective=OBJECTIVE,
        recipe=RECIPE,
    )

    assert Need.CONVOLUTIONS not in find_lacks(given, images().eval())
    lacks = find_lacks(given, plain().eval())
    assert why_unsuitable("ct", lacks) == "ct needs convolutions with square kernels that training moves"


def test_a_kernel_that_two_layers_share_is_one_and_a_frozen_or_computed_one_is_none() -> None:
    shared, frozen = images(), images()
    shared.append(copy.copy(shared[1]))
    frozen[1].requires_grad_(False)
    computed = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 3))

    assert [len(kernels(network)) for network in (shared, frozen, computed)] == [2, 1, 0]


@pytest.mark.parametrize("spec", [MSG(epochs=2, batch_size=16), CT(epochs=2, batch_size=16)], ids=["msg", "ct"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(spec: Spec) -> None:
    whole, first, second = task(images), task(images), task(images)
    run(spec, whole)
    steps = unlearn(spec, first)
    for _ in range(7):
        next(steps)
    kept = copy.deepcopy(first.state.snapshot())
    steps.close()
    run(spec, dataclasses.replace(second, state=State(kept)))

    assert same(state(whole.model), state(second.model))
    assert not any(module.training for module in whole.model.modules())
    assert all(p.grad is None for p in whole.model.parameters())
