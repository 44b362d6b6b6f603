import json
from pathlib import Path

import pytest

from expunge.errors import CannotTrain, NobodyLeftOut
from expunge.operator.training import train_workload
from tests.worker import digits
from unlearning.specs.references import ReferencePlan
from unlearning.task import Progress
from unlearning.training.run import TrainingRun

INTEGERS = "tests.worker.digits:with_integer_ids"
TRAINER = "tests.worker.digits:with_trainer"


def test_who_has_an_integer_for_an_id_is_left_out_by_its_digits(tmp_path: Path) -> None:
    whole, part = (
        train_workload(INTEGERS, allowed=("tests",), folder=tmp_path, plain=True, without=without)
        for without in ((), [str(key) for key in range(5000, 5200)] + ["4999"])
    )

    assert (whole.left_out, part.left_out) == (0, 200)
    assert json.loads(part.path.with_suffix(".json").read_text())["left_out"] == 200
    assert part.sha256 != whole.sha256


def test_a_list_that_leaves_nobody_out_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(NobodyLeftOut, match="None of the 2 sample IDs"):
        train_workload(INTEGERS, allowed=("tests",), folder=tmp_path, plain=True, without=["5000.0", "image-1"])

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("workload", "plain", "message"),
    [("without_second_derivative", False, "--plain"), ("diverging", True, "learning rate")],
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


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ("with_raising_trainer", r"KeyError at digits.py:\d+: .*\(a sample\) has no caption"),
        ("with_idle_trainer", "no weight"),
    ],
)
def test_a_function_that_fails_is_told_with_what_it_said_and_nothing_is_written(
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
