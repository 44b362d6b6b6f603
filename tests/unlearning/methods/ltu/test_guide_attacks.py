"""Guide attacks: different from each other, better than chance, frozen, differentiable."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from tests.unlearning.small import CLASSES, plain, same, state, task
from unlearning.data.objectives import answers
from unlearning.data.objectives.class_prediction import (
    labelled_logits,
    loss_margin_entropy,
    sorted_log_probabilities,
)
from unlearning.data.samples import SampleSet
from unlearning.errors import MethodRefused
from unlearning.methods.ltu.guide_attacks import (
    GuideAttack,
    non_member_signal,
    train_guide_attacks,
)
from unlearning.methods.registry import unlearn
from unlearning.specs import LTU
from unlearning.task import Task


@pytest.fixture(scope="module")
def given() -> Task:
    return task(plain)


@pytest.fixture(scope="module")
def attacks(given: Task) -> tuple[GuideAttack, ...]:
    return train_guide_attacks(given, given.remain, count=3)


def widths(attack: GuideAttack) -> tuple[torch.Size, ...]:
    return tuple(parameter.shape for parameter in attack.head.parameters())


def test_on_an_overfit_model_all_beat_chance(attacks: tuple[GuideAttack, ...]) -> None:
    assert len(attacks) == 3
    assert all(attack.accuracy >= 0.55 for attack in attacks)


def test_no_two_see_the_same_or_are_built_the_same(attacks: tuple[GuideAttack, ...]) -> None:
    assert len({attack.features for attack in attacks}) == 3
    assert len({widths(attack) for attack in attacks}) == 3


def test_they_say_member_of_what_was_trained_on_and_not_of_what_was_not(
    given: Task, attacks: tuple[GuideAttack, ...]
) -> None:
    with torch.no_grad():
        for attack in attacks:
            inside, outside = (
                attack.member_logit(given.model(part.inputs), part.targets) for part in (given.forget, given.criterion)
            )
            # Neither part was used to train the attacks.
            assert (inside > 0).float().mean() > (outside > 0).float().mean() + 0.1


def test_more_than_three_go_round_again_with_other_seeds(given: Task) -> None:
    found = train_guide_attacks(given, given.remain, count=4)

    assert len(found) == 4
    assert widths(found[0]) == widths(found[3])
    assert not same(state(found[0].head), state(found[3].head))


def test_they_are_frozen(attacks: tuple[GuideAttack, ...]) -> None:
    assert not any(parameter.requires_grad for attack in attacks for parameter in attack.head.parameters())


def test_a_gradient_flows_from_each_to_the_logits(attacks: tuple[GuideAttack, ...]) -> None:
    logits = torch.randn(5, CLASSES, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for attack in attacks:
        (gradient,) = torch.autograd.grad(attack.member_logit(logits, torch.zeros(5, dtype=torch.int64)).sum(), logits)
        assert torch.isfinite(gradient).all()
        assert (gradient.norm(dim=-1) > 0).all()


def test_the_signal_is_higher_for_non_members(given: Task, attacks: tuple[GuideAttack, ...]) -> None:
    batch = given.forget.batch
    with torch.no_grad():
        signal = non_member_signal(attacks[0])(answers(given.objective, given.model, batch))
        expected = -attacks[0].member_logit(given.model(batch.inputs), batch.targets)

    assert torch.equal(signal, expected)


def test_training_them_touches_neither_the_model_nor_the_random_state(given: Task) -> None:
    before, random_state = state(given.model), torch.get_rng_state()
    first, second = (train_guide_attacks(given, given.remain, count=2) for _ in range(2))

    assert same(state(given.model), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(same(state(a.head), state(b.head)) for a, b in zip(first, second, strict=True))


class Blank(nn.Module):
    """The same logits for every input: nothing to tell members by."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(12, CLASSES))

    def forward(self, inputs: Tensor) -> Tensor:
        return 0 * inputs @ self.weight


def of_one_class(samples: SampleSet) -> SampleSet:
    return dataclasses.replace(samples, targets=torch.zeros_like(samples.targets))


def blank(given: Task) -> Task:
    """Nothing remembered, and every sample of one class: every attack can only guess."""
    blanked = copy.copy(given)
    blanked.model = Blank()
    for name in ("forget", "remain", "guide", "criterion"):
        setattr(blanked, name, of_one_class(getattr(given, name)))
    return blanked


def test_those_that_do_not_beat_chance_are_left_out(given: Task) -> None:
    blanked = blank(given)

    assert train_guide_attacks(blanked, blanked.remain, count=3) == ()


def test_without_guide_attacks_and_without_remembering_nothing_is_left_to_do(given: Task) -> None:
    blanked = blank(given)
    before = state(blanked.model)

    with pytest.raises(MethodRefused):
        next(unlearn(LTU(remembering=False), blanked))

    assert same(state(blanked.model), before)


def test_the_sorted_log_probabilities_do_not_depend_on_order_or_label() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 0.0]])
    one = sorted_log_probabilities(logits, torch.tensor([0]))
    other = sorted_log_probabilities(logits[:, [3, 1, 0, 2]], torch.tensor([2]))

    torch.testing.assert_close(one, other)
    torch.testing.assert_close(one.exp().sum(-1), torch.ones(1))


def test_labelled_logits_do_not_depend_on_a_common_shift() -> None:
    logits, targets = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([1])

    torch.testing.assert_close(labelled_logits(logits, targets), labelled_logits(logits + 7, targets))
    assert labelled_logits(logits, targets)[0, 3:].tolist() == [0, 1, 0]


def test_loss_margin_and_entropy_are_what_they_say() -> None:
    logits, targets = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0]]), torch.tensor([2, 0])
    found = loss_margin_entropy(logits, targets)
    p = logits.softmax(-1)

    torch.testing.assert_close(found[:, 0], torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
    torch.testing.assert_close(found[:, 1], torch.tensor([0.5 - 2.0, 0.0]))
    torch.testing.assert_close(found[:, 2], torch.distributions.Categorical(p).entropy())
