import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.unlearning import small
from tests.unlearning.audit.conftest import OBJECTIVE, World
from tests.unlearning.small import plain, samples, task
from unlearning.audit.controls import MANY, Difficulty, draw_by_class, overlap
from unlearning.audit.relearning import (
    Curve,
    OriginalLosses,
    RelearnCase,
    Relearner,
    Relearning,
    calibrate_relearner,
    delay_ratio,
    mean_loss,
    normalised_delay,
    relearn,
    relearn_delay,
    run_count,
)
from unlearning.audit.signals import audit_copy, observe
from unlearning.data.batches import Batch
from unlearning.data.objectives import Forward, Objective
from unlearning.data.samples import SampleSet
from unlearning.specs.audit import AuditSpec, Thresholds
from unlearning.steps import run_to_completion
from unlearning.training.loop import fit

SGD = Relearner(kind="sgd", learning_rate=0.1, target=0.01, limit=60, batch_size=8)


def squared(forward: Forward, batch: Batch) -> torch.Tensor:
    return (forward(batch.inputs) - batch.targets).pow(2).mean(dim=1) / 2


PARABOLA = Objective(losses=squared, scramble=lambda batch, _: batch)


def parabola(start: float) -> tuple[nn.Module, Batch]:
    """Loss w²/2 for a single weight w, so that a step of gradient descent multiplies w by 1 − rate."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, start)
    return model, Batch(torch.ones(8, 1), torch.zeros(8, 1))


@pytest.mark.parametrize(("start", "rate"), [(1.0, 0.1), (3.0, 0.02), (0.5, 0.5)])
def test_the_delay_on_a_parabola_is_the_closed_form(start: float, rate: float) -> None:
    model, batch = parabola(start)
    curve = relearn(
        model, batch, objective=PARABOLA, relearner=replace(SGD, learning_rate=rate, limit=300), seed=0, at_least=3
    )
    # w = start (1 − rate)^t, and w²/2 = 0.01 where w = √0.02
    expected = math.ceil(math.log(math.sqrt(0.02) / start) / math.log(1 - rate))
    assert (curve.delay, curve.censored) == (expected, False)
    assert curve.losses[3] == pytest.approx((start * (1 - rate) ** 3) ** 2 / 2, rel=1e-4)
    assert curve.travelled == pytest.approx(start - start * (1 - rate) ** expected, rel=1e-4)


def test_a_set_already_known_has_no_delay_and_may_still_be_drawn() -> None:
    model, batch = parabola(0.1)
    curve = relearn(model, batch, objective=PARABOLA, relearner=SGD, seed=0, at_least=12)
    assert (curve.delay, curve.censored, len(curve.losses)) == (0, False, 13)


def test_adam_on_a_parabola_takes_a_step_of_the_rate_at_first() -> None:
    """Adam's first steps are the rate in length, whatever the gradient; its delay is that of the same steps taken by torch."""
    model, batch = parabola(1.0)
    curve = relearn(model, batch, objective=PARABOLA, relearner=replace(SGD, kind="adam", limit=300), seed=0)
    weight = nn.Parameter(torch.tensor([[1.0]]))
    adam, expected = torch.optim.Adam([weight], lr=0.1), 0
    while float(weight.detach() ** 2 / 2) > 0.01:
        weight.grad = weight.detach().clone()
        adam.step()
        expected += 1
    assert (curve.delay, curve.censored) == (expected, False)
    assert curve.losses[1] == pytest.approx(0.9**2 / 2, rel=1e-4)


