import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from typer.testing import CliRunner

from expunge.cli.main import COMMANDS, app, first_steps
from expunge.stack.folder import Folder, default_folder
from expunge.stack.stack import Stack
from tests.expunge.stack.test_folder import SETTINGS
from tests.fixtures.waiting import PATIENCE

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


def test_an_expected_error_is_one_message_without_a_traceback_and_no_wait_for_torch(tmp_path: Path) -> None:
    program = "import sys; sys.modules.update(torch=None)\nfrom expunge.cli.main import main\nmain()"
    command = [sys.executable, "-c", program, "register", "digits", "tests.worker.digits:workload"]
    result = subprocess.run([*command, "--data-dir", str(tmp_path)], capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 1
    assert result.stderr.startswith("Error No stack runs on")
    assert "Traceback" not in result.stderr


def test_the_stack_starts_and_keys_are_made_without_torch() -> None:
    program = "import sys; sys.modules.update(torch=None)\nimport expunge.operator.keys, expunge.stack.stack"
    assert subprocess.run([sys.executable, "-c", program], timeout=PATIENCE).returncode == 0


def steps(*, workloads: str, key: str | None = None, folder: Path = Path("/x")) -> str:
    running = Stack(folder=Folder(folder), settings=replace(SETTINGS, workloads=workloads), api_key=key, children=[])
    return "\n".join(first_steps(running))


def test_the_first_steps_use_the_examples_if_the_allow_list_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    printed = steps(workloads="examples, acme", key="expunge_secret")
    assert printed.startswith(f". {sys.prefix}/bin/activate")
    assert "EXPUNGE_API_KEY=expunge_secret" in printed
    assert "keys create" not in printed
    assert "expunge register digits examples.digits:workload" in printed


def test_otherwise_they_name_the_allow_list_and_no_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{sys.prefix}/bin")
    printed = steps(workloads="acme")
    assert "activate" not in printed
    assert "EXPUNGE_WORKLOADS=acme" in printed
    assert "examples" not in printed
    assert "expunge keys create" in printed  # a later start does not know the key that the first one printed
    assert "…" not in printed


def test_they_name_the_data_folder_unless_commands_find_it_by_themselves() -> None:
    assert "EXPUNGE_DATA='/var/my data'" in steps(workloads="acme", folder=Path("/var/my data"))
    assert "EXPUNGE_DATA" not in steps(workloads="acme", folder=default_folder())
