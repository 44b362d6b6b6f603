"""IEU's step: the ascent is bounded, decay and noise know their weights, the end of the repair never sees the forget set."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.unlearning.small import CLASSES, OBJECTIVE, WIDTH, flat, plain, same, state, task
from unlearning.data.batches import Batch
from unlearning.data.objectives import Forward, Objective
from unlearning.data.samples import SampleSet
from unlearning.methods.registry import unlearn
from unlearning.specs import IEU, Stop
from unlearning.state import State
from unlearning.steps import run_to_completion
from unlearning.storage import load_training_checkpoint, save_training_checkpoint
from unlearning.task import Task

NEVER = Stop(check_every=1000)
GENTLE = 1e-12
"""A learning rate at which gradients move nothing that could be measured."""


def after_one_step(given: Task, **settings: object) -> dict[str, Tensor]:
    steps = unlearn(IEU(steps=50, stop=NEVER, **settings), given)
    next(steps)
    found = state(given.model)
    steps.close()
    return found


def with_forget_targets(given: Task, targets: Callable[[Tensor], Tensor]) -> Task:
    """The forget set with targets chosen by the model's own logits."""
    with torch.no_grad():
        chosen = targets(given.model(given.forget.inputs))
    given.forget = dataclasses.replace(given.forget, targets=chosen)
    return given


def unlikely(logits: Tensor) -> Tensor:
    return logits.argmin(-1)


def likely(logits: Tensor) -> Tensor:
    return logits.argmax(-1)


def test_samples_beyond_the_loss_of_a_guess_give_no_gradient() -> None:
    given = with_forget_targets(task(plain), unlikely)
    with torch.no_grad():
        assert (OBJECTIVE.losses(given.model, given.forget.batch) > math.log(CLASSES)).all()
    with_ascent = after_one_step(given, ascent=5.0, noise=0.0)
    without = after_one_step(with_forget_targets(task(plain), unlikely), ascent=0.0, noise=0.0)

    assert same(with_ascent, without)


def test_samples_below_it_are_ascended() -> None:
    given = with_forget_targets(task(plain), likely)
    with_ascent = after_one_step(given, ascent=5.0, noise=0.0, clip=1e9)
    without = after_one_step(with_forget_targets(task(plain), likely), ascent=0.0, noise=0.0, clip=1e9)
    losses = []
    for found in (with_ascent, without):
        given.model.load_state_dict(found)
        losses.append(OBJECTIVE.losses(given.model, given.forget.batch).mean().item())

    assert losses[0] > losses[1]


def test_samples_that_look_held_out_are_not_changed() -> None:
    def forgetting_held_out_data() -> Task:
        given = task(plain)
        same_data = given.criterion
        given.forget = dataclasses.replace(same_data, ids=tuple(f"forget-{sample}" for sample in same_data.ids))
        return given

    whole = len(task(plain).criterion)
    with_ascent, without = (
        after_one_step(forgetting_held_out_data(), ascent=ascent, noise=0.0, batch_size=whole) for ascent in (5.0, 0.0)
    )

    assert same(with_ascent, without)


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 400), nn.BatchNorm1d(400), nn.ReLU(), nn.Linear(400, CLASSES))


def test_the_noise_is_relative_to_each_weight_tensors_standard_deviation() -> None:
    given = task(wide)
    with torch.no_grad():
        given.model[0].weight *= 100
    before = state(given.model)
    after = after_one_step(given, learning_rate=GENTLE, decay=0.0, noise=0.1)

    for name in ("0.weight", "3.weight"):
        noise = (after[name] - before[name]) / before[name].std()
        # A sample standard deviation is within 1/sqrt(2n) of the true one; four of those.
        assert abs(float(noise.std()) / 0.1 - 1) < 4 / math.sqrt(2 * noise.numel())
        assert abs(float(noise.mean())) < 4 * 0.1 / math.sqrt(noise.numel())


def test_the_decay_is_eta_times_lambda() -> None:
    given = task(plain)
    before = state(given.model)
    after = after_one_step(given, learning_rate=GENTLE, decay=0.1 / GENTLE, noise=0.0)

    torch.testing.assert_close(after["0.weight"], 0.9 * before["0.weight"])
    torch.testing.assert_close(after["2.weight"], 0.9 * before["2.weight"])


def test_biases_and_norms_are_neither_decayed_nor_disturbed() -> None:
    given = task(wide)
    before = state(given.model)
    after = after_one_step(given, learning_rate=GENTLE, decay=0.1 / GENTLE, noise=0.1)

    for name, parameter in given.model.named_parameters():
        if parameter.dim() < 2:
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)
        else:
            assert not torch.allclose(after[name], before[name], atol=1e-3)


@pytest.mark.filterwarnings("ignore:std")
def test_a_weight_tensor_of_one_number_stays_finite() -> None:
    def scaled() -> nn.Module:
        return nn.Sequential(nn.Unflatten(1, (1, WIDTH)), nn.Conv1d(1, 1, 1), nn.Flatten(), nn.Linear(WIDTH, CLASSES))

    found = after_one_step(task(scaled), noise=0.1)

    assert all(torch.isfinite(tensor).all() for tensor in found.values())


