import dataclasses
import json
import tempfile
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console, RenderableType

from expunge.cli.console import progress_bar
from expunge.demo.children import launch, result, stage
from expunge.demo.main import main
from expunge.demo.plan import Plan, forget_sets
from expunge.demo.requests import Unlearned
from expunge.demo.table import COLUMNS, Figures, Row, Section, average_gap, comparison, legend, noise, outcome
from expunge.errors import DemoFailed
from report.document import validate
from verifier.checking import verify_files


@pytest.fixture
def before() -> set[int]:
    """What runs already, such as the other tests' servers."""
    return {child.pid for child in psutil.Process().children()}


def started_since(before: set[int]) -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.pid not in before]


TINY = Plan(reference="tests.worker.digits:workload", workloads="tests")


def row(label: str, ua: float, *, seconds: float = 20.0, delay: int | None = 20) -> Row:
    figures = Figures(ua=ua, ra=99.0, ta=94.0, mi=ua, membership_auc=0.5, delay=delay, censored=delay == 60)
    return Row(label=label, figures=figures, seconds=seconds)


SECTION = Section(
    title="150 samples",
    original=row("original", 0.0, delay=0),
    unlearned=row("unlearned: LTU", 11.0, seconds=5.0, delay=60),
    retrained=row("retrained", 12.0),
    again=row("retrained again", 13.0),
)


def printed(thing: RenderableType) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(thing)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO
    return text


def test_the_two_requests_forget_different_samples_and_the_same_ones_in_every_process() -> None:
    ids = [f"digit-{i}" for i in range(3000)]
    chosen = forget_sets(ids, Plan())
    assert chosen == forget_sets(ids, Plan())
    assert (len(chosen.first), len(chosen.second)) == (150, 30)
    assert len(set(chosen.both)) == 180


def test_the_gap_is_the_mean_over_the_four_measures() -> None:
    assert average_gap(SECTION.original, SECTION.retrained) == pytest.approx((12 + 0 + 0 + 12) / 4)


def test_the_table_shows_every_model_within_eighty_columns() -> None:
    lines = {line[:16].strip(): line.split() for line in printed(comparison([SECTION])).splitlines()}
    assert lines["unlearned: LTU"][2:] == ["11.0", "99.0", "94.0", "11.0", "0.5", "0.50", "60+", "5.0", "25%"]
    assert lines["retrained"][5] == "–"
    assert "retrained again" in lines


def test_the_legend_has_a_line_for_each_column() -> None:
    assert len(printed(legend()).splitlines()) == len(COLUMNS)


def test_the_noise_floor_is_stated_and_a_difference_within_it_is_not_called_clear() -> None:
    assert "by 0.5 points" in noise(SECTION)
    assert "far beyond it" in noise(SECTION)
    same = dataclasses.replace(SECTION, original=row("original", 11.5))
    assert "not clearly beyond it" in noise(same)


def test_a_method_that_was_not_enough_is_shown_with_the_reason() -> None:
    done = Unlearned(
        samples=150,
        methods=("ltu", "ieu"),
        findings=("It comes back at once.",),
        seconds=5.0,
        sha256="ab",
        verdict="verified",
        sentence="It is forgotten.",
        reports={},
    )
    text = " ".join(printed(outcome(done, asked="LTU")).split())
    assert "LTU was not enough, and the policy went on. It comes back at once." in text
    assert "IEU is published: verified. It is forgotten." in text


def test_a_failing_child_is_told_with_its_log_and_leaves_nothing_running(tmp_path: Path, before: set[int]) -> None:
    with progress_bar() as bars, stage(tmp_path, bars) as on:
        endless = launch("tests.expunge.endless", {}, name="endless", on=on).child.process
        assert psutil.pid_exists(endless.pid)
        failing = launch("json.tool", {}, name="failing", on=on)
        with pytest.raises(DemoFailed, match=r"(?s)failing ended with status [12].*No such file"):
            result(failing)
    assert endless.poll() is not None
    assert started_since(before) == []


@pytest.mark.end_to_end
@pytest.mark.slow
def test_the_demo_plays_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str], before: set[int]) -> None:
    main(folder=tmp_path / "reports", plan=TINY)
    output = capsys.readouterr().out
    assert "retrained again" in output
    assert "Noise floor" in output
    assert sorted(path.suffix for path in (tmp_path / "reports").iterdir()) == [
        ".dsse",
        ".dsse",
        ".html",
        ".html",
        ".json",
        ".json",
        ".pdf",
        ".pdf",
        ".pem",
    ]
    for path in (tmp_path / "reports").glob("*.json"):
        report = json.loads(path.read_text())
        validate(report)
        assert report["audit"]["relearn"]["curves"]["reference"] is not None
        assert path.with_suffix(".html").as_uri() in output
        found = verify_files(path.with_suffix(".dsse"), keys=[path.with_name("signing-key.pem")], report=path)
        assert found.refused is None
    assert started_since(before) == []


@pytest.mark.end_to_end
@pytest.mark.slow
def test_a_demo_whose_training_fails_stops_everything_and_shows_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: set[int]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # The logs are kept in it.
    broken = dataclasses.replace(TINY, reference="tests.worker.digits:broken")
    with pytest.raises(DemoFailed, match="no data here"):
        main(folder=tmp_path / "reports", plan=broken)
    assert started_since(before) == []
    assert not (tmp_path / "reports").exists()
