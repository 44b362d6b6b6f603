import subprocess
import sys
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from typer.testing import CliRunner

from expunge.cli.main import COMMANDS, app

NAMES = [name for commands in COMMANDS.values() for name in commands]


def test_the_help(snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 100)  # read from the environment once, when it is first imported
    found = CliRunner().invoke(app, ["--help"], env={"NO_COLOR": "1"}, prog_name="expunge")
    assert found.output == snapshot


@pytest.mark.parametrize("command", NAMES)
def test_each_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5


def test_an_expected_error_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "expunge.cli", "register", "digits", "tests.worker.digits:workload"]
    result = subprocess.run([*command, "--data-dir", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith("Error No stack runs on")
    assert "Traceback" not in result.stderr


def test_the_command_line_starts_without_torch() -> None:
    program = "import sys; sys.modules.update(torch=None)\nimport expunge.cli"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
