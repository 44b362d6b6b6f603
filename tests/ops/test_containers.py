import fnmatch
import os
import re
import stat
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from service.settings import Settings
from tests.ops.files import ROOT, compose

CONTAINERS = ROOT / "ops/containers"


def stage(image: str) -> str:
    """The lines of the Dockerfile that install an image's packages."""
    return (ROOT / "Dockerfile").read_text().split(f" AS build-{image}\n")[1].split("\nFROM ")[0]


def requirement_lines(image: str) -> list[str]:
    """What an image installs for its extras, as the Dockerfile asks for them."""
    (extras,) = re.findall(r"containers/requirements ([a-z ]+) >", stage(image))
    command = [sys.executable, str(CONTAINERS / "requirements"), *extras.split()]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def requirements(image: str) -> set[str]:
    """The names of what an image installs for its extras."""
    return {Requirement(line).name for line in requirement_lines(image)}


def installed(image: str) -> set[str]:
    """The names of all distributions in an image: those that the Dockerfile names, and what they require."""
    given = " ".join(re.findall(r"(?:requirements\.txt|simple) ([a-z -]+)$", stage(image), flags=re.MULTILINE))
    waiting = [Requirement(line) for line in [*requirement_lines(image), *given.split()]]
    found: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        for extra in {"", *requirement.extras}:
            if (requirement.name, extra) in found:
                continue
            found.add((requirement.name, extra))
            with suppress(PackageNotFoundError):  # one of another platform
                below = map(Requirement, requires(requirement.name) or ())
                waiting += [r for r in below if r.marker is None or r.marker.evaluate({"extra": extra})]
    return {name.lower().replace("_", "-") for name, _ in found}


IMPORT_WITH_THESE_ALONE = """
import importlib, sys
from importlib.metadata import packages_distributions
installed, modules = {installed!r}, {modules!r}
owners = packages_distributions()
class Absent:
    def find_spec(self, name, path=None, target=None):
        names = {{owner.lower().replace("_", "-") for owner in owners.get(name.split(".")[0], ())}}
        if names and not names & installed and "expunge" not in names:
            raise ModuleNotFoundError(name + " is not in the image", name=name)
sys.meta_path.insert(0, Absent())
for name in modules:
    importlib.import_module(name)
"""


@pytest.mark.parametrize(
    ("image", "modules"),
    [
        ("api", ["service.app", "migrations.commands"]),
        ("worker", ["worker.tasks", "worker.run", "examples.digits", "expunge.cli.main", "expunge.operator.doctor"]),
    ],
)
def test_an_image_installs_everything_that_its_programs_need(image: str, modules: list[str]) -> None:
    program = IMPORT_WITH_THESE_ALONE.format(installed=installed(image), modules=modules)
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert found.returncode == 0, found.stderr


def test_every_package_is_copied_into_the_images() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}

    assert {folder for folder in folders if any(fnmatch.fnmatch(folder, p) for p in packages)} <= let_through


def test_the_api_image_has_no_torch() -> None:
    found = requirements("api")

    assert {"fastapi", "uvicorn", "alembic", "sqlalchemy", "psycopg"} <= found
    assert not {"torch", "torchvision", "scikit-learn", "expunge"} & found


def test_every_requirement_of_an_image_is_pinned() -> None:
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text().lower(), flags=re.MULTILINE))

    def plain(name: str) -> str:
        return name.lower().replace("_", "-")

    assert {plain(name) for name in requirements("api") | requirements("worker")} <= set(map(plain, pinned))


def test_every_image_can_send_traces() -> None:
    for image in ("api", "worker"):
        assert "opentelemetry-exporter-otlp-proto-http" in requirements(image), image


def make_secrets(folder: Path) -> dict[str, str]:
    """Run the script in a folder and give what lies in ./secrets then."""
    subprocess.run([sys.executable, str(CONTAINERS / "make-secrets")], cwd=folder, check=True, capture_output=True)
    return {path.name: path.read_text() for path in (folder / "secrets").iterdir()}


def test_secrets_are_made_once_for_every_secret_that_compose_reads(tmp_path: Path) -> None:
    made = make_secrets(tmp_path)

    assert {f"./secrets/{name}" for name in made} == {secret["file"] for secret in compose()["secrets"].values()}
    assert make_secrets(tmp_path) == made
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert Settings(
        database_url=made["database_url"], redis_url=made["redis_url"], sample_key=made["sample_key"]
    ).sample_key_bytes
    assert made["postgres_password"] in made["database_url"]
    assert f"requirepass {made['redis_password']}" in made["redis.conf"]


def test_no_two_installations_have_the_same_secrets(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()

    one, other = make_secrets(tmp_path / "one"), make_secrets(tmp_path / "other")

    assert not set(one.values()) & set(other.values())


def run_entrypoint(*program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a program, by default one that tells its environment, says when the images' entry point has started it."""
    command = ["sh", str(CONTAINERS / "entrypoint"), *(program or ("env",))]
    return subprocess.run(command, env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True)


def test_a_setting_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://a:b'$c@host/name\n")

    seen = run_entrypoint(DATABASE_URL_FILE=str(tmp_path / "url"), REDIS_URL="redis://there").stdout.splitlines()

    assert "DATABASE_URL=postgresql://a:b'$c@host/name" in seen
    assert "REDIS_URL=redis://there" in seen


def test_a_secret_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    found = run_entrypoint(EXPUNGE_SAMPLE_KEY_FILE=str(tmp_path / "missing"))

    assert found.returncode == 1
    assert "EXPUNGE_SAMPLE_KEY_FILE" in found.stderr


def test_readiness_of_an_earlier_start_is_forgotten_and_an_operators_command_leaves_the_workers(tmp_path: Path) -> None:
    ready, celery = tmp_path / "ready", tmp_path / "celery"
    ready.touch()
    celery.write_text("#!/bin/sh\n")
    celery.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"

    assert run_entrypoint("true", EXPUNGE_READY_FILE=str(ready)).returncode == 0
    assert ready.exists()
    assert run_entrypoint("celery", "worker", EXPUNGE_READY_FILE=str(ready), PATH=path).returncode == 0
    assert not ready.exists()


def test_an_api_counts_from_nought_and_an_operators_command_leaves_what_it_counts(tmp_path: Path) -> None:
    counted, uvicorn = tmp_path / "metrics" / "counter_7.db", tmp_path / "uvicorn"
    uvicorn.write_text("#!/bin/sh\n")
    uvicorn.chmod(0o755)
    folder, path = str(counted.parent), f"{tmp_path}:{os.environ['PATH']}"

    assert run_entrypoint("uvicorn", PROMETHEUS_MULTIPROC_DIR=folder, PATH=path).returncode == 0
    counted.touch()
    assert run_entrypoint("true", PROMETHEUS_MULTIPROC_DIR=folder).returncode == 0
    assert counted.exists()
    assert run_entrypoint("uvicorn", PROMETHEUS_MULTIPROC_DIR=folder, PATH=path).returncode == 0
    assert not counted.exists()
