import numpy as np
import pytest
import torch

from tests.unlearning.small import OBJECTIVE, plain, samples, task
from unlearning.audit.relearning import Curve, area, choose, mix, normalised, ratio, relearn_delay
from unlearning.data.samples import SampleSet
from unlearning.specs.audit import AuditSpec
from unlearning.task import run_to_completion
from unlearning.training.loop import fit


def labelled(targets: np.ndarray) -> SampleSet:
    n = len(targets)
    return SampleSet(ids=tuple(map(str, range(n))), inputs=torch.arange(n), targets=torch.tensor(targets))


def test_a_control_has_the_forget_set_s_size_and_class_mix() -> None:
    rng = np.random.default_rng(0)
    forget, held_out = rng.choice(4, 120, p=[0.4, 0.3, 0.2, 0.1]), rng.choice(4, 800)
    sizes = mix(forget, held_out, most=256)
    chosen = choose(labelled(held_out), sizes, rng)
    assert sorted(chosen.targets.tolist()) == sorted(forget.tolist())
    assert len(set(chosen.inputs.tolist())) == 120


def test_a_control_takes_at_most_half_of_a_class_and_no_more_than_asked() -> None:
    forget, held_out = np.repeat([0, 1], [300, 300]), np.repeat([0, 1, 2], [50, 500, 100])
    assert mix(forget, held_out, most=10_000) == {0: 25, 1: 250}
    assert mix(forget, held_out, most=100) == {0: 25, 1: 50}


def test_a_class_that_nobody_held_out_is_left_out() -> None:
    assert mix(np.array([0, 7, 7]), np.zeros(40, dtype=np.int64), most=256) == {0: 1}


def test_the_ratio_s_interval_covers_a_set_never_learned_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(600):
        delays = np.exp(rng.normal(3.4, 0.3, 7)).round().astype(int)
        hits += ratio([delays[0]], delays[1:].tolist(), share=0.0, confidence=0.9).within(0, np.inf) and bool(
            (lambda r: r.low <= 1 <= r.high)(ratio([delays[0]], delays[1:].tolist(), share=0.0, confidence=0.9))
        )
    assert 0.86 < hits / 600 < 0.95


def test_controls_from_one_pool_are_corrected_for_their_overlap() -> None:
    alone = ratio([20], [15, 20, 25, 22], share=0.0, confidence=0.9)
    overlapping = ratio([20], [15, 20, 25, 22], share=0.5, confidence=0.9)
    assert overlapping.high > alone.high
    assert overlapping.value == alone.value


def test_controls_that_agree_exactly_still_leave_the_graininess_of_a_step() -> None:
    found = ratio([10], [10, 10, 10, 10], share=0.3, confidence=0.9)
    assert found.low < 1 < found.high


def test_a_delay_of_zero_is_far_below_any_control() -> None:
    assert ratio([0], [20, 25, 22, 30, 18, 24], share=0.3, confidence=0.9).high < 0.1


def test_the_normalised_delay_is_zero_for_the_original_and_one_for_the_retrained_model() -> None:
    assert normalised(original=0, unlearned=0, reference=30) == 0
    assert normalised(original=0, unlearned=30, reference=30) == 1
    assert normalised(original=5, unlearned=9, reference=5) is None


def curve(*losses: float) -> Curve:
    return Curve(losses=losses, delay=len(losses) - 1, censored=False, travelled=0.0, diverged=False)


def test_the_area_is_the_mean_difference_over_the_steps_that_both_have() -> None:
    assert area(curve(1.0, 0.5, 0.0), curve(2.0, 1.0, 0.75, 0.5)) == pytest.approx((1.0 + 0.5 + 0.75) / 3)
    assert area(curve(1.0, 0.5), curve(1.0, 0.5)) == 0


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_original_has_no_delay_and_the_retrained_model_is_its_own_measure(kind: str) -> None:
    """The sanity checks of the normalisations: T(θ_o) = 0, and every ratio to the retrained model is 1, every area 0, for it."""
    given = task(plain)
    retrained = fit(given.build, given.remain, given.recipe, objective=OBJECTIVE, seed=1)
    spec = AuditSpec(relearn_controls=3, relearn_delta=0.3)
    found = {}
    for name, model in {"original": given.model, "retrained": retrained}.items():
        steps = relearn_delay(
            original=given.model, unlearned=model, reference=retrained, forget=given.forget, held_out=samples(80, seed=21),
            objective=OBJECTIVE, spec=spec, kind=kind, seed=0,
        )  # fmt: skip
        found[name] = run_to_completion(steps)

    original, oracle = found["original"], found["retrained"]
    assert original.unlearned[0].delay == original.original.delay == 0
    assert (original.normalised, original.reference_ratio, original.area) == (0, 0, 0)
    assert oracle.unlearned[0].delay > 0
    assert (oracle.normalised, oracle.reference_ratio, oracle.reference_area) == (1, 1, 0)
    assert oracle.area > 0
    assert original.reference_area < 0
    assert oracle.unlearned[0].travelled > original.unlearned[0].travelled == 0
    assert len(oracle.reference.losses) > spec.relearn_steps
