import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from expunge.demo.main import Plan, choose_forget_sets, main
from expunge.errors import DemoFailed
from report.document import Report
from tests.fixtures.waiting import alive, await_that
from verifier.checking import verify_files

TINY = Plan(reference="tests.worker.digits:workload", workloads="tests")


@pytest.fixture
def before() -> set[int]:
    """The processes that run already, such as other tests' servers."""
    return {child.pid for child in psutil.Process().children()}


def started_since(before: set[int]) -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.pid not in before]


def test_the_two_requests_forget_different_samples_which_the_plan_determines() -> None:
    ids = [f"digit-{i}" for i in range(3000)]
    chosen = choose_forget_sets(ids, Plan())
    assert chosen == choose_forget_sets(ids, Plan())
    assert (len(chosen.first), len(chosen.second)) == (300, 10)
    assert len(set(chosen.both)) == 310


@pytest.mark.end_to_end
def test_the_demo_runs_to_its_end_whatever_deployment_the_environment_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    production = tmp_path / "production"
    production.mkdir()
    for name, value in {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/production",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
        "EXPUNGE_STORAGE": str(production),
        "EXPUNGE_SAMPLE_KEY": "cd" * 32,
        "EXPUNGE_SIGNING_KEYS": str(production),
        "EXPUNGE_API_KEY": "expunge_production",
        "EXPUNGE_DATA": str(production),
        "EXPUNGE_CONNECTORS": str(production / "connectors.toml"),
        "EXPUNGE_PROCESSES": "7",
        "HTTP_PROXY": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    main(folder=tmp_path / "reports", plan=TINY)
    assert list(production.iterdir()) == []
    captured = capsys.readouterr()
    output = captured.out
    assert re.search(r"^0:\d\d:\d\d  \S", captured.out + captured.err, re.MULTILINE)  # plain lines, as into a log
    assert "retrained again" in output
    assert "Noise floor" in output
    assert "Reference predictions" in output
    assert "Matching is published" in output
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
        Report.model_validate_json(path.read_bytes())
        assert report["audit"]["relearn"]["curves"]["reference"] is not None
        assert path.with_suffix(".html").as_uri() in output
        found = verify_files(path.with_suffix(".dsse"), keys=[path.with_name("signing-key.pem")], report=path)
        assert found.refused is None
    assert started_since(before) == []


@pytest.mark.end_to_end
def test_a_demo_that_fails_stops_everything_and_keeps_the_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: set[int]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    broken = dataclasses.replace(TINY, reference="tests.worker.digits:broken")
    with pytest.raises(DemoFailed, match="no data here"):
        main(folder=tmp_path / "reports", plan=broken)
    assert started_since(before) == []
    assert not (tmp_path / "reports").exists()
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("expunge-demo-")


@pytest.mark.slow
@pytest.mark.end_to_end
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_stops_everything_and_leaves_no_files(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "from pathlib import Path; from expunge.demo.main import main; from tests.expunge.demo.test_main import TINY; "
        f"main(folder=Path({str(tmp_path / 'reports')!r}), plan=TINY)"
    )
    # Not below tmp_path: PostgreSQL's socket lies in it, and the path of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="demo-") as scratch:
        demo = subprocess.Popen(
            [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": scratch}
        )
        with demo:
            assert demo.stderr is not None
            assert any("starting the migrations" in line for line in demo.stderr)
            started = psutil.Process(demo.pid).children(recursive=True)
            demo.send_signal(number)
            demo.stderr.read()
        assert demo.returncode == 130
        assert len(started) >= 4
        # A parent-death watchdog notices the end of its parent a moment later.
        await_that(lambda: alive(started) == [], "what the demo started to end")
        assert list(Path(scratch).glob("expunge-demo-*")) == []
