import errno
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from syrupy.assertion import SnapshotAssertion
from typer.testing import CliRunner

from connectors.storage import StorageForbidden
from expunge.cli.main import COMMANDS, app, first_steps, main
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


AWAY = "postgresql://nobody:secret@127.0.0.1:1/nothing"
DEPLOYMENT = {"DATABASE_URL": AWAY, "EXPUNGE_STORAGE": "/nowhere", "EXPUNGE_SAMPLE_KEY": "00" * 32}
CALL = ("card", "digits", "--key", "expunge_x", "--url", "http://127.0.0.1:9")


def end_of(monkeypatch: pytest.MonkeyPatch, *arguments: str, **environment: str) -> object:
    """The status with which the command ends."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["expunge", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["keys", "list"], DEPLOYMENT, "DATABASE_URL is right"),
        (["purge"], DEPLOYMENT, "DATABASE_URL is right"),
        (["keys", "list"], DEPLOYMENT | {"DATABASE_URL": "mysql://a:secret@b/c"}, "must be PostgreSQL"),
        (["keys", "list"], DEPLOYMENT | {"DATABASE_URL": f"{AWAY}?secret=1"}, "DATABASE_URL is right"),
        (["keys", "list"], {"EXPUNGE_DATA": __file__}, "is a file"),
        (CALL, {"EXPUNGE_DATA": __file__}, "Nothing answers"),  # it needs no data folder
        (CALL[:4], {"EXPUNGE_DATA": __file__}, "is a file"),
        (CALL[:4], {"EXPUNGE_DATA": "~nobody-of-this-name/x"}, "--data-dir"),
        (CALL[:4], {"EXPUNGE_URL": "http://[::1"}, "cannot be called"),
        (CALL, {"ALL_PROXY": "gopher://x"}, "the proxy that the environment names"),
        (CALL, {"HTTPS_PROXY": "http://user:secret/x@proxy:80"}, "the proxy that the environment names"),
        (CALL[:4], {"EXPUNGE_URL": "user:secret@host"}, "http://"),
        (CALL[:4], {"EXPUNGE_URL": "http://xn--a.invalid"}, "cannot be sent"),
        ([*CALL[:4], "--url", "http://user:secret@127.0.0.1:9"], {}, "Nothing answers at http://127.0.0.1:9"),
        (
            ["do-not-train", "digits", "--ids", __file__, "--key", "expunge_x", "--url", "http://xn--a.invalid"],
            {"EXPUNGE_SAMPLE_KEY": "00" * 32},
            "cannot be sent",
        ),
        (CALL, {"SSL_CERT_FILE": "/nope"}, "SSL_CERT_FILE (/nope)"),
        (CALL, {"SSL_CERT_FILE": __file__}, f"SSL_CERT_FILE ({__file__})"),
        ([*CALL[:3], "exp\u00fcnge", *CALL[4:]], {}, "Copy it again"),
        ([*CALL[:3], "expunge_x\n", *CALL[4:]], {}, "Copy it again"),
        ([CALL[0], "a\n", *CALL[2:]], {}, "cannot be sent"),
        (["submit", "s", "--dataset", "d", "--reason", "\udce9", *CALL[2:]], {}, "cannot be sent"),
        (["submit", "s", "--dataset", "d", "--idempotency-key", "\u00e9", *CALL[2:]], {}, "cannot be sent"),
        (["up", "--data-dir", __file__], {}, "cannot be used"),
        (["train", "examples.digits:workload", "--out", __file__], {}, "nothing was trained"),
    ],
)
def test_an_ordinary_fault_is_one_line_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    environment: dict[str, str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert end_of(monkeypatch, *arguments, **environment) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("Error ")
    assert words in line
    assert "secret" not in line


def test_an_error_of_the_operating_system_is_one_line_and_one_of_ours_has_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: Exception) -> Callable[..., NoReturn]:
        def failing(*_: object, **__: object) -> NoReturn:
            raise error

        return failing

    for error, line in (
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "/x: No space left on device. Make room on the disk."),
        (StorageForbidden("s3://b: it is under a hold."), "s3://b: it is under a hold."),
        (TimeoutError(), "TimeoutError"),
    ):
        monkeypatch.setattr("expunge.cli.main.app", fail(error))
        assert end_of(monkeypatch) == 1
        assert capsys.readouterr().err == f"Error {line}\n"
    monkeypatch.setattr("expunge.cli.main.app", fail(KeyError("x")))
    with pytest.raises(KeyError):
        main()


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
