import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from expunge.cli.main import app
from expunge.errors import CannotTrain, NobodyLeftOut
from expunge.operator.training import Trained, train_workload
from expunge.operator.workloads import choose_device, plan_processes
from tests.worker import digits
from tests.worker.test_launch import ranks_left
from unlearning.specs.references import ReferencePlan
from unlearning.steps import Progress
from unlearning.training.run import TrainingRun

INTEGERS = "tests.worker.digits:with_integer_ids"
TRAINER = "tests.worker.digits:with_trainer"
SHORT = "tests.worker.digits:on_ranks"


def test_who_has_an_integer_for_an_id_is_left_out_by_its_digits(tmp_path: Path) -> None:
    whole, part = (
        train_workload(INTEGERS, allowed=("tests",), folder=tmp_path, plain=True, without=without)
        for without in ((), [str(key) for key in range(5000, 5200)] + ["4999"])
    )

    assert (whole.left_out, part.left_out) == (0, 200)
    assert json.loads(part.path.with_suffix(".json").read_text())["left_out"] == 200
    assert part.sha256 != whole.sha256


@pytest.mark.parametrize(("reference", "fitted_to"), [("numbers_in_slices", "held_out"), ("in_slices", None)])
def test_weights_after_slices_say_to_what_their_loss_was_fitted(
    reference: str, fitted_to: str | None, tmp_path: Path
) -> None:
    made = train_workload(f"tests.worker.digits:{reference}", allowed=("tests",), folder=tmp_path, plain=True)
    listed: Any = made.details["checkpoints"]

    assert [entry["slice"] for entry in listed] == [0, 1]
    assert all(entry.get("fitted_to") == fitted_to for entry in listed)


def test_a_list_that_leaves_nobody_out_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(NobodyLeftOut, match="any of the 2 sample IDs"):
        train_workload(INTEGERS, allowed=("tests",), folder=tmp_path, plain=True, without=["5000.0", "image-1"])

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("workload", "plain", "message"),
    [
        ("without_second_derivative", False, "--plain"),
        ("diverging", True, "learning rate"),
        ("as_a_stream", False, "is a stream. Train without it"),
    ],
)
def test_a_training_that_fails_says_what_to_do_and_writes_nothing(
    tmp_path: Path, workload: str, plain: bool, message: str
) -> None:
    with pytest.raises(CannotTrain, match=message):
        train_workload(f"tests.worker.digits:{workload}", allowed=("tests",), folder=tmp_path, plain=plain)

    assert list(tmp_path.iterdir()) == []


def test_a_workloads_own_function_trains_it_and_its_reference_models(tmp_path: Path) -> None:
    """By the same seed to the same weights, whatever else was trained in between."""
    plan = ReferencePlan(rounds=1, audit_rounds=1)
    shown: list[Progress] = []
    first, again = (
        train_workload(TRAINER, allowed=("tests",), folder=tmp_path, references=references, show=shown.append)
        for references in (plan, None)
    )

    assert first.sha256 == again.sha256
    assert first.details["trainer"]["trainer"] == "tests.worker.digits.train"  # type: ignore[index]  # a dict of JSON
    assert len(list((tmp_path / "references").glob("*/*.npz"))) == plan.trainings
    assert [progress.total for progress in shown if progress.phase == "train"] == [32] * 64