@pytest.mark.parametrize(("kind", "rate"), [("sgd", 0.01), ("sgd", 0.05), ("adam", 0.002)])
def test_a_look_at_every_fourth_step_finds_the_same_delay(world: World, kind: str, rate: float) -> None:
    batch = world.sets["held_out"].batch
    target = mean_loss(world.models["original"], batch, OBJECTIVE) / 2
    relearner = Relearner(kind=kind, learning_rate=rate, target=target, limit=60, batch_size=32)
    each, fourth = (
        relearn(world.models["original"], batch, objective=OBJECTIVE, relearner=relearner, seed=0, every=every)
        for every in (1, 4)
    )
    assert each.delay == fourth.delay > 4
    assert each.travelled == pytest.approx(fourth.travelled)
    assert dict(zip(fourth.steps, fourth.losses, strict=True)).items() <= dict(enumerate(each.losses)).items()
    assert len(fourth.losses) < len(each.losses)


def test_a_set_never_learned_in_time_is_censored_at_the_limit() -> None:
    model, batch = parabola(1.0)
    curve = relearn(model, batch, objective=PARABOLA, relearner=replace(SGD, limit=5), seed=0)
    assert (curve.delay, curve.censored, curve.diverged, len(curve.losses)) == (5, True, False, 6)
    assert curve.travelled == pytest.approx(1 - 0.9**5, rel=1e-4)


def test_a_run_that_leaves_the_finite_numbers_ends_there_and_says_so() -> None:
    model, batch = parabola(1.0)
    curve = relearn(model, batch, objective=PARABOLA, relearner=replace(SGD, learning_rate=1e9), seed=0)
    assert curve.diverged
    assert math.isfinite(curve.travelled)
    assert all(map(math.isfinite, curve.losses))


