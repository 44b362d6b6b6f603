from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.unlearning.data.test_references import key
from tests.unlearning.small import OBJECTIVE, flat, normalised, plain, task
from tests.unlearning.training.test_references import workload
from unlearning.data.batches import Batch
from unlearning.data.objectives import Answers, classification
from unlearning.data.references import References
from unlearning.data.samples import SampleSet, joined
from unlearning.errors import MethodRefused
from unlearning.methods.aims import ReferenceAims, RemainingLosses, matching_loss, reference_aims, remaining_losses
from unlearning.methods.registry import unlearn
from unlearning.specs import IEU, Matching
from unlearning.specs.references import ReferencePlan
from unlearning.state import State
from unlearning.steps import run_to_completion
from unlearning.task import Task
from unlearning.training.optimisation import Muon, batch_statistics
from unlearning.training.references import prepare_references


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    given = task(plain)
    folder: Path = tmp_path_factory.mktemp("references")
    plan = ReferencePlan(rounds=2, audit_rounds=1)
    return run_to_completion(
        prepare_references(workload(joined(given.forget, given.remain)), plan, seed=3, folder=folder, key=key)
    )


def given(references: References, *, forgotten: int = 24) -> Task:
    made = task(normalised, forgotten=forgotten)
    made.references = references.for_method([key(sample) for sample in made.forget.ids])
    return made


def of_class_1(made: Task, *, share: float = 1.0) -> Task:
    """Let a task forget a share of class 1 in place of its forget set."""
    train = joined(made.forget, made.remain)
    of_class = (train.targets == 1).nonzero().flatten()
    forgotten = of_class[: round(share * len(of_class))]
    stay = torch.ones(len(train), dtype=torch.bool).index_fill(0, forgotten, False)
    return replace(made, forget=train.take(forgotten), remain=train.take(stay.nonzero().flatten()), state=State())


def distance(made: Task) -> float:
    """Mean total variation between the model's predictions and the aims."""
    assert made.references is not None
    with torch.no_grad():
        p = made.model.eval()(made.forget.inputs).softmax(-1)
    return float((p - made.references.predictions.float()).abs().sum(-1).mean()) / 2


@pytest.mark.parametrize("forgotten", [1, 3, 24])
def test_the_predictions_come_to_lie_where_their_references_are(references: References, forgotten: int) -> None:
    made = given(references, forgotten=forgotten)
    before = distance(made)

    outcome = run_to_completion(unlearn(Matching(steps=120, learning_rate=0.1), made))

    assert outcome.stopped_because == "completed"
    assert distance(made) < 0.4 * before


def test_the_remaining_samples_stay_known(references: References) -> None:
    made = given(references)

    run_to_completion(unlearn(Matching(), made))

    with torch.no_grad():
        right = (made.model(made.remain.inputs).argmax(-1) == made.remain.targets).float().mean()
    assert float(right) > 0.95


@pytest.mark.parametrize("steps", [30, 60])
def test_running_statistics_are_those_of_the_remaining_samples(references: References, steps: int) -> None:
    """Also after so few steps that half of them would be too few to forget what was before."""
    made = given(references)
    far = [layer for layer in made.model.modules() if isinstance(layer, nn.BatchNorm1d)][-1]
    seen: list[torch.Tensor] = []
    far.running_mean += 10 * far.running_var.sqrt()
    far.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))

    run_to_completion(unlearn(Matching(steps=steps, passes=0.0), made))

    seen.clear()
    with torch.no_grad():
        made.model(made.remain.inputs)
    shift = (seen[0].mean(0) - far.running_mean) / far.running_var.sqrt()
    assert float(shift.abs().max()) < 1


@pytest.mark.parametrize(
    ("classifier", "batch_size", "forgotten", "remaining"),
    [(True, 36, 1, 80), (True, 36, 40, 45), (True, 8, 24, 16), (False, 36, 40, 36), (False, 36, 1, 36)],
)
def test_a_classifiers_step_has_a_quarter_more_remaining_samples_and_still_more_where_few_are_forgotten(
    references: References,
    monkeypatch: pytest.MonkeyPatch,
    classifier: bool,
    batch_size: int,
    forgotten: int,
    remaining: int,
) -> None:
    made = given(references, forgotten=forgotten)
    if not classifier:
        made.objective = replace(OBJECTIVE, logits=None, classes=None)
    drawn: list[int] = []
    draw = SampleSet.draw

    def watched(samples: SampleSet, size: int, generator: torch.Generator) -> Batch:
        drawn.append(size)
        return draw(samples, size, generator)

    monkeypatch.setattr(SampleSet, "draw", watched)
    run_to_completion(unlearn(Matching(steps=3, batch_size=batch_size, passes=0.0), made))

    assert drawn == [remaining] * 3