def test_the_command_takes_the_plan_of_the_reference_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_WORKLOADS", "tests")
    command = ["train", "tests.worker.digits:on_a_random_base", "--plain", "--out", str(tmp_path), "--rounds", "1"]
    refused = CliRunner().invoke(app, command)
    assert (refused.exit_code, list(tmp_path.iterdir())) == (2, [])

    more = ["--references", "--audit-rounds", "1", "--epochs", "0.5", "--whole-class", "3", "--whole-class", "3"]
    done = CliRunner().invoke(app, command + more)
    assert done.exit_code == 0, done.output
    found = [path.parent.name for path in (tmp_path / "references").rglob("*.npz")]
    assert len(found) == ReferencePlan(rounds=1, audit_rounds=1, classes=(3,)).trainings
    assert len(set(found)) == 2


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ("with_raising_trainer", r"KeyError at digits.py:\d+: .*\(an ID\) has no caption"),
        ("with_idle_trainer", "no weight"),
    ],
)
def test_a_function_that_fails_is_named_with_what_it_said_and_nothing_is_written(
    tmp_path: Path, workload: str, message: str
) -> None:
    with pytest.raises(CannotTrain, match=message):
        train_workload(f"tests.worker.digits:{workload}", allowed=("tests",), folder=tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_reference_models_that_were_finished_before_the_function_failed_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third one fails. Mended, the training goes on with it."""
    plan, begun = ReferencePlan(rounds=1, audit_rounds=1), []

    def stumble(step: int, run: TrainingRun) -> None:
        if step == 1:
            begun.append(run.share)
        if len(begun) == 4 and step == 5:
            raise RuntimeError("the data server is away")

    monkeypatch.setattr(digits, "hook", stumble)
    with pytest.raises(CannotTrain, match=r"was trained and written to .*the data server is away"):
        train_workload(TRAINER, allowed=("tests",), folder=tmp_path, references=plan)
    assert begun == [1.0, 0.5, 0.5, 0.5]
    train_workload(TRAINER, allowed=("tests",), folder=tmp_path, references=plan)

    assert begun[4:] == [1.0, 0.5, 0.5]


def stop_at(step: int) -> Callable[[Progress], None]:
    """What Ctrl-C does in the middle of a training."""

    def show(progress: Progress) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    return show


def test_an_interrupted_training_continues_and_ends_in_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    whole = train_workload(SHORT, allowed=("tests",), folder=tmp_path / "whole", plain=True)
    again: dict[str, Any] = {
        "allowed": ("tests",),
        "folder": tmp_path / "again",
        "plain": True,
        "checkpoint_seconds": 0.0,
    }
    with pytest.raises(KeyboardInterrupt):
        train_workload(SHORT, **again, show=stop_at(9))
    steps: list[int] = []
    other = train_workload(SHORT, **again | {"seed": 1})
    found = train_workload(SHORT, **again, show=lambda progress: steps.append(progress.step))

    assert steps == list(range(10, 27))
    assert (found.sha256, found.sha256 == other.sha256) == (whole.sha256, False)
    assert list((tmp_path / "again").glob("*.checkpoint")) == []


def full(monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """Let the disk be full for files of a kind."""
    replace = os.replace

    def refuse(source: str, target: Path) -> None:
        if Path(target).suffix == suffix:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_disk_that_is_full_at_the_end_costs_no_training_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    given: dict[str, Any] = {"allowed": ("tests",), "folder": tmp_path, "plain": True, "checkpoint_seconds": 0.0}
    with monkeypatch.context() as patched:
        full(patched, suffix)
        with pytest.raises(CannotTrain, match=r"Make room on the disk. Given again, the same command goes on"):
            train_workload(SHORT, **given)
    assert {path.suffix for path in tmp_path.iterdir()} == {".checkpoint", ".safetensors"} - {suffix}
    steps: list[int] = []
    train_workload(SHORT, **given, show=lambda progress: steps.append(progress.step))

    assert steps == []  # all had been taken


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    steps: list[int] = []
    with pytest.raises(CannotTrain, match="so nothing was trained"):
        train_workload(
            SHORT, allowed=("tests",), folder=tmp_path / "file", show=lambda progress: steps.append(progress.step)
        )

    assert steps == []


def test_a_training_into_the_storage_is_refused_because_a_purge_would_delete_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPUNGE_WORKLOADS", "tests")
    monkeypatch.setenv("EXPUNGE_STORAGE", f"file://{tmp_path}/weights")
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["train", SHORT], env={"COLUMNS": "200"})
    assert (ended.exit_code, "EXPUNGE_STORAGE" in ended.output, list(tmp_path.iterdir())) == (2, True, [])


def test_a_damaged_checkpoint_is_not_used(tmp_path: Path) -> None:
    given: dict[str, Any] = {"allowed": ("tests",), "folder": tmp_path, "plain": True, "checkpoint_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        train_workload(SHORT, **given, show=stop_at(3))
    (checkpoint,) = tmp_path.glob("*.checkpoint")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    steps: list[int] = []
    train_workload(SHORT, **given, show=lambda progress: steps.append(progress.step))

    assert steps[0] == 1


def test_a_checkpoint_of_a_workload_with_other_fingerprints_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"allowed": ("tests",), "folder": tmp_path, "plain": True, "checkpoint_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        train_workload(SHORT, **given, show=stop_at(3))
    made = replace(digits.on_ranks(), fingerprints={"tokenizer": "ab"})
    monkeypatch.setattr(digits, "on_ranks", lambda: made)
    steps: list[int] = []
    trained = train_workload(SHORT, **given, show=lambda progress: steps.append(progress.step))

    assert steps[0] == 1
    assert json.loads(trained.path.with_suffix(".json").read_bytes())["fingerprints"] == {"tokenizer": "ab"}


def on_two(reference: str, folder: Path, **options: Any) -> Trained:
    options = {"plain": True, "launch": plan_processes("2", CannotTrain)} | options
    try:
        return train_workload(reference, allowed=("tests",), folder=folder, **options)
    finally:
        assert not ranks_left()


@pytest.mark.slow
@pytest.mark.parametrize("reference", [SHORT, "tests.worker.digits:sharded_on_ranks"])
def test_two_processes_train_the_model_and_its_references_that_one_trains(reference: str, tmp_path: Path) -> None:
    plan = ReferencePlan(rounds=1, audit_rounds=1)
    two = on_two(reference, tmp_path / "2", references=plan)
    one = on_two(reference, tmp_path / "1", references=plan, launch=None)

    weights, others = (safetensors.torch.load_file(made.path) for made in (one, two))
    assert weights.keys() == others.keys()
    assert all(torch.allclose(tensor, others[name], rtol=0, atol=1e-4) for name, tensor in weights.items())
    files = [sorted((tmp_path / number / "references").glob("*/*.npz")) for number in ("1", "2")]
    assert [len(found) for found in files] == [plan.trainings] * 2
    for first, second in zip(*files, strict=True):
        assert first.relative_to(tmp_path / "1") == second.relative_to(tmp_path / "2")
        np.testing.assert_allclose(np.load(first)["signal"], np.load(second)["signal"], rtol=0, atol=1e-2)


@pytest.mark.slow
def test_a_training_on_processes_continues_after_a_killed_one_and_after_ctrl_c_on_any_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = tmp_path / "the second rank is to die"
    sign.touch()
    monkeypatch.setenv(digits.MORTAL, str(sign))
    with pytest.raises(CannotTrain, match="was killed"):
        on_two(SHORT, tmp_path / "2", checkpoint_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        on_two(SHORT, tmp_path / "2", checkpoint_seconds=0.0, show=stop_at(15))
    steps: list[int] = []
    found = on_two(SHORT, tmp_path / "2", launch=None, show=lambda progress: steps.append(progress.step))
    whole = on_two(SHORT, tmp_path / "1", launch=None)

    assert (steps[0], steps[-1]) == (16, 26)
    one, two = (safetensors.torch.load_file(made.path) for made in (whole, found))
    assert all(torch.allclose(tensor, two[name], rtol=0, atol=1e-4) for name, tensor in one.items())


@pytest.mark.slow
def test_what_a_process_raises_is_said_as_by_one(tmp_path: Path) -> None:
    said = []
    for launch in (None, plan_processes("2", CannotTrain)):
        with pytest.raises(CannotTrain) as caught:
            on_two("tests.worker.digits:with_raising_trainer", tmp_path, launch=launch)
        said.append(str(caught.value))

    assert said[0] == said[1]


@pytest.mark.parametrize("count", ["0", "many"])
def test_a_number_of_processes_that_is_none_is_refused(count: str) -> None:
    with pytest.raises(CannotTrain, match="processes"):
        plan_processes(count, CannotTrain)


def test_a_command_computes_where_the_operator_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("EXPUNGE_DEVICE", raising=False)
    assert choose_device() == torch.device("cuda")
    monkeypatch.setenv("EXPUNGE_DEVICE", "cpu")
    assert choose_device() == torch.device("cpu")


def test_a_training_that_must_use_a_gpu_does_not_go_to_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("EXPUNGE_DEVICE", "cuda")
    with pytest.raises(CannotTrain, match="CUDA finds no GPU"):
        train_workload(SHORT, allowed=("tests",), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
