import random

import numpy as np
import pytest
import torch

from tests.unlearning.small import samples
from unlearning.random_state import isolated, random_values, restore_random, seeded
from unlearning.steps import Outcome, Progress, Steps, run_to_completion

OUTCOME = Outcome(steps=3, stopped_because="completed")


def drawing(seen: list[float], closed: list[bool]) -> Steps:
    try:
        for step in range(3):
            seen.append(float(torch.rand(())))
            yield Progress(phase="unlearn", step=step + 1, total=3)
    finally:
        closed.append(True)
    return OUTCOME


def drawn(seed: int, *, disturbed: bool = False) -> list[float]:
    seen: list[float] = []
    for _ in isolated(drawing(seen, []), seed=seed):
        if disturbed:
            torch.rand(7)
    return seen


def test_the_numbers_depend_on_the_seed_alone() -> None:
    assert drawn(1) == drawn(1, disturbed=True)
    assert drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 3


def test_the_callers_numbers_go_on_as_if_nothing_had_been() -> None:
    torch.manual_seed(4)
    expected = torch.rand(4).tolist()
    torch.manual_seed(4)
    found = [float(torch.rand(())) for _ in isolated(drawing([], []), seed=1)]

    assert [*found, float(torch.rand(()))] == expected


def test_the_outcome_is_passed_on_and_the_inner_run_closed() -> None:
    closed: list[bool] = []
    steps = isolated(drawing([], closed), seed=1)
    next(steps)
    steps.close()
    assert closed == [True]

    assert run_to_completion(isolated(drawing([], []), seed=1)) is OUTCOME


def test_an_error_inside_leaves_the_callers_state() -> None:
    def failing() -> Steps:
        torch.rand(3)
        raise RuntimeError("on purpose")
        yield

    before = torch.get_rng_state()
    try:
        next(isolated(failing(), seed=1))
    except RuntimeError as error:
        assert str(error) == "on purpose"  # noqa: PT017
    assert torch.equal(torch.get_rng_state(), before)


def test_two_runs_in_turn_do_not_disturb_each_other() -> None:
    first: list[float] = []
    second: list[float] = []
    for _ in zip(isolated(drawing(first, []), seed=1), isolated(drawing(second, []), seed=2), strict=True):
        samples(3, seed=1)

    assert first == drawn(1)
    assert second == drawn(2)


def test_a_seed_of_its_own_is_that_of_all_three_libraries_and_the_callers_numbers_go_on() -> None:
    def numbers() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    with seeded(4):
        before = random_values()
        expected = numbers()
        restore_random(before)
        with seeded(5):
            first = numbers()
        with seeded(5):
            again = numbers()
        after = numbers()

    assert first == again
    assert all(one != other for one, other in zip(first, expected, strict=True))
    assert after == expected


def test_a_random_state_from_a_machine_with_more_gpus_is_restored_on_those_that_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    restored: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for module in (torch.cuda, torch.cuda.random):
        monkeypatch.setattr(module, "set_rng_state", lambda state, device: restored.append(device))

    restore_random(random_values() | {"cuda": [torch.zeros(16, dtype=torch.uint8)] * 3})

    assert restored == [0]
