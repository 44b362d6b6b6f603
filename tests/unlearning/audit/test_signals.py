import dataclasses

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp  # type: ignore[import-untyped]  # scipy ships no type information
from sklearn.metrics import roc_auc_score

from tests.unlearning.audit.conftest import OBJECTIVE, World
from tests.unlearning.kinds import KINDS, OBJECTIVES, samples
from unlearning.audit.intervals import Interval
from unlearning.audit.signals import (
    ATTACKS,
    Signals,
    audit_copy,
    merit_of,
    observe,
    observe_all,
    signals,
    signals_of_probabilities,
)
from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective, regression
from unlearning.data.objectives.objective import Forward, fitted
from unlearning.data.samples import SampleSet
from unlearning.training.loop import fresh

EXTREMES = np.array(
    [[0.0, 0.0, 0.0], [5.0, -2.0, 1.0], [60.0, 0.0, -3.0], [800.0, -800.0, 0.0], [-40.0, 40.0, 39.0], [1e-9, 0.0, 0.0]]
)


@pytest.mark.parametrize("target", [0, 1, 2])
def test_every_signal_agrees_with_two_hundred_digits(target: int) -> None:
    found = signals(EXTREMES, np.full(len(EXTREMES), target))
    with mpmath.workdps(800):
        for row, logits in enumerate(EXTREMES):
            powers = [mpmath.exp(z) for z in logits]
            p = [e / sum(powers) for e in powers]
            rest = sum(e for k, e in enumerate(powers) if k != target)
            expected = {
                "loss": -mpmath.log(p[target]),
                "confidence": p[target],
                "margin": logits[target] - mpmath.log(rest),
                "entropy": -sum(q * mpmath.log(q) for q in p),
                # Song and Mittal 2021, equation 8.
                "modified_entropy": -(1 - p[target]) * mpmath.log(p[target])
                - sum(q * mpmath.log(1 - q) for k, q in enumerate(p) if k != target),
            }
            for name, value in expected.items():
                sign = 1 if name in ("confidence", "margin") else -1
                assert sign * found.membership(name)[row] == pytest.approx(float(value), rel=1e-9, abs=1e-15), name


def test_modified_entropy_is_not_entropy_and_knows_the_label() -> None:
    logits = np.array([[4.0, 0.0, 0.0]] * 2)
    found = signals(logits, np.array([0, 1]))
    assert found.more["entropy"][0] == found.more["entropy"][1]
    assert found.more["modified_entropy"][1] > 10 * found.more["modified_entropy"][0]


def test_members_score_higher_in_every_attack() -> None:
    """A popular LOSS attack has its sign turned and finds 0.145 for 0.855."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 5, 400)
    logits = rng.normal(size=(400, 5))
    logits[np.arange(200), targets[:200]] += 3.0
    found = signals(logits, targets)
    for name in ATTACKS:
        assert roc_auc_score(np.arange(400) < 200, found.membership(name)) > 0.7, name


def test_logits_that_are_no_numbers_are_reported_and_make_no_more() -> None:
    found = signals(np.array([[np.nan, 0.0], [np.inf, 1.0], [0.0, 1.0]]), np.array([0, 1, 1]))
    assert not found.finite
    assert all(np.isfinite(found.membership(name)).all() for name in ATTACKS)


@pytest.mark.parametrize("kind", [*OBJECTIVES, "classification"])
def test_signals_of_many_batches_are_those_of_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set is larger than memory: no more than a batch's outputs are held."""
    given = KINDS["attention"] if kind == "classification" else OBJECTIVES[kind]
    asked = samples(given, 150, name="asked", seed=1)
    objective = fitted(given.objective, asked.targets)
    model = audit_copy(fresh(given.build, seed=1), asked)
    parts = observe(model, asked, objective=objective, probabilities=True)
    monkeypatch.setattr("unlearning.hardware._CPU_BATCH", 150)
    whole = observe(model, asked, objective=objective, probabilities=True)

    for field in dataclasses.fields(Signals):
        found, wanted = getattr(parts, field.name), getattr(whole, field.name)
        if isinstance(wanted, np.ndarray):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        elif isinstance(wanted, dict):
            assert found.keys() == wanted.keys()
            assert all(np.allclose(found[name], wanted[name], atol=1e-5) for name in wanted)
        else:
            assert found == (wanted if not isinstance(wanted, float) else pytest.approx(wanted, rel=1e-5))


