import json
from pathlib import Path

import pytest

from expunge.errors import CannotTrain, NobodyLeftOut
from expunge.operator.training import train_workload

INTEGERS = "tests.worker.digits:with_integer_ids"


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
