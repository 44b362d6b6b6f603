"""The verifier by itself: its wheel, in an environment that has `cryptography` and nothing else."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.verifier.conftest import Case

ROOT = Path(__file__).parents[2]
NEEDED = ("cryptography", "cffi", "_cffi_backend*", "pycparser")
"""`cryptography`, and what its own wheel needs."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a bare environment with the verifier's wheel and, linked in, `cryptography`."""
    folder = tmp_path_factory.mktemp("alone")
    source = shutil.copytree(ROOT / "verifier", folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    build = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index")
    subprocess.run([*build, "--wheel-dir", folder, source], check=True, capture_output=True)
    venv.create(folder / "venv", with_pip=False)
    site = folder / "venv" / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    with zipfile.ZipFile(next(folder.glob("expunge_verifier-*.whl"))) as wheel:
        wheel.extractall(site)
    installed = Path(sysconfig.get_path("platlib"))
    for pattern in NEEDED:
        for path in installed.glob(pattern):
            (site / path.name).symlink_to(path)
    return folder / "venv" / "bin" / "python"


def run(python: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-I", *map(str, arguments)], capture_output=True, text=True)


def test_it_verifies_with_nothing_of_the_service_installed(python: Path, case: Case) -> None:
    for name in ("ledger", "service", "worker", "pydantic", "sqlalchemy", "rfc8785", "typer", "numpy"):
        assert run(python, "-c", f"import {name}").returncode == 1, name
    given = (case.path("statement.json"), "--key", case.path("key.pem"), "--report", case.path("report.json"))
    done = run(python, "-m", "verifier.cli", *given, "--sample", case.path("inclusion.json"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("SIGNATURE GOOD\n")
    assert "Not shown by this or any such check" in done.stdout


def test_it_refuses_with_status_one_and_still_says_what_is_not_shown(python: Path, case: Case) -> None:
    case.path("report.json").write_bytes(case.path("report.json").read_bytes() + b" ")
    given = (case.path("statement.json"), "--key", case.path("key.pem"), "--report", case.path("report.json"))
    done = run(python, "-m", "verifier.cli", *given)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("NOT PROVEN\n")
    assert "Not shown by this or any such check" in done.stdout


def test_a_reader_that_stops_early_changes_neither_the_status_nor_prints_a_traceback(case: Case) -> None:
    given = (case.path("statement.json"), "--key", case.path("key.pem"))
    command = [sys.executable, "-m", "verifier.cli", *map(str, given)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        running.stdout.close()
        _, errors = running.communicate()
    assert (running.returncode, errors) == (0, "")


@pytest.mark.parametrize("command", [("verifier.cli",), ("expunge.cli", "verify")])
def test_a_letter_that_the_terminal_does_not_have_changes_no_status(case: Case, command: tuple[str, ...]) -> None:
    report = case.path("report.json").rename(case.path("prüfbericht.json"))
    given = (case.path("statement.json"), "--key", case.path("key.pem"), "--report", report)
    run = [sys.executable, "-m", *command, *map(str, given)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"pr?fbericht.json" in done.stdout


def test_its_version_is_the_projects() -> None:
    own, whole = (tomllib.loads((ROOT / path).read_text()) for path in ("verifier/pyproject.toml", "pyproject.toml"))
    assert own["project"]["version"] == whole["project"]["version"]
