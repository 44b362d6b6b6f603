"""Guide attacks: different from each other, better than chance, frozen, differentiable."""

import copy
import dataclasses
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from tests.unlearning.small import CLASSES, OBJECTIVE, RECIPE, plain, same, samples, state, task
from unlearning.data.objectives import answers
from unlearning.data.objectives.prediction import (
    labelled_logits,
    loss_margin_entropy,
    sorted_log_probabilities,
)
from unlearning.data.references import ReferencePredictions
from unlearning.data.samples import SampleSet
from unlearning.data.stored import StoredSet
from unlearning.errors import MethodRefused
from unlearning.methods.ltu import guide_attacks
from unlearning.methods.ltu.guide_attacks import (
    GuideAttack,
    non_member_signal,
    train_guide_attacks,
)
from unlearning.methods.registry import unlearn
from unlearning.specs import LTU
from unlearning.state import State
from unlearning.task import Task
from unlearning.training.loop import fit
from unlearning.training.references import sample_signals


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


def test_training_them_touches_neither_the_model_nor_the_random_state_and_the_same_seed_gives_the_same(
    given: Task, attacks: tuple[GuideAttack, ...]
) -> None:
    before, random_state = state(given.model), torch.get_rng_state()
    again = train_guide_attacks(given, given.remain, count=2)

    assert same(state(given.model), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(same(state(a.head), state(b.head)) for a, b in zip(again, attacks[:2], strict=True))


@pytest.fixture(scope="module")
def unseeing() -> nn.Module:
    """A model that saw none of the task's samples."""
    return fit(plain, samples(120, seed=77), RECIPE, objective=OBJECTIVE, seed=1)


def paired(given: Task, unseeing: nn.Module) -> Task:
    """The task with what that model says of the samples, as references keep it."""

    def of(others: SampleSet) -> ReferencePredictions:
        _, predictions, losses = sample_signals(unseeing, others, given.objective)
        return ReferencePredictions(predictions=predictions.half().float(), losses=losses)

    return dataclasses.replace(given, references=dataclasses.replace(of(given.forget), others=of), state=State())


def test_learnt_from_pairs_they_do_not_take_another_population_for_one_that_was_not_seen(
    given: Task, unseeing: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All held-out samples are of class 0, so an attack on populations learns that class 0 means never seen."""
    monkeypatch.setattr(guide_attacks, "_BEATS_CHANCE", 0.0)
    zeros = (given.guide.targets == 0).nonzero().flatten()
    one_sided = dataclasses.replace(paired(given, unseeing), guide=given.guide.take(zeros), state=State())
    of_class = given.forget.targets == 0

    def taken_for_unseen(guide: Literal["populations", "pairs"]) -> float:
        """How much more the attack takes class 0 for not seen than the others; the model saw all of them."""
        _, attack = train_guide_attacks(one_sided, given.remain, count=2, guide=guide)
        assert attack.features is labelled_logits
        with torch.no_grad():
            logits = attack.member_logit(given.model(given.forget.inputs), given.forget.targets)
        return float(logits[~of_class].mean() - logits[of_class].mean())

    assert taken_for_unseen("populations") > 2 > taken_for_unseen("pairs")


def test_without_outputs_the_pairs_are_of_losses(given: Task, unseeing: nn.Module) -> None:
    made = paired(given, unseeing)
    made.objective = dataclasses.replace(OBJECTIVE, logits=None, classes=None)

    (attack,) = train_guide_attacks(made, given.remain, count=1, guide="pairs")

    known, unknown = attack.member_logit(torch.tensor([[0.01], [3.0]]), torch.zeros(2))
    assert known > 0 > unknown


def test_held_out_samples_say_whether_attacks_from_pairs_beat_chance(given: Task, unseeing: nn.Module) -> None:
    """A model that knows nothing says the same of what it saw and of what it did not, whatever the references say."""
    forgetful = dataclasses.replace(paired(given, unseeing), model=Blank(), state=State())

    assert train_guide_attacks(forgetful, given.remain, count=1, guide="pairs") == ()


def test_without_rows_of_remaining_samples_they_learn_as_without_references(given: Task, unseeing: nn.Module) -> None:
    made = paired(given, unseeing)
    assert made.references is not None
    made.references = dataclasses.replace(made.references, others=None)

    (one,), (other,) = (train_guide_attacks(each, given.remain, count=1, guide="pairs") for each in (made, given))

    assert same(state(one.head), state(other.head))


def test_a_remaining_set_that_is_read_gives_the_same_pairs(given: Task, unseeing: nn.Module) -> None:
    made, remain = paired(given, unseeing), given.remain
    items = [tuple(remain.batch.take(number)) for number in range(len(remain))]
    read = StoredSet.of(items, ids=remain.ids, training=items)

    (one,), (other,) = (train_guide_attacks(made, each, count=1, guide="pairs") for each in (read, remain))

    assert same(state(one.head), state(other.head))


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
