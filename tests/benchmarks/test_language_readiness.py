"""What a preparation gains is counted on equal terms: whom a request names, perplexities, an ascent's last step, delays."""

import copy
import functools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from benchmarks import language_readiness as readiness
from benchmarks.cases import Case, Trained, case
from examples import authors
from tests.benchmarks.test_language import bigrams, losses_by_hand
from tests.fixtures.authors import changed_authors
from unlearning.audit.relearning import mean_loss
from unlearning.data.samples import SampleSet
from unlearning.gradients import flat_gradient, trainable
from unlearning.training.readiness import revocable_split


@pytest.fixture
def one() -> Iterator[Case]:
    """A case with tables in place of trained models."""
    with changed_authors(AUTHORS=40):
        made = case("authors", 1)
        made.__dict__["retrained"] = Trained(model=bigrams(1), seconds=1.0)
        yield made


@pytest.mark.parametrize("kind", readiness.KINDS)
def test_each_preparation_is_measured_on_a_tenth_of_what_it_prepares_for(
    kind: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPUNGE_BENCH", str(tmp_path_factory.mktemp("bench")))
    monkeypatch.setattr(readiness, "MAX_STEPS", 2)
    monkeypatch.setattr(readiness, "PREPARATIONS", {"ready2unlearn": authors.READINESS})
    made: list[Case] = []

    def noted(*given: object, **more: object) -> Case:
        made.append(case(*given, **more))  # type: ignore[arg-type]  # as the benchmark calls it
        return made[0]

    monkeypatch.setattr(readiness, "case", noted)
    with changed_authors(AUTHORS=40, EPOCHS=1, GPT=functools.partial(authors.GPT, 16, layers=1)):
        found = readiness.compared(kind, 1)

    assert found.keys() == {"retrain", "plain", "ready2unlearn"}
    assert found["plain"].keys() == found["ready2unlearn"].keys() == readiness.UNITS.keys()
    assert found["retrain"].keys() < readiness.UNITS.keys()
    assert all(math.isfinite(value) for figures in found.values() for value in figures.values())
    assert found["plain"]["training_ratio"] == 1
    assert {row.method for row in readiness.rows({f"{name}, {kind}": [one] for name, one in found.items()})} == {
        f"{name}, {kind}" for name in found
    }

    unit = readiness.KINDS[kind]
    split = revocable_split(made[0].workload.train, share=0.5, seed=1, unit=unit)
    train, gone = (
        set((samples.subjects if unit == "subject" else samples.ids) or ())
        for samples in (made[0].workload.train, made[0].forget)
    )
    assert set(made[0].forget.ids) <= set(split.revocable.ids)
    assert len(gone) == round(readiness.SHARE * len(train))
    if unit == "subject":
        assert not gone & set(made[0].remain.subjects or ())


def test_perplexities_are_those_by_hand_and_the_ascent_leaves_the_given_model_as_it_is(one: Case) -> None:
    """The calibrated one is of the temperature at which the held-out texts are most likely."""
    model = bigrams(0)
    before = copy.deepcopy(model.state_dict())
    aim = mean_loss(model, one.forget.batch, one.workload.objective) + 0.001
    found = readiness.measured(one, model, aim=aim)

    def perplexity(temperature: float, part: str) -> float:
        scaled = bigrams(0)
        with torch.no_grad():
            scaled.get_parameter("table").div_(temperature)
        samples = one.remain if part == "remain" else getattr(one.workload, part)
        return math.exp(sum(losses := losses_by_hand(scaled, samples)) / len(losses))

    best = min(readiness.TEMPERATURES, key=lambda temperature: perplexity(temperature, "held_out"))
    assert found["perplexity_remain"] == pytest.approx(perplexity(1, "remain"), rel=1e-5)
    assert found["perplexity_test"] == pytest.approx(perplexity(1, "test"), rel=1e-5)
    assert best > 1
    assert found["perplexity_calibrated"] == pytest.approx(perplexity(best, "test"), rel=1e-5)
    assert found["steps"] >= 1
    assert 0 < abs(found["perplexity_lost_test"]) < 1
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_delay_is_of_training_on_the_forget_set_and_the_one_of_similar_texts_on_the_remaining_set(
    one: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays = {one.forget.ids: 3, one.remain.ids: 5}

    def delay(one: Case, model: nn.Module, texts: SampleSet, **more: object) -> int:
        return delays[texts.ids]

    monkeypatch.setattr(readiness, "delay", delay)
    found = readiness.measured(one, bigrams(0), aim=0.0)
    assert (found["relearn_delay"], found["relearn_delay_similar"]) == (3, 5)


def test_the_last_step_of_an_ascent_ends_at_the_aim_and_no_other_is_shortened(one: Case) -> None:
    objective, rate, models = one.workload.objective, 1.0, [bigrams(0) for _ in range(2)]
    start = models[0].get_parameter("table").detach().clone()
    gradient = flat_gradient(objective.losses(models[0], one.forget.batch).mean(), trainable(models[0]))

    def ascended(model: nn.Module, aim: float) -> float:
        readiness.ascent_step(one, model, gradient, rate=rate, aim=aim)
        return mean_loss(model, one.forget.batch, objective)

    known = mean_loss(models[0], one.forget.batch, objective)
    whole = ascended(models[0], known + 100) - known
    torch.testing.assert_close(models[0].get_parameter("table").detach(), start + rate * gradient.view_as(start))
    assert 0 <= ascended(models[1], known + whole / 3) - (known + whole / 3) < 0.01 * whole


def test_a_delay_is_the_number_of_steps_of_plain_sgd_until_the_forget_set_is_known(
    one: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "RELEARNING_RATE", 1.0)
    objective, learner = one.workload.objective, bigrams(0)
    target = mean_loss(learner, one.forget.batch, objective) - 0.1
    optimiser, generator, steps = torch.optim.SGD(learner.parameters(), lr=1.0), torch.Generator().manual_seed(1), 0
    while sum(losses := losses_by_hand(learner, one.forget)) / len(losses) > target:
        optimiser.zero_grad()
        objective.losses(learner, one.remain.draw(readiness.BATCH, generator)).mean().backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        optimiser.step()
        steps += 1

    assert steps > 3
    assert readiness.delay(one, bigrams(0), one.remain, target=target) == steps
    assert readiness.delay(one, bigrams(0), one.remain, target=100.0) == 0
    monkeypatch.setattr(readiness, "MAX_STEPS", 2)
    assert readiness.delay(one, bigrams(0), one.remain, target=target) == 2
