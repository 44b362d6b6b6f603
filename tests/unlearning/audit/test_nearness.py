"""Nearness: whose answers a model's are nearer to, on made-up signals whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from unlearning.audit.intervals import Floats
from unlearning.audit.nearness import Nearness, nearness
from unlearning.audit.reference_test import ReferenceSignals
from unlearning.audit.verdict import nearness_findings
from unlearning.specs.audit import Thresholds


def unseen(count: int, rng: np.random.Generator) -> ReferenceSignals:
    """Signals of a model that never saw the samples: as the references', with noise of its own."""
    reference = rng.normal(2.0, 2.0, count)
    return ReferenceSignals(model=reference + rng.normal(0, 1, count), unseen=reference, seen=reference + 4)


def near(count: int, share: float, rng: np.random.Generator) -> Nearness:
    """Compare a model that is `share` of the way from one that never saw the samples to the original."""
    forget, held_out = unseen(count, rng), unseen(500, rng)
    original: Floats = forget.seen + rng.normal(0, 1, count)
    forget = replace(forget, model=(1 - share) * forget.model + share * original)
    return nearness(forget=forget, original=original, held_out=held_out, thresholds=Thresholds())


@pytest.mark.parametrize("count", [1, 10, 100])
def test_the_original_is_nearest_to_itself(count: int) -> None:
    rng = np.random.default_rng(0)
    found = [near(count, 1.0, rng) for _ in range(20)]
    assert all(one.to_original and one.value == pytest.approx(one.original) for one in found)
    assert all(finding.passed is None for one in found for finding in nearness_findings(one))


@pytest.mark.parametrize("count", [1, 3, 10, 100])
def test_a_model_that_never_saw_the_samples_is_rarely_called_near_to_the_original(count: int) -> None:
    rng = np.random.default_rng(0)
    found = [near(count, 0.0, rng) for _ in range(60)]
    assert np.mean([one.to_original for one in found]) <= 0.12
    assert np.mean([one.value for one in found]) == pytest.approx(np.mean([one.unseen for one in found]), abs=0.4)
    if count >= 10:
        assert np.mean([one.p_value <= 0.05 for one in found]) > 0.9


def test_a_model_half_way_is_neither() -> None:
    rng = np.random.default_rng(0)
    found = [near(10, 0.5, rng) for _ in range(100)]
    assert np.mean([one.p_value <= 0.05 for one in found]) < 0.2
    assert all(one.original < one.value < one.unseen for one in found)


def test_one_sample_cannot_show_more_than_a_coin() -> None:
    assert near(1, 0.0, np.random.default_rng(0)).p_value == 0.5


def test_being_nearer_to_the_original_leaves_the_verdict_open_and_without_references_there_is_no_finding() -> None:
    assert nearness_findings(None) == []
    (finding,) = nearness_findings(near(10, 1.0, np.random.default_rng(0)))
    assert (finding.code, finding.passed, finding.deciding) == ("nearer_to_retrained", None, True)
    (finding,) = nearness_findings(near(10, 0.0, np.random.default_rng(0)))
    assert (finding.passed, finding.deciding) == (True, True)