def test_class_logits_are_read_a_part_at_a_time_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(300, 7)), rng.integers(0, 7, 300)
    whole, p = signals(logits, targets), torch.from_numpy(logits).softmax(1)
    of_p = signals_of_probabilities(p, targets)
    monkeypatch.setattr("unlearning.audit.signals._AT_ONCE", 70)
    parts, of_parts_of_p = signals(logits, targets), signals_of_probabilities(p, targets)

    for one, other in ((whole, parts), (of_p, of_parts_of_p)):
        assert (one.chance, one.chance_loss) == (other.chance, other.chance_loss)
        for name in ATTACKS:
            assert np.array_equal(one.membership(name), other.membership(name)), name
    assert np.array_equal(whole.probabilities, parts.probabilities)
    np.testing.assert_allclose(of_p.loss, whole.loss, rtol=1e-9, atol=1e-12)


def test_what_nobody_compares_is_not_kept(world: World) -> None:
    model = audit_copy(world.models["original"], world.sets["forget"])
    found = observe_all(model, world.sets, objective=OBJECTIVE, batch_size=300, readers={})

    assert {name for name, one in found.items() if one.predicted is not None} == {"forget", "held_out"}


def test_the_loss_is_the_objective_s(world: World) -> None:
    samples = world.sets["held_out"]
    found = observe(audit_copy(world.models["original"], samples), samples, objective=OBJECTIVE, batch_size=300)
    with torch.no_grad():
        expected = OBJECTIVE.losses(world.models["original"], samples.batch)
    # float32 logits, added up in another layout
    assert np.allclose(found.loss, expected.double().numpy(), rtol=1e-3, atol=1e-4)


def test_losses_alone_are_attacked_and_compared_with_other_samples_targets(world: World) -> None:
    samples = world.sets["held_out"]
    sizes = []

    def losses(model: Forward, batch: Batch) -> torch.Tensor:
        sizes.append(batch.size)
        return OBJECTIVE.losses(model, batch)

    objective = Objective(losses=losses)
    found = observe(audit_copy(world.models["original"], samples), samples, objective=objective, batch_size=30)
    assert max(sizes) == 30
    assert sum(sizes) == 2 * len(samples)
    usual = observe(audit_copy(world.models["original"], samples), samples, objective=OBJECTIVE)
    assert found.attacks == ("loss",)
    assert np.allclose(found.loss, usual.loss, rtol=1e-3, atol=1e-4)
    assert np.array_equal(found.margin, -found.loss)
    assert found.chance_loss > 3 * found.loss.mean()
    assert found.chance == pytest.approx(-100 * found.chance_loss)
    assert found.mean_merit == pytest.approx(-found.loss.mean())


def test_a_merits_interval_is_students_and_stays_within_its_bounds() -> None:
    objective = fitted(regression(), torch.arange(40.0)[:, None])
    targets = torch.arange(40.0)[:, None]
    samples = SampleSet(
        ids=tuple(map(str, range(40))), inputs=targets + torch.randn(40, 1).clamp(-2, 2), targets=targets
    )
    found = merit_of(observe(torch.nn.Identity(), samples, objective=objective))
    merits = 1 - ((samples.inputs - targets) ** 2 / targets.var(correction=0)).numpy()
    wanted = ttest_1samp(merits[:, 0], 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-6)
    far = dataclasses.replace(samples, inputs=targets + 1000)
    assert merit_of(observe(torch.nn.Identity(), far, objective=objective)) == Interval(-1.0, -1.0, -1.0)
    one = observe(torch.nn.Identity(), samples.take(torch.arange(1)), objective=objective)
    assert (merit_of(one).low, merit_of(one).high) == (-1.0, 1.0)
