"""Tier 2 as a whole, on a model whose members are known: the original, which remembers, and one that never saw them."""

import dataclasses
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from tests.unlearning.small import OBJECTIVE, samples
from unlearning.audit.attacks.findings import ReferenceFindings, audit_with_references, scores_of
from unlearning.audit.attacks.lira import lira
from unlearning.audit.attacks.study import Study, known_to, make_study, run_shadows
from unlearning.data.objectives import Objective, regression
from unlearning.data.objectives.objective import fitted
from unlearning.data.samples import SampleSet, joined, partition
from unlearning.errors import InvalidSpec
from unlearning.specs import FineTune
from unlearning.specs.audit import AuditSpec, ReferenceSpec
from unlearning.specs.training import Recipe
from unlearning.steps import run_to_completion
from unlearning.task import Task
from unlearning.training.loop import fit

SPEC = ReferenceSpec(shadows=12, repeats=4, audit=AuditSpec(replicates=100))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("references")


@pytest.fixture(scope="module")
def found(small_study: Study, folder: Path) -> ReferenceFindings:
    given = small_study.task
    retrained = fit(given.build, given.remain, given.recipe, objective=OBJECTIVE, seed=99)
    return run_to_completion(audit_with_references(small_study, unlearned=retrained, spec=SPEC, folder=folder))


def test_the_original_is_seen_through_and_a_retrained_model_is_not(found: ReferenceFindings) -> None:
    """24 members of a network that remembers noise, and 24 others: the negative control far from chance, the positive one not."""
    for name in ("lira", "rmia", "rmia_offline"):
        assert found.original[name].auc.value > 0.8
        assert found.unlearned[name].auc.value < found.original[name].auc.value - 0.15


def test_every_figure_is_there_and_plain(found: ReferenceFindings) -> None:
    plain = asdict(found)

    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert set(found.unlearned) == {"lira", "u_lira", "rmia", "rmia_offline"}
    assert set(found.original) == {"lira", "rmia", "rmia_offline"}
    assert (found.shadows, found.repeats, found.samples) == (12, 4, {"forget": 24, "held_out": 24})
    assert found.klom is not None
    assert found.klom.mean <= found.klom.p95
    assert found.forgetting is not None
    assert 0 <= found.forgetting.quality <= 1


def number(inputs: Tensor) -> Tensor:
    """What a sample's number would be without the noise that a network can only learn by heart."""
    return inputs[:, :1]


def noisy(part: SampleSet, *, seed: int) -> SampleSet:
    noise = torch.randn(len(part), 1, generator=torch.Generator().manual_seed(seed))
    return dataclasses.replace(part, targets=number(part.inputs) + 2 * noise)


def one_output() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 1))


NUMBERS = 5**0.5 * torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
REGRESSION = fitted(regression(), NUMBERS)
LOSSES = Objective(losses=REGRESSION.losses)


@pytest.mark.parametrize(
    "objective",
    [pytest.param(REGRESSION, id="regression"), pytest.param(LOSSES, id="losses alone", marks=pytest.mark.slow)],
)
def test_without_classes_each_sample_is_judged_by_its_loss(objective: Objective, tmp_path: Path) -> None:
    train = noisy(samples(120, seed=1), seed=2)
    forget, remain = partition(train, (24, 96), seed=0)
    recipe = Recipe(epochs=30, batch_size=16, learning_rate=0.1, precision="float32")
    given = Task(
        model=fit(one_output, train, recipe, objective=objective, seed=0),
        build=one_output,
        objective=objective,
        recipe=recipe,
        forget=forget,
        remain=remain,
        guide=noisy(samples(10, seed=11), seed=3),
        criterion=noisy(samples(10, seed=12), seed=4),
    )
    studied = make_study(FineTune(epochs=1), given, noisy(samples(60, seed=13), seed=5), seed=7)
    retrained = fit(one_output, remain, recipe, objective=objective, seed=99)
    spec = ReferenceSpec(shadows=6, repeats=4, audit=AuditSpec(replicates=100))
    found = run_to_completion(audit_with_references(studied, unlearned=retrained, spec=spec, folder=tmp_path))

    for name in ("lira", "rmia", "rmia_offline"):
        assert found.original[name].auc.value > 0.8
        assert found.unlearned[name].auc.value < found.original[name].auc.value - 0.15
    assert found.klom is not None
    assert json.loads(json.dumps(asdict(found), allow_nan=False)) == asdict(found)

    shown = run_to_completion(run_shadows(studied, count=6, folder=tmp_path))
    seen = joined(studied.pool, studied.population)
    with torch.no_grad():
        squares = (given.model(seen.inputs) - seen.targets).double().pow(2).mean(1).numpy()
    target, truth = known_to(given.model, seen, objective), np.arange(48) < 24
    np.testing.assert_allclose(target.likelihoods, np.exp(-squares / (2 * NUMBERS.numpy().var())), rtol=1e-4)
    wanted = lira(target.margins[:48], shown.before[:, :48], shown.members)
    assert found.original["lira"].auc.value == pytest.approx(roc_auc_score(truth, wanted))


def test_rates_at_few_false_positives_are_not_stated_of_few_samples(found: ReferenceFindings) -> None:
    assert found.unlearned["u_lira"].tpr_at_1_fpr is None
    assert found.unlearned["u_lira"].tpr_at_01_fpr is None


def test_the_auc_is_scikit_learns(small_study: Study, folder: Path, found: ReferenceFindings) -> None:
    shown = run_to_completion(run_shadows(small_study, count=SPEC.shadows, folder=folder))
    seen = joined(small_study.pool, small_study.population)
    target = known_to(small_study.task.model, seen, OBJECTIVE)
    truth = np.arange(48) < 24

    assert found.original["lira"].auc.value == pytest.approx(
        roc_auc_score(truth, lira(target.margins[:48], shown.before[:, :48], shown.members))
    )
    for name, scores in scores_of(target, shown, spec=SPEC).items():
        assert found.original[name].auc.value == pytest.approx(roc_auc_score(truth, scores))


def test_without_repeats_the_two_distances_are_left_out(small_study: Study, tmp_path: Path) -> None:
    spec = ReferenceSpec(shadows=4, repeats=0, audit=AuditSpec(replicates=100))
    found = run_to_completion(
        audit_with_references(small_study, unlearned=small_study.task.model, spec=spec, folder=tmp_path)
    )

    assert found.klom is None
    assert found.forgetting is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("shadows", 5), ("shadows", 2), ("repeats", 2), ("repeats", 5), ("gamma", 0.5), ("offline_a", 1.5)],
)
def test_a_study_too_small_or_uneven_is_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidSpec, match=name):
        ReferenceSpec(**{name: value})
