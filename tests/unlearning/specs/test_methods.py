"""Schedule scaling: how long a method runs on a large forget set."""

from unlearning.specs import IEU, LTU
from unlearning.specs.methods import scale_schedule


def test_a_large_forget_set_is_used_as_often_as_passes_says() -> None:
    found = scale_schedule(LTU(steps=10, repair_steps=30, batch_size=16, passes=5.0), forget=320)

    assert found.steps * 16 == 5 * 320
    assert found.repair_steps == 3 * found.steps


def test_a_small_one_changes_nothing() -> None:
    given = IEU(steps=10, repair_steps=30, batch_size=16, passes=5.0)

    assert (scale_schedule(given, forget=32).steps, scale_schedule(given, forget=32).repair_steps) == (10, 30)


def test_no_run_is_longer_than_a_spec_may_ask_for() -> None:
    assert scale_schedule(LTU(batch_size=1), forget=10**8).steps == 10**6


def test_it_is_done_once() -> None:
    once = scale_schedule(LTU(), forget=5000)

    assert scale_schedule(once, forget=5000) == once


def test_without_passes_the_steps_are_as_given() -> None:
    assert scale_schedule(IEU(passes=0.0), forget=10**6).steps == IEU().steps
