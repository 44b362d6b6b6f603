"""Training by the owner's own function: as a function it trains, as a method it stops between two steps."""

import copy
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.unlearning.small import OBJECTIVE, plain, same, samples, state
from tests.unlearning.trainers import train_by_adamw
from unlearning.data.samples import SampleSet
from unlearning.data.stored import StoredSet
from unlearning.data.workload import OwnTraining, Trainer
from unlearning.errors import NotFinite, TrainerFault
from unlearning.random_state import isolated, random_values
from unlearning.state import State
from unlearning.steps import run_to_completion
from unlearning.storage import load_training_checkpoint, save_training_checkpoint
from unlearning.training.loop import fit, fresh, train, train_steps
from unlearning.training.own import training_settings
from unlearning.training.run import TrainingRun

GIVEN = samples(120, seed=1)
EPOCHS, STEPS = 3, 4


def adamw(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
    """What an owner writes: every random number generator that there is, a checkpoint an epoch."""
    train_by_adamw(model, data, run, epochs=EPOCHS, batch_size=32, rate=1e-2)


def own(trainer: Trainer) -> OwnTraining:
    return OwnTraining(trainer=trainer)


def fitted(trainer: Trainer, *, seed: int = 0, build: Callable[[], nn.Module] = plain) -> nn.Module:
    return fit(build, GIVEN, own(trainer), objective=OBJECTIVE, seed=seed)


def test_same_seed_same_weights_and_the_callers_random_state_stays() -> None:
    before = random_values()
    one, again, other = (state(fitted(adamw, seed=seed)) for seed in (0, 0, 1))

    assert same(one, again)
    assert not same(one, other)
    after = random_values()
    assert torch.equal(before["cpu"], after["cpu"])
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert torch.equal(before["python"][1], after["python"][1])


def test_it_yields_at_each_report_with_the_total_and_ends_in_evaluation_mode() -> None:
    model = fresh(plain, seed=0)
    steps = train(model, GIVEN, own(adamw), objective=OBJECTIVE, seed=0)
    found = list(steps)

    assert [(progress.step, progress.total) for progress in found] == [(step, 12) for step in range(1, 13)]
    assert all(progress.metrics["loss"] > 0 for progress in found)
    assert not model.training


def test_the_function_is_used_as_it_is_in_a_script() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = fresh(plain, seed=0).train()
    adamw(model, GIVEN, TrainingRun(seed=0))

    assert same(state(model), state(fitted(adamw)))


def test_samples_that_are_read_when_needed_train_the_same_model() -> None:
    items = list(zip(GIVEN.inputs, GIVEN.targets.tolist(), strict=True))
    stored = StoredSet.of(items, ids=GIVEN.ids)

    found = fit(plain, stored, own(adamw), objective=OBJECTIVE, seed=0)

    assert same(state(found), state(fitted(adamw)))


def test_reference_models_are_trained_for_their_share_of_the_epochs() -> None:
    half = OwnTraining(trainer=adamw, share=1 / 3)
    steps = list(train(fresh(plain, seed=0), GIVEN, half, objective=OBJECTIVE, seed=0))
    assert steps[-1].total == STEPS


def test_a_run_that_is_killed_twice_ends_in_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    """Each time it goes on from the last checkpoint on disk, which may be some steps old."""
    saved, taken = State(), []
    for kill_at in (6, 10, 99):
        model = fresh(plain, seed=0)
        steps = isolated(
            train_steps(model, GIVEN, own(adamw), objective=OBJECTIVE, seed=0, state=saved), seed=0, state=saved
        )
        for progress in steps:
            taken.append(progress.step)
            if progress.step == kill_at:
                break
        else:
            break
        path, sha256 = save_training_checkpoint(saved.snapshot(), tmp_path)
        steps.close()
        saved = State(load_training_checkpoint(path, sha256))

    assert taken == [*range(1, 7), *range(5, 11), *range(9, 13)]
    assert same(state(model), state(fitted(adamw)))


def test_what_no_checkpoint_can_hold_is_refused_where_it_is_given() -> None:
    def keep_generator(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
        run.checkpoint(order=[torch.Generator()])

    with pytest.raises(TypeError, match=r"order\[0\] is a Generator.*get_state"):
        fitted(keep_generator)


@pytest.mark.parametrize(("step", "total"), [(0, 3), (4, 3)])
def test_a_step_beyond_the_total_is_refused(step: int, total: int) -> None:
    with pytest.raises(ValueError, match="from 1 to the total"):
        TrainingRun().report(step, total)
    with pytest.raises(TypeError, match="one number"):
        TrainingRun().report(1, 1, loss=torch.zeros(2))


def test_closed_early_the_function_ends_at_its_report_and_cleans_up() -> None:
    done: list[str] = []

    def stubborn(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
        try:
            for step in range(1, 100):
                try:
                    run.report(step, 100)
                except Exception:  # it is none
                    done.append("caught")
        finally:
            done.append("cleaned")

    steps = train(fresh(plain, seed=0), GIVEN, own(stubborn), objective=OBJECTIVE, seed=0)
    next(steps)
    steps.close()

    assert done == ["cleaned"]
    assert not any(thread.name == "trainer" for thread in threading.enumerate())


def test_asked_to_stop_it_returns_and_its_last_report_comes_once_more() -> None:
    """Whoever asked ends the run there; a model that was not trained to its end is not used."""
    asked = State(should_stop=lambda: stop)
    stop = False

    def polite(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
        with torch.no_grad():
            next(model.parameters()).add_(1)
        run.report(1, 5)
        while not run.should_stop:
            pass

    steps = train_steps(fresh(plain, seed=0), GIVEN, own(polite), objective=OBJECTIVE, seed=0, state=asked)
    next(steps)
    stop = True
    assert next(steps).step == 1
    with pytest.raises(TrainerFault, match="before its end"):
        next(steps)


def test_a_signal_is_handled_while_the_function_trains() -> None:
    """The worker's handler sets what `should_stop` reads, in the thread that waits for the function."""
    received: list[int] = []
    former = signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))

    def waiting(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        while not run.should_stop:
            threading.Event().wait(0.001)

    try:
        steps = train_steps(
            fresh(plain, seed=0),
            GIVEN,
            own(waiting),
            objective=OBJECTIVE,
            seed=0,
            state=State(should_stop=lambda: bool(received)),
        )
        assert next(steps).step == 0
        steps.close()
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert received == [signal.SIGUSR1]


def one_step(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    functional.cross_entropy(model(data.inputs), data.targets).backward()
    optimiser.step()
    run.report(1, 1)


def nothing(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
    run.report(1, 1)


def another_model(model: nn.Module, data: SampleSet, run: TrainingRun) -> nn.Module:
    other = copy.deepcopy(model)
    one_step(other, data, run)
    return other


def not_finite(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
    with torch.no_grad():
        next(model.parameters()).mul_(torch.inf)


def wider(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
    model.append(nn.Linear(4, 4))  # type: ignore[operator]  # a Sequential


def half_precision(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
    one_step(model, data, run)
    model.bfloat16()


def freezing(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
    model[0].requires_grad_(False)  # type: ignore[index]  # a Sequential
    one_step(model, data, run)


def another_device(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
    one_step(model, data, run)
    model.to("meta")


def moving_what_is_frozen(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
    one_step(model, data, run)
    with torch.no_grad():
        model[0].weight.add_(1)  # type: ignore[index, union-attr]  # a Sequential


def leaving(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
    raise SystemExit(3)


@dataclass
class Broken(Exception):
    epoch: int


def raising(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
    one_step(model, data, run)
    raise Broken(2)


def partly_frozen() -> nn.Module:
    model = plain()
    model[0].requires_grad_(False)  # type: ignore[index]  # a Sequential
    return model


@pytest.mark.parametrize(
    ("trainer", "error", "message"),
    [
        (nothing, TrainerFault, "no weight changed"),
        (another_model, TrainerFault, "returned a model"),
        (not_finite, NotFinite, "not finite in 0.weight"),
        (wider, TrainerFault, r"3.weight was missing and is \(4, 4\) float32"),
        (half_precision, TrainerFault, "bfloat16"),
        (freezing, TrainerFault, "froze 0.weight"),
        (another_device, TrainerFault, "left the model on meta"),
        (leaving, TrainerFault, "SystemExit"),
        (raising, Broken, "2"),
    ],
)
def test_what_a_trainer_does_wrong_is_said(trainer: Trainer, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fitted(trainer)


def test_what_build_freezes_stays_frozen() -> None:
    assert fitted(one_step, build=partly_frozen)[0].weight.requires_grad is False  # type: ignore[index, union-attr]
    with pytest.raises(TrainerFault, match=r"changed 0\.weight, which `build` freezes"):
        fitted(moving_what_is_frozen, build=partly_frozen)


def test_a_function_that_reports_nothing_is_given_up_where_nobody_else_watches() -> None:
    go_on = threading.Event()

    def silent(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
        go_on.wait()

    impatient = OwnTraining(trainer=silent, patience=0.05)
    with pytest.raises(TrainerFault, match="reported nothing"):
        run_to_completion(train(fresh(plain, seed=0), GIVEN, impatient, objective=OBJECTIVE, seed=0))
    go_on.set()


def test_a_training_is_known_by_its_function_and_its_code() -> None:
    known = training_settings(own(adamw))
    assert known["trainer"] == "tests.unlearning.training.test_own.adamw"
    assert known == training_settings(own(adamw))
    assert known["code"] == training_settings(own(one_step))["code"]
    assert training_settings(own(partial(adamw, rate=1)))["arguments"] != known["arguments"]
    assert training_settings(OwnTraining(trainer=adamw, share=0.5)) != known