def test_the_audited_model_itself_is_never_fine_tuned(world: World) -> None:
    """A public relearn-time measure trains the model it was asked to measure."""
    model = world.models["retrained"].train()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    relearn(model, world.sets["forget"].batch, objective=OBJECTIVE, relearner=replace(SGD, limit=4), seed=0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    model.eval()


def test_frozen_parameters_are_not_relearned(world: World) -> None:
    model = copy.deepcopy(world.models["original"])
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    batch, relearner = world.sets["held_out"].batch, replace(SGD, learning_rate=0.05, limit=4)
    whole = relearn(model, batch, objective=OBJECTIVE, relearner=relearner, seed=0)
    layers[0].requires_grad_(False)
    part = relearn(model, batch, objective=OBJECTIVE, relearner=relearner, seed=0)

    assert 0 < part.travelled < whole.travelled


def case_of(
    world: World,
    unlearned: str,
    forget: SampleSet,
    held_out: SampleSet,
    *,
    spec: AuditSpec,
    difficulty: Difficulty | None,
) -> RelearnCase:
    model = audit_copy(world.models["original"], forget)
    losses = (observe(model, samples, objective=OBJECTIVE).loss for samples in (forget, held_out))
    return RelearnCase(
        models={"original": world.models["original"], "unlearned": world.models[unlearned]},
        forget=forget,
        held_out=held_out,
        known=OriginalLosses(**dict(zip(("forget", "held_out"), losses, strict=True))),
        objective=OBJECTIVE,
        spec=spec,
        seed=0,
        difficulty=difficulty,
    )


@pytest.mark.parametrize("known", [False, True])
def test_a_forget_set_of_whose_classes_no_held_out_sample_is_has_controls_only_by_difficulty(
    world: World, known: bool
) -> None:
    """All classes but the forget set's are held out."""
    forget, held_out = world.sets["forget"], world.sets["held_out"]
    forget = forget.take((forget.targets == 3).nonzero().flatten())
    held_out = held_out.take((held_out.targets != 3).nonzero().flatten())
    difficulty = Difficulty(forget=np.zeros(len(forget)), held_out=np.zeros(len(held_out))) if known else None
    spec = AuditSpec(relearn_steps=8, relearn_controls=3, thresholds=Thresholds(relearn_least=1))
    given = case_of(world, "retrained", forget, held_out, spec=spec, difficulty=difficulty)
    found = run_to_completion(relearn_delay(given, "sgd"))

    assert found.samples == len(forget)
    assert (found.relearner is not None) is known
    assert (found.ratio is not None) is known


def test_the_same_seed_gives_the_same_curve_and_another_another(world: World) -> None:
    def run(seed: int) -> tuple[float, ...]:
        relearner = replace(SGD, learning_rate=0.01, limit=6, batch_size=32)
        batch = world.sets["forget"].batch
        return relearn(world.models["retrained"], batch, objective=OBJECTIVE, relearner=relearner, seed=seed).losses

    assert run(0) == run(0)
    assert run(0) != run(1)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_set_that_is_one_batch_is_looked_at_without_a_pass_of_its_own(world: World, kind: str) -> None:
    passes, batch = 0, world.sets["held_out"].take(torch.arange(20)).batch

    def counting(forward: Forward, batch: Batch) -> torch.Tensor:
        nonlocal passes
        passes += 1
        return OBJECTIVE.losses(forward, batch)

    def run(size: int, every: int) -> Curve:
        relearner = Relearner(kind=kind, learning_rate=0.002, target=0.01, limit=12, batch_size=size)
        counted = replace(OBJECTIVE, losses=counting)
        return relearn(world.models["original"], batch, objective=counted, relearner=relearner, seed=0, every=every)

    whole = run(20, 4)
    assert passes == len(whole.losses) == 13
    assert whole.steps == tuple(range(13))
    assert whole.losses[0] == pytest.approx(mean_loss(world.models["original"], batch, OBJECTIVE), rel=1e-5)
    assert whole.losses[-1] < whole.losses[0]


def test_a_rate_that_is_far_too_low_is_given_up_after_a_few_steps(world: World) -> None:
    """Most of a calibration was spent on such rates."""
    model, batch = world.models["original"], world.sets["held_out"].take(torch.arange(120)).batch
    target = mean_loss(model, batch, OBJECTIVE) / 4
    slow = Relearner(kind="sgd", learning_rate=1e-5, target=target, limit=40, batch_size=32)
    whole, tried = (
        relearn(model, batch, objective=OBJECTIVE, relearner=slow, seed=0, every=4, may_give_up=may)
        for may in (False, True)
    )
    assert (whole.steps[-1], tried.steps[-1]) == (40, 8)
    assert (tried.delay, tried.censored, tried.diverged) == (whole.delay, whole.censored, whole.diverged)

    near = calibrate_relearner(
        model, batch, objective=OBJECTIVE, kind="sgd", target=target, steps=20, limit=3.0, batch_size=32, seed=0
    )
    assert near is not None
    whole, tried = (
        relearn(model, batch, objective=OBJECTIVE, relearner=near, seed=0, every=4, may_give_up=may)
        for may in (False, True)
    )
    assert whole == tried
    assert not tried.censored


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_calibrated_rate_teaches_the_original_a_control_in_about_the_wanted_steps(world: World, kind: str) -> None:
    original, control = world.models["original"], world.sets["held_out"].take(torch.arange(120)).batch
    target = mean_loss(original, control, OBJECTIVE) / 4
    found = calibrate_relearner(
        original, control, objective=OBJECTIVE, kind=kind, target=target, steps=20, limit=3.0, batch_size=32, seed=0
    )
    assert found is not None
    curve = relearn(original, control, objective=OBJECTIVE, relearner=found, seed=0)
    assert 13 <= curve.delay <= 40
    assert found.limit >= 60


def test_a_loss_that_rises_before_it_falls_is_not_given_up() -> None:
    """Audits of more than a hundred samples had no relearn delay, because every useful rate was given up."""
    model, batch = parabola(0.0)

    def hump(forward: Forward, given: Batch) -> torch.Tensor:
        """Loss 1 + 8w(½ − w) for the weight w, which each step raises by the learning rate."""
        w = forward(given.inputs)[:, 0]
        return (1 + 8 * w * (0.5 - w)).detach() - w + w.detach()

    relearner = Relearner(kind="sgd", learning_rate=0.03, target=0.2, limit=40, batch_size=8)
    objective = Objective(losses=hump, scramble=lambda given, _: given)
    whole, tried = (
        relearn(model, batch, objective=objective, relearner=relearner, seed=0, may_give_up=may)
        for may in (False, True)
    )
    assert whole.losses[8] > whole.losses[0]
    assert whole == tried
    assert not tried.censored


@pytest.mark.parametrize("steepest", [8.0, 9.0])
def test_a_rate_is_found_between_one_that_is_too_low_and_one_at_which_the_loss_rises(steepest: float) -> None:
    """A valley: above 2 / `steepest` steps leave it, and below 0.15 they take more than 24 to come down. So did language models."""
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[0.1, 1.0]])
    valley = Batch(torch.tensor([[math.sqrt(2 * steepest), 0.0], [0.0, 1.0]]), torch.zeros(2, 1))
    target = 0.02 * mean_loss(model, valley, PARABOLA)
    found = calibrate_relearner(
        model, valley, objective=PARABOLA, kind="sgd", target=target, steps=8, limit=3.0, batch_size=2, seed=0
    )
    assert found is not None
    assert 0.14 < found.learning_rate < 2 / steepest
    curve = relearn(model, valley, objective=PARABOLA, relearner=found, seed=0)
    assert 5 <= curve.delay <= 24


