"""The bad teacher: random weights teach the forget set, the original teaches the rest, and only the student trains."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from tests.unlearning.methods.watching import without_classes
from tests.unlearning.small import CLASSES, OBJECTIVE, WIDTH, dropping, plain, same, state, task
from unlearning.data.objectives import Forward
from unlearning.errors import MethodRefused
from unlearning.methods.registry import unlearn
from unlearning.specs import BadTeacher
from unlearning.steps import run_to_completion
from unlearning.training.loop import fresh


def divergence(teacher: nn.Module, student: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        p, q = (model(inputs).log_softmax(-1) for model in (teacher, student))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_each_set_comes_to_look_like_its_teacher() -> None:
    given, original = task(plain), task(plain).model
    random = fresh(given.build, seed=given.seed)
    before = divergence(random, original, given.forget.inputs)
    run_to_completion(unlearn(BadTeacher(epochs=60, learning_rate=5e-3, batch_size=32, remain_share=1.0), given))

    assert divergence(random, given.model, given.forget.inputs) < before / 4
    assert divergence(original, given.model, given.remain.inputs) < before / 4


def test_the_loss_is_the_divergence_from_each_samples_teacher() -> None:
    given, original = task(plain), task(plain).model
    random = fresh(given.build, seed=given.seed)
    progress = next(unlearn(BadTeacher(batch_size=1000, remain_share=1.0), given))
    forget, remain = len(given.forget), len(given.remain)
    wanted = divergence(random, original, given.forget.inputs) * forget / (forget + remain)

    assert progress.metrics["loss"] == pytest.approx(wanted, rel=1e-5)


def test_only_the_student_is_in_training_mode() -> None:
    given = task(dropping)
    modes: list[tuple[bool, bool]] = []

    def logits(forward: Forward, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            # A forward pass with dropout differs from itself; without, it does not.
            modes.append((torch.is_grad_enabled(), bool((forward(inputs) != forward(inputs)).any())))
        return forward(inputs)

    given.objective = dataclasses.replace(OBJECTIVE, logits=logits)
    next(unlearn(BadTeacher(batch_size=32), given))

    assert [drops for _, drops in modes] == [False, False, True]


def test_certain_teachers_do_not_overflow() -> None:
    def certain() -> nn.Module:
        model = nn.Sequential(nn.Linear(WIDTH, CLASSES))
        with torch.no_grad():
            model[0].weight *= 1e5
        return model

    given = task(plain)
    given.model, given.build = certain(), certain
    progress = [p.metrics["loss"] for p in unlearn(BadTeacher(batch_size=32), given)]

    assert all(torch.isfinite(torch.tensor(progress)))
    assert all(torch.isfinite(tensor).all() for tensor in state(given.model).values())


def test_without_logits_it_is_refused() -> None:
    given = task(plain)
    given.objective = without_classes()
    before = state(given.model)

    with pytest.raises(MethodRefused, match="no classes"):
        run_to_completion(unlearn(BadTeacher(), given))

    assert same(state(given.model), before)