def test_a_classifiers_remaining_samples_keep_what_the_original_answers(references: References) -> None:
    """½ of their own loss and ½ T² KL(q^(1/T) ‖ p^(1/T)) at T = 3, also in the joint pass with forget samples."""
    made = given(references)
    aims, batch = reference_aims(made), made.remain.batch
    remaining = remaining_losses(made, aims)
    assert aims is not None
    with torch.no_grad():
        q = (made.model(batch.inputs) / 3).softmax(-1)
        for weights in made.model.parameters():
            weights.mul_(1.1)

    def expected(logits: torch.Tensor) -> torch.Tensor:
        kept = 9 * (q * (q.log() - (logits / 3).log_softmax(-1))).sum(-1)
        return (functional.cross_entropy(logits, batch.targets, reduction="none") + kept) / 2

    torch.testing.assert_close(remaining(made.model, batch), expected(made.model(batch.inputs)), atol=1e-4, rtol=1e-3)
    index = torch.arange(len(made.forget))
    found = matching_loss(made, aims, index, batch, remaining=remaining, weight=0.0)
    with batch_statistics(made.model, samples=len(index) + batch.size):
        together = made.model(torch.cat([made.forget.inputs, batch.inputs]))[len(index) :]
    torch.testing.assert_close(found, expected(together).mean(), atol=1e-4, rtol=1e-3)


