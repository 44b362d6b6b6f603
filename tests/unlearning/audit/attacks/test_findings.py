"""Tier 2 as a whole, on a model whose members are known: the original, which remembers, and one that never saw them."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.unlearning.small import OBJECTIVE
from unlearning.audit.attacks.findings import ReferenceFindings, audit_with_references, scores_of
from unlearning.audit.attacks.lira import lira
from unlearning.audit.attacks.shadows import run_shadows
from unlearning.audit.attacks.study import Study, margins
from unlearning.data.samples import joined
from unlearning.errors import InvalidSpec
from unlearning.specs.audit import AuditSpec, ReferenceSpec
from unlearning.task import run_to_completion
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


def test_rates_at_few_false_positives_are_not_stated_of_few_samples(found: ReferenceFindings) -> None:
    assert found.unlearned["u_lira"].tpr_at_1_fpr is None
    assert found.unlearned["u_lira"].tpr_at_01_fpr is None


def test_the_auc_is_scikit_learns(small_study: Study, folder: Path, found: ReferenceFindings) -> None:
    shown = run_to_completion(run_shadows(small_study, count=12, folder=folder))
    seen = joined(small_study.pool, small_study.population)
    target = margins(small_study.task.model, seen, OBJECTIVE)
    truth = np.arange(48) < 24

    assert found.original["lira"].auc.value == pytest.approx(
        roc_auc_score(truth, lira(target[:48], shown.before[:, :48], shown.members))
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