def test_nothing_is_calibrated_where_there_is_nothing_to_learn(world: World) -> None:
    original, control = world.models["original"], world.sets["remain"].take(torch.arange(60)).batch
    settings = {"objective": OBJECTIVE, "kind": "sgd", "steps": 20, "limit": 3.0, "batch_size": 32, "seed": 0}
    assert calibrate_relearner(original, control, target=10.0, **settings) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("forgotten", "held_out", "parts", "count"),
    [
        pytest.param(96, 2000, 1, 96, id="one part", marks=pytest.mark.slow),
        pytest.param(300, 500, 4, 75, id="parts"),
        pytest.param(300, 150, 4, 75, id="controls that overlap", marks=pytest.mark.slow),
        pytest.param(100, 60, 2, 30, id="few that overlap"),
    ],
)
def test_the_ratio_s_interval_covers_a_set_never_learned_as_often_as_it_says(
    forgotten: int, held_out: int, parts: int, count: int
) -> None:
    """A set's delay is the geometric mean of what its samples take, of which some take far longer than others."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        sides = []
        for size, sets in ((forgotten, parts), (held_out, 6)):
            takes = rng.normal(3, 1, size) + 4 * (rng.random(size) < 0.1)
            places = draw_by_class(samples(size, seed=0), {}, rng, count=count, sets=sets)
            sides.append((np.array([np.exp(takes[each].mean()) for each in places]).round(), overlap(places)))
        (delays, own), (controls, common) = sides
        found = delay_ratio(delays, controls, overlaps=(own, common), confidence=0.9)
        hits += found.low <= 1 <= found.high
    assert 0.86 < hits / 400 < 0.95


def test_parts_of_the_forget_set_make_the_interval_narrower() -> None:
    one = delay_ratio([20], [15, 20, 25, 22], overlaps=(0.0, 0.0), confidence=0.9)
    four = delay_ratio([16, 25, 19, 21], [15, 20, 25, 22], overlaps=(0.0, 0.0), confidence=0.9)
    assert four.high / four.low < 0.8 * one.high / one.low


def test_controls_from_one_pool_are_corrected_for_their_overlap() -> None:
    alone = delay_ratio([20], [15, 20, 25, 22], overlaps=(0.0, 0.0), confidence=0.9)
    overlapping = delay_ratio([20], [15, 20, 25, 22], overlaps=(0.0, 0.5), confidence=0.9)
    assert overlapping.high > alone.high
    assert overlapping.value == alone.value


def test_controls_that_agree_exactly_still_leave_the_graininess_of_a_step() -> None:
    found = delay_ratio([10], [10, 10, 10, 10], overlaps=(0.0, 0.3), confidence=0.9)
    assert found.low < 1 < found.high


def test_a_delay_of_zero_is_far_below_any_control() -> None:
    assert delay_ratio([0], [20, 25, 22, 30, 18, 24], overlaps=(0.0, 0.3), confidence=0.9).high < 0.1


def test_the_normalised_delay_is_zero_for_the_original_and_one_for_the_retrained_model() -> None:
    assert normalised_delay(original=0, unlearned=0, reference=30) == 0
    assert normalised_delay(original=0, unlearned=30, reference=30) == 1
    assert normalised_delay(original=5, unlearned=9, reference=5) is None


def curve(*losses: float) -> Curve:
    steps = tuple(range(len(losses)))
    return Curve(losses=losses, steps=steps, delay=steps[-1], censored=False, travelled=0.0, diverged=False)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_original_has_no_delay_and_the_retrained_model_is_its_own_measure(kind: str) -> None:
    """The sanity checks of the normalisations: T(θ_o) = 0, and every ratio to the retrained model is 1 for it."""
    given = task(plain)
    retrained = fit(given.build, given.remain, given.recipe, objective=small.OBJECTIVE, seed=1)
    spec = AuditSpec(relearn_controls=3, relearn_delta=0.3, relearn_steps=8)
    found, held_out = {}, samples(80, seed=21)
    known = OriginalLosses(
        **{
            name: observe(audit_copy(given.model, part), part, objective=small.OBJECTIVE).loss
            for name, part in (("forget", given.forget), ("held_out", held_out))
        }
    )
    for name, model in {"original": given.model, "retrained": retrained}.items():
        case = RelearnCase(
            models={"original": given.model, "unlearned": model, "reference": retrained}, forget=given.forget,
            held_out=held_out, known=known, objective=small.OBJECTIVE, spec=spec, seed=0,
        )  # fmt: skip
        found[name] = run_to_completion(relearn_delay(case, kind))

    original, retrained = found["original"], found["retrained"]
    assert original.unlearned[0].delay == original.original.delay == 0
    assert (original.normalised, original.reference_ratio) == (0, 0)
    assert retrained.unlearned[0].delay > 0
    assert (retrained.normalised, retrained.reference_ratio) == (1, 1)
    assert retrained.unlearned[0].travelled > original.unlearned[0].travelled == 0
    drawn = spec.relearn_steps if kind == spec.relearners[0] else 0
    assert retrained.reference.steps[-1] == max(drawn, retrained.reference.delay)


@pytest.mark.parametrize("count", [3, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", ["original", "retrained"])
def test_few_samples_are_compared_with_many_control_sets_until_it_is_clear(world: World, case: str, count: int) -> None:
    """Samples that models which never saw them get wrong: the original learns them at once, and a retrained model as new data."""
    held_out = world.sets["held_out"]
    with torch.no_grad():
        wrong, errors, errors_of_original = (
            world.models[model](samples.inputs).argmax(1) != samples.targets
            for model, samples in (("retrained", world.sets["forget"]), ("retrained", held_out), ("original", held_out))
        )
    forget = world.sets["forget"].take(wrong.nonzero().flatten()[:count])
    hard = (errors & errors_of_original).numpy()
    difficulty = Difficulty(forget=-np.ones(count), held_out=np.where(hard, -1.0, 1.0))
    spec = AuditSpec(relearners=("sgd",), relearn_controls=3)
    steps, found = 0, None
    given = case_of(world, case, forget, held_out, spec=spec, difficulty=difficulty)
    running = relearn_delay(given, "sgd")
    while found is None:
        try:
            next(running)
            steps += 1
        except StopIteration as ended:
            found = ended.value
    assert isinstance(found, Relearning)
    assert steps == run_count(given, "sgd")
    assert found.p_value is not None
    if case == "original":
        assert (found.compared, found.p_value <= 0.05) == (MANY, True)
    else:
        assert found.compared < MANY
        assert found.p_value > 0.05
