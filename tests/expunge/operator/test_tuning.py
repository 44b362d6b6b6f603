"""`expunge tune` prints a spec that `register` takes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from expunge.cli.main import app
from expunge.errors import CannotTune
from expunge.operator.tuning import tune
from tests.expunge.operator.test_audit import workload
from unlearning.specs import GradientAscent, parse
from unlearning.storage import save_weights
from unlearning.training.loop import fresh

REFERENCE = "tests.expunge.operator.test_audit:workload"
METHOD = '{"kind": "gradient_ascent", "steps": 3}'


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(fresh(workload().build, seed=0), tmp_path_factory.mktemp("weights"))[0]


@pytest.mark.parametrize("oracle", [False, True])
def test_the_best_spec_is_printed_as_register_takes_it(
    weights: Path, oracle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPUNGE_WORKLOADS", "tests")
    words = ["tune", REFERENCE, "--weights", str(weights), "--method", METHOD, "--budget", "3"]
    result = CliRunner().invoke(app, [*words, "--oracle"] if oracle else words)

    assert result.exit_code == 0, result.output
    assert isinstance(parse(json.loads(result.stdout)), GradientAscent)
    assert len(result.stderr.splitlines()) >= 3


def test_the_given_spec_is_tried_first_and_no_sample_of_the_test_set_is_needed(weights: Path) -> None:
    found = tune(
        REFERENCE, allowed=("tests",), weights=weights, method=METHOD, budget=2, share=0.2, oracle=False, seed=1
    )

    assert found.trials[0].spec == GradientAscent(steps=3)
    assert len(found.trials) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "salun"}, "baseline"),
        ({"weights": Path("nowhere")}, "no weights"),
        ({"reference": "os:getcwd"}, "os"),
    ],
)
def test_what_cannot_be_tuned_is_named(weights: Path, change: dict[str, object], words: str) -> None:
    given = {"reference": REFERENCE, "weights": weights, "method": "ltu"} | change
    with pytest.raises(CannotTune, match=words):
        tune(given.pop("reference"), allowed=("tests",), budget=2, share=0.1, oracle=False, **given)