def test_a_very_sure_model_is_where_it_should_be() -> None:
    """At T = 3 a least probability of 1e-12 would ask it to be less sure."""
    made = task(plain)
    with torch.no_grad():
        for weights in made.model.parameters():
            weights.mul_(4.0)
    aims = ReferenceAims(objective=made.objective, predictions=None, losses=torch.zeros(len(made.forget)))
    remaining, batch = remaining_losses(made, aims), made.remain.batch
    assert made.model(batch.inputs).softmax(-1).amin() < 1e-20

    kept = 2 * remaining(made.model, batch) - made.objective.losses(made.model, batch)

    torch.testing.assert_close(kept, torch.zeros(batch.size), atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("method", [Matching(), IEU()], ids=lambda spec: spec.kind)
def test_both_methods_compare_remaining_samples_with_the_original(
    references: References, monkeypatch: pytest.MonkeyPatch, method: Matching | IEU
) -> None:
    made = given(references)
    before = flat(made.model)
    originals: list[torch.Tensor] = []
    of_answers = RemainingLosses.of_answers

    def watched(remaining: RemainingLosses, found: Answers, batch: Batch) -> torch.Tensor:
        assert remaining.original is not None
        originals.append(flat(remaining.original))
        return of_answers(remaining, found, batch)

    monkeypatch.setattr(RemainingLosses, "of_answers", watched)
    run_to_completion(unlearn(replace(method, passes=0.0), made))

    assert originals
    assert all(torch.equal(one, before) for one in originals)


def test_of_a_class_that_is_forgotten_as_a_whole_only_its_own_remaining_samples_keep_it() -> None:
    made = of_class_1(task(plain))
    made.objective = replace(made.objective, losses=lambda forward, batch: 0.0 * forward(batch.inputs).sum(-1))
    aims = ReferenceAims(objective=made.objective, predictions=None, losses=torch.zeros(len(made.forget)))
    remaining, batch = remaining_losses(made, aims), made.remain.batch
    of_it = batch._replace(targets=torch.ones_like(batch.targets))

    def never(inputs: torch.Tensor) -> torch.Tensor:
        return made.model(inputs).index_fill(1, torch.tensor([1]), -1e4)

    with torch.no_grad():
        torch.testing.assert_close(remaining(never, batch), torch.zeros(batch.size), atol=1e-4, rtol=0.0)
        assert float(remaining(made.model, batch).mean()) > 0.1
        torch.testing.assert_close(remaining(made.model, of_it), torch.zeros(batch.size), atol=1e-4, rtol=0.0)
        assert float(remaining(never, of_it).mean()) > 0.1


def test_aims_are_as_sure_as_one_model(references: References) -> None:
    aims = reference_aims(given(references))
    assert aims is not None
    found, whole = aims.sharpened().predictions, aims.predictions
    assert found is not None
    assert whole is not None
    expected = whole.double() ** 1.1
    torch.testing.assert_close(found.double(), expected / expected.sum(-1, keepdim=True), atol=1e-5, rtol=1e-3)
    assert float(found.amax(-1).mean()) > float(whole.amax(-1).mean())


@pytest.mark.parametrize("without", ["aims", "logits", "plain outputs"])
def test_where_answers_cannot_be_compared_remaining_samples_keep_their_own_loss(
    references: References, without: str
) -> None:
    made = given(references)
    if without == "logits":
        made.objective = replace(OBJECTIVE, logits=None, classes=None)
    elif without == "plain outputs":
        made.objective = replace(OBJECTIVE, compared=lambda forward, inputs, aims: forward(inputs))
    aims, batch = None if without == "aims" else reference_aims(made), made.remain.batch
    remaining = remaining_losses(made, aims)

    assert remaining.original is None
    torch.testing.assert_close(remaining(made.model, batch), made.objective.losses(made.model, batch))


@pytest.mark.parametrize(("classifier", "held"), [(True, 0.7), (False, 0.5)])
def test_the_rate_of_a_classifiers_run_falls_later(
    references: References, monkeypatch: pytest.MonkeyPatch, classifier: bool, held: float
) -> None:
    made = given(references)
    if not classifier:
        made.objective = replace(OBJECTIVE, logits=None, classes=None)
    rates: list[float] = []
    step = Muon.step

    def watched(optimiser: Muon) -> None:
        rates.extend(group["lr"] for group in optimiser.param_groups)
        step(optimiser)

    monkeypatch.setattr(Muon, "step", watched)
    run_to_completion(unlearn(Matching(steps=40, passes=0.0, learning_rate=0.02), made))

    assert sum(rate == pytest.approx(0.02) for rate in rates) == held * 40 + 1
    assert rates[-1] == pytest.approx(0.02 / (40 * (1 - held)))


def test_without_references_it_is_refused_before_the_first_step() -> None:
    made = task()

    with pytest.raises(MethodRefused):
        next(unlearn(Matching(), made))


def test_references_of_other_samples_are_refused(references: References) -> None:
    made = given(references)
    made.references = references.for_method(references.keys)

    with pytest.raises(MethodRefused):
        next(unlearn(Matching(), made))


def test_an_objective_without_logits_matches_losses(references: References) -> None:
    import dataclasses

    made = given(references)
    made.objective = dataclasses.replace(OBJECTIVE, logits=None, classes=None)
    aims = made.references.losses  # type: ignore[union-attr]

    def gap() -> float:
        with torch.no_grad():
            return float((made.objective.losses(made.model.eval(), made.forget.batch) - aims).abs().mean())

    before = gap()
    run_to_completion(unlearn(Matching(steps=120), made))

    assert gap() < 0.5 * before


FIRST = torch.zeros(1, dtype=torch.int64)
"""The first sample, and the first class."""


def test_the_softened_divergence_sees_how_sure_a_very_sure_answer_is() -> None:
    aims = ReferenceAims(
        objective=classification(3), predictions=torch.tensor([[0.999, 0.0005, 0.0005]]), losses=torch.zeros(1)
    )
    logits = torch.tensor([[16.0, 0.0, 0.0]], requires_grad=True)  # far surer than its aim

    def slope(temperature: float) -> float:
        found = aims.divergences(Answers(torch.zeros(1), logits, FIRST), FIRST, temperature=temperature)
        (gradient,) = torch.autograd.grad(found.sum(), logits)
        return float(gradient[0, 0])

    assert 0 < 10 * slope(1.0) < slope(2.0)


def test_an_answer_like_its_aim_has_no_divergence_at_any_temperature() -> None:
    probabilities = torch.tensor([[0.7, 0.2, 0.1]])
    aims = ReferenceAims(objective=classification(3), predictions=probabilities, losses=torch.zeros(1))
    for temperature in (1.0, 2.0, 5.0):
        answers = Answers(torch.zeros(1), probabilities.log() + 3, FIRST)
        found = aims.divergences(answers, FIRST, temperature=temperature)
        assert float(found) == pytest.approx(0, abs=1e-5)


def test_with_references_ieu_comes_near_to_them_too(references: References) -> None:
    made = given(references)
    before = distance(made)

    run_to_completion(unlearn(IEU(), made))

    assert distance(made) < 0.5 * before


def test_a_forget_weight_is_how_far_the_loss_is_below_the_samples_own_reference(references: References) -> None:
    made = given(references)
    aims = reference_aims(made)
    assert aims is not None
    index = torch.tensor([3, 11, 7])

    found = aims.forget_weights(made.model.eval(), made.forget.select(index), index)

    with torch.no_grad():
        logits = made.model(made.forget.inputs[index])
    losses = functional.cross_entropy(logits, made.forget.targets[index], reduction="none")
    assert made.references is not None
    torch.testing.assert_close(found, ((made.references.losses[index] - losses) / 0.5).clamp(0, 1))
    assert float(found.max()) > 0


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_class_that_is_forgotten_as_a_whole_aims_at_what_models_without_it_say(
    references: References, share: float
) -> None:
    made = of_class_1(task(plain), share=share)
    made.references = references.for_method([key(sample) for sample in made.forget.ids])
    said = torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(2, 4)

    def aims_of(whole: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
        aims = reference_aims(replace(made, references=replace(made.references, whole=whole), state=State()))  # type: ignore[type-var]
        assert aims is not None
        assert aims.predictions is not None
        return aims.predictions

    without, found = aims_of(None), aims_of((torch.tensor([3, 5]), said))

    if share == 1.0:
        torch.testing.assert_close(found[[3, 5]], torch.tensor([[0.125, 0.0, 0.375, 0.5]] * 2), atol=1e-5, rtol=1e-5)
        others = [place for place in range(len(found)) if place not in (3, 5)]
        assert torch.equal(found[others], without[others])
    else:
        assert torch.equal(found, without)
