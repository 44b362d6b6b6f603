"""`expunge audit` from files, on a network small enough to train its shadows here."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from expunge.cli.main import app
from expunge.errors import CannotAudit, CannotTune
from expunge.operator.studies import Files, audit_files, tune
from tests.worker import digits
from unlearning.audit.attacks.study import Cost
from unlearning.data.workload import Workload
from unlearning.specs import GradientAscent, parse
from unlearning.specs.audit import ReferenceSpec
from unlearning.specs.training import Recipe
from unlearning.storage import save_weights
from unlearning.training.loop import fit, fresh

FORGOTTEN = 40
METHOD = '{"kind": "gradient_ascent", "steps": 2}'


def workload() -> Workload:
    """As the worker's tests have it, trained for less long on fewer samples."""
    whole = digits.workload()
    few = whole.train.take(torch.arange(200))
    recipe = Recipe(epochs=15, batch_size=32, learning_rate=0.1, precision="float32")
    return dataclasses.replace(whole, train=few, recipe=recipe)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("audit")
    given = workload()
    rest = given.train.take(torch.arange(FORGOTTEN, len(given.train)))
    paths = [
        save_weights(fit(given.build, samples, given.recipe, objective=given.objective, seed=0), folder)[0]
        for samples in (given.train, rest)
    ]
    return Files(
        workload="tests.expunge.operator.test_studies:workload",
        allowed=("tests",),
        original=paths[0],
        unlearned=paths[1],
        forgotten=given.train.ids[:FORGOTTEN],
        earlier=given.train.ids[FORGOTTEN : FORGOTTEN + 10],
        method=METHOD,
        folder=folder / "references",
    )


def test_the_command_estimates_runs_and_writes(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_WORKLOADS", "tests")
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(files.forgotten))
    places = {
        "--original": files.original,
        "--unlearned": files.unlearned,
        "--forgotten": ids,
        "--folder": tmp_path / "runs",
    }
    settings = {"--method": METHOD, "--shadows": 4, "--repeats": 4, "--report": tmp_path / "found.json"}
    words = ["audit", files.workload, *(str(word) for pair in (places | settings).items() for word in pair)]
    refused = CliRunner().invoke(app, words, input="n\n")
    agreed = CliRunner().invoke(app, [*words, "--yes"])

    assert refused.exit_code == 1
    assert "4 shadow models and 4 repetitions" in refused.output
    assert agreed.exit_code == 0, agreed.output
    assert "U-LiRA" in agreed.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["shadows"], found["repeats"], found["samples"]) == (
        4,
        4,
        {"forget": FORGOTTEN, "held_out": FORGOTTEN},
    )
    # A network that remembers noise is seen through, whatever the four models are.
    assert found["original"]["lira"]["auc"]["value"] > 0.6


def test_nothing_is_trained_without_consent(files: Files) -> None:
    seen: list[Cost] = []
    found = audit_files(files, spec=ReferenceSpec(shadows=8), seed=0, agree=lambda cost: bool(seen.append(cost)))

    assert found is None
    assert seen[0].shadows == 8
    assert not files.folder.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"forgotten": ("nobody",)}, "1 of the 1 forgotten IDs"),
        ({"forgotten": ()}, "empty"),
        ({"original": Path("nowhere.safetensors")}, "no weights file"),
        ({"method": "salun"}, "baseline"),
        ({"workload": "os:getcwd"}, "os"),
    ],
)
def test_what_does_not_fit_is_named_without_an_id(files: Files, change: dict[str, object], words: str) -> None:
    given = {name: getattr(files, name) for name in Files.__dataclass_fields__} | change
    with pytest.raises(CannotAudit, match=words) as refusal:
        audit_files(Files(**given), spec=ReferenceSpec(shadows=4, repeats=0), seed=0, agree=lambda _: False)

    assert "nobody" not in str(refusal.value)


REFERENCE = "tests.expunge.operator.test_studies:workload"
TUNED = '{"kind": "gradient_ascent", "steps": 3}'


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(fresh(workload().build, seed=0), tmp_path_factory.mktemp("weights"))[0]


@pytest.mark.parametrize("retrained", [False, True])
def test_the_best_spec_is_printed_as_register_takes_it(
    weights: Path, retrained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPUNGE_WORKLOADS", "tests")
    words = ["tune", REFERENCE, "--weights", str(weights), "--method", TUNED, "--budget", "3"]
    result = CliRunner().invoke(app, [*words, "--retrained"] if retrained else words)

    assert result.exit_code == 0, result.output
    assert isinstance(parse(json.loads(result.stdout)), GradientAscent)
    assert len(result.stderr.splitlines()) >= 3


def test_the_given_spec_is_tried_first_and_no_sample_of_the_test_set_is_needed(weights: Path) -> None:
    found = tune(
        REFERENCE, allowed=("tests",), weights=weights, method=TUNED, budget=2, share=0.2, retrained=False, seed=1
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
        tune(given.pop("reference"), allowed=("tests",), budget=2, share=0.1, retrained=False, **given)
