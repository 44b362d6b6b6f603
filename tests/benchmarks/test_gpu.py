"""The command for a GPU, in a dry run on the processor: every step in small, with nothing but torch and what it brings."""

import json
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import language, training
from benchmarks.gpu.checks import NOT_COMPARED
from benchmarks.gpu.quality import SPECS
from benchmarks.gpu.session import Budget, Session
from benchmarks.writing import Row
from unlearning.data.objectives import classification
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload
from unlearning.methods.registry import METHODS

OURS = {"benchmarks", "examples", "report", "unlearning", "verifier"}
ALLOWED = ("torch", "torchvision", "safetensors", "scikit-learn", "annotated-types")
"""What the GPU's machine has, beside what these require."""

ONLY_THESE = """
import runpy, sys
allowed = {allowed!r} | sys.stdlib_module_names
class Only:
    def __init__(self, inner):
        self.inner = inner
    def __getattr__(self, name):
        return getattr(self.inner, name)
    def find_spec(self, name, path=None, target=None):
        known = name.split(".")[0] in allowed or name.startswith("_")
        return self.inner.find_spec(name, path, target) if known else None
sys.meta_path[:] = [Only(finder) for finder in sys.meta_path]
sys.argv = ["benchmarks.gpu", *{arguments!r}]
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
"""
STEPS = ["checks", "data", "background", "training", "quality", "sizes", "language", "more_seeds"]


def importable() -> set[str]:
    """The top-level modules of the allowed distributions and of what they require."""
    found: set[str] = set()
    pending = list(ALLOWED)
    while pending:
        name = re.sub(r"[-_.]+", "-", pending.pop()).lower()
        if name in found:
            continue
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another platform, such as CUDA's libraries
            continue
        found.add(name)
        pending += [re.split(r"[^\w.-]", each)[0] for each in needed if "extra ==" not in each]
    modules = metadata.packages_distributions().items()
    return {module for module, owners in modules if {re.sub(r"[-_.]+", "-", one).lower() for one in owners} & found}


def dry_run(out: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    code = ONLY_THESE.format(allowed=OURS | importable(), arguments=["--dry-run", "--out", str(out), *arguments])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(out.read_text()), done.stdout


@pytest.mark.slow
def test_a_dry_run_takes_every_step_and_writes_its_figures(tmp_path: Path) -> None:
    found, said = dry_run(tmp_path / "gpu.json")

    assert [(entry["step"], entry["state"]) for entry in found["steps"]] == [(step, "done") for step in STEPS]
    assert all({"seconds", "peak_memory_bytes"} <= entry.keys() for entry in found["steps"])
    assert "Nothing of an earlier run is used" in said
    assert found["dry_run"] is True
    facts = found["facts"]
    assert {name.split(",")[0] for name in facts["conformance"]} == {*METHODS, "audit"} - NOT_COMPARED
    assert facts["conformance_failed"] == []
    assert "failed_methods" not in facts
    assert {"eager", "compiled", "second_model"} <= facts["compiler"].keys()
    assert facts["training"]["flops_per_image"] > 0

    rows = [Row(**row) for row in found["rows"]]
    for share in ("10%", "1%"):
        here = {(row.method, row.metric): row for row in rows if row.case == f"CIFAR-10 JPEG, {share} forgotten"}
        for method in ("retrain", *SPECS):
            assert {(method, metric) for metric in ("average_gap", "ua", "seconds", "retrain_ratio")} <= here.keys()
            assert here[method, "average_gap"].n == 2
        assert ("retrained", "average_gap") not in here
    texts = {(row.method, row.metric): row.mean for row in rows if row.case.startswith("author facts")}
    for method in ("original", "retrain", *language.SPECS):
        assert {
            (method, metric) for metric in ("forget_loss_gap", "greedy_extraction", "retrain_ratio")
        } <= texts.keys()
    assert {row.case for row in rows if " of " in row.case} == {
        f"CIFAR-10 JPEG, 3 of {size} forgotten" for size in (75, 150, 300)
    }


def test_a_dry_run_without_time_begins_no_step(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    out.write_text("of an earlier run")
    found, _ = dry_run(out, "--minutes", "0")

    assert [(entry["step"], entry["state"]) for entry in found["steps"]] == [
        (step, "left_out") for step in ("checks", "data", "background")
    ]
    assert found["rows"] == []


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(
        dry_run=True, data=tmp_path, out=tmp_path / "gpu.json", folder=tmp_path,
        ends=time.monotonic() + 1000,
    )  # fmt: skip


def test_a_step_that_fails_is_noted_and_does_not_end_the_session(session: Session) -> None:
    def fails(own: Session, _: Budget) -> None:
        own.facts["before"] = float("nan")
        raise RuntimeError("no kernel image")

    session.run("first", fails, seconds=5)
    session.run("second", lambda own, _: own.facts.update(after=1), seconds=5)

    found = json.loads(session.out.read_text())
    assert [entry["state"] for entry in found["steps"]] == ["failed", "done"]
    assert found["steps"][0]["error"] == "RuntimeError: no kernel image"
    assert found["facts"] == {"before": None, "after": 1}


def test_without_time_for_a_training_the_step_is_partly_done(session: Session) -> None:
    sets = {
        name: SampleSet(
            ids=tuple(f"{name}-{i}" for i in range(4)), inputs=torch.randn(4, 3, 16, 16), targets=torch.arange(4)
        )
        for name in ("train", "held_out", "test")
    }
    workload = Workload(
        name="small", build=training.small_network, objective=classification(10), recipe=training.SMALL, **sets
    )

    def works(own: Session, budget: Budget) -> str | None:
        budget.ends = 0.0
        return training.speed(workload, own, budget)

    assert session.run("training", works, seconds=5) is None

    (entry,) = json.loads(session.out.read_text())["steps"]
    assert entry["state"] == "partly_done"


def test_when_the_time_is_over_no_step_begins_and_the_results_say_so(session: Session) -> None:
    begun: list[str] = []
    session.out.write_text("of an earlier run")
    session.ends = time.monotonic()

    session.run("step", lambda *_: begun.append("step"), seconds=5)

    found = json.loads(session.out.read_text())
    assert [(entry["step"], entry["state"]) for entry in found["steps"]] == [("step", "left_out")]
    assert (begun, found["rows"]) == ([], [])


def test_items_for_which_a_step_has_no_time_are_named(session: Session) -> None:
    def works(_: Session, budget: Budget) -> None:
        assert budget.begins("one")
        budget.ends = 0.0
        assert not budget.begins("other")

    session.run("step", works, seconds=5)

    (entry,) = json.loads(session.out.read_text())["steps"]
    assert (entry["state"], entry["left_out"]) == ("partly_done", ["other"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_full_command_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", "--data", "data"])
    with pytest.raises(SystemExit) as ended:
        command.main()

    assert ended.value.code == 2
    assert "--dry-run" in capsys.readouterr().err