def watching(seen: list[bool], forget: SampleSet) -> Objective:
    """The usual objective, noting for each loss that is differentiated whether a forgotten sample is in it."""

    def losses(forward: Forward, batch: Batch) -> Tensor:
        if torch.is_grad_enabled():
            seen.append(any(bool((forget.inputs == inputs).all(-1).any()) for inputs in batch.inputs))
        return OBJECTIVE.losses(forward, batch)

    return dataclasses.replace(OBJECTIVE, losses=losses)


def test_the_end_of_the_repair_sees_no_forgotten_sample() -> None:
    given = task(plain)
    seen: list[bool] = []
    given.objective = watching(seen, given.forget)
    steps = unlearn(IEU(steps=3, repair_steps=8, stop=NEVER), given)
    eliminating, ascended, repairing = [], [], []
    for progress in steps:
        (eliminating if progress.step <= 3 else ascended if progress.step <= 6 else repairing).extend(seen)
        seen.clear()

    assert any(eliminating)
    assert any(ascended)
    assert len(repairing) == 5
    assert not any(repairing)


def test_the_repair_raises_again_what_is_relearned() -> None:
    """The same run, with and without the ascent: held-out data are what the forget set should look like."""

    def forgotten_loss(monkeypatch: pytest.MonkeyPatch, *, ascended: bool) -> float:
        given = task(plain)
        with monkeypatch.context() as patched:
            if not ascended:
                patched.setattr(
                    "unlearning.methods.ieu.forget_weights",
                    lambda task, criterion, forget, *, held_out_losses: torch.zeros(1),
                )
            run_to_completion(unlearn(IEU(steps=8, repair_steps=24, stop=NEVER), given))
        return float(OBJECTIVE.losses(given.model, given.forget.batch).detach().mean())

    with pytest.MonkeyPatch.context() as monkeypatch:
        assert forgotten_loss(monkeypatch, ascended=True) > forgotten_loss(monkeypatch, ascended=False)


def test_no_repair_is_allowed() -> None:
    given = task(plain)
    outcome = run_to_completion(unlearn(IEU(steps=3, repair_steps=0, stop=NEVER), given))

    assert outcome.steps == 3
    assert torch.isfinite(flat(given.model)).all()


def test_without_a_repair_the_state_after_elimination_is_left() -> None:
    given = task(plain)
    original = state(given.model)
    outcome = run_to_completion(unlearn(IEU(steps=3, repair_steps=0, noise=0.0, stop=Stop(allowed_drop=100.0)), given))

    assert outcome.stopped_because == "budget"
    assert not same(state(given.model), original)


@pytest.mark.parametrize(("noise", "repair_steps"), [(1.0, 8), (3.0, 4), (0.5, 8), (3.0, 0)])
def test_a_model_that_the_elimination_ruined_is_not_left(noise: float, repair_steps: int) -> None:
    """The repair is too short. The drop is one from the model before the elimination, not from where the repair began."""
    spec = IEU(steps=16, repair_steps=repair_steps, noise=noise, passes=0.0, stop=Stop(check_every=8, allowed_drop=1.5))
    given = task(plain, forgotten=24)
    original = state(given.model)
    outcome = run_to_completion(unlearn(spec, given))

    assert outcome.stopped_because == "utility"
    assert outcome.metrics["accuracy_drop"] == 0
    assert same(state(given.model), original)


@pytest.mark.parametrize("taken", [10, 20])
def test_a_run_resumed_in_either_phase_knows_the_model_before_the_elimination(taken: int, tmp_path: Path) -> None:
    spec = IEU(steps=16, repair_steps=8, noise=1.0, passes=0.0, stop=Stop(check_every=8, allowed_drop=1.5))
    first, second = task(plain, forgotten=24), task(plain, forgotten=24)
    original = state(first.model)
    steps = unlearn(spec, first)
    for _ in range(taken):
        next(steps)
    second.state = State(load_training_checkpoint(*save_training_checkpoint(first.state.snapshot(), tmp_path)))
    steps.close()
    outcome = run_to_completion(unlearn(spec, second))

    assert outcome.stopped_because == "utility"
    assert same(state(second.model), original)


def test_the_eliminating_phase_ends_when_the_forget_set_no_longer_looks_known() -> None:
    """Forgetting what the model is unusually wrong about is done before it begins."""
    given = with_forget_targets(task(plain), unlikely)
    steps = unlearn(IEU(steps=50, repair_steps=3, noise=0.0, stop=Stop(check_every=1)), given)
    first = next(steps)
    steps.close()

    assert "forget_weight" not in first.metrics


def test_without_classes_the_ceiling_is_twice_the_held_out_loss() -> None:
    """Beyond it nothing is ascended; an infinite loss there would else be followed."""
    with_ascent, without = (
        after_one_step(without_classes(with_forget_targets(task(plain), unlikely)), ascent=ascent, noise=0.0)
        for ascent in (5.0, 0.0)
    )

    assert same(with_ascent, without)


def without_classes(given: Task) -> Task:
    given.objective = dataclasses.replace(OBJECTIVE, logits=None, classes=None)
    with torch.no_grad():
        held_out = float(OBJECTIVE.losses(given.model, given.criterion.batch).mean())
        keep = OBJECTIVE.losses(given.model, given.forget.batch) > 2 * held_out
    given.forget = given.forget.take(keep.nonzero().flatten())
    assert len(given.forget) > 3
    return given
