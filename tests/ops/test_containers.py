import fnmatch
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from service.settings import Settings
from tests.ops.files import ROOT, compose

CONTAINERS = ROOT / "ops/containers"


def script(name: str) -> ModuleType:
    """One of the scripts, as a module."""
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(CONTAINERS / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


LOCK = script("lock")


def locked(*names: str) -> dict[str, tuple[str, set[str]]]:
    """Version and hashes of what lock files hold, by the distribution's name."""
    return {name: one for lock in names for name, one in LOCK.read(CONTAINERS / f"locks/{lock}.txt").items()}


def installed(image: str) -> set[str]:
    """The names of all distributions in an image."""
    return set(locked(image, *(["torch-cpu"] if image == "worker" else [])))


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
    found = installed("api")

    assert {"fastapi", "uvicorn", "alembic", "sqlalchemy", "psycopg"} <= found
    assert not {"torch", "torchvision", "scikit-learn", "expunge"} & found


def test_every_image_can_send_traces() -> None:
    for image in ("api", "worker"):
        assert "opentelemetry-exporter-otlp-proto-http" in installed(image), image


@pytest.mark.parametrize("image", ["api", "worker"])
def test_every_distribution_of_an_image_is_locked_at_the_version_that_ci_tested_with_a_hash(image: str) -> None:
    """If one is missing or another version, run `python3 ops/containers/lock`."""
    text = (ROOT / "constraints.txt").read_text()
    pinned = {
        LOCK.normal(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, flags=re.MULTILINE)
    }
    found = locked(image)

    assert {name: version for name, (version, _) in found.items()} == {name: pinned[name] for name in found}
    assert all(hashes for _, hashes in found.values())
    for line in LOCK.wanted(image):
        requirement = Requirement(line)
        assert requirement.specifier.contains(found[LOCK.normal(requirement.name)][0]), line


def test_both_builds_of_torch_are_the_version_that_ci_tested_with_hashes() -> None:
    (version,) = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)

    assert locked("torch-cpu")["torch"][0] == locked("torch-cuda")["torch"][0] == version
    assert all(hashes for build in ("torch-cpu", "torch-cuda") for _, hashes in locked(build).values())
    assert not set(locked("torch-cuda")) & set(locked("worker"))


def test_pip_asks_one_index_alone_and_checks_hashes_in_every_step_of_the_images() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    steps = re.findall(r"pip install (.*?)(?:&&|$)", text, flags=re.MULTILINE)

    assert len(steps) == 5
    for step in steps:
        assert "--no-deps" in step
        assert step.count("--index-url") + step.count("--no-index") == 1
        assert "--require-hashes" in step or "--no-index" in step
    for path in (ROOT / "Dockerfile", ROOT / "Makefile", ROOT / "docker-compose.yml", ROOT / ".ci/run"):
        assert "--extra-index-url" not in path.read_text(), path


def test_commands_run_in_a_volume_that_is_not_the_storages_and_belongs_to_their_user() -> None:
    """`expunge train` writes to ./weights, and `expunge purge` deletes from the storage what no version needs."""
    base, *_, worker = (ROOT / "Dockerfile").read_text().split("\nFROM ")[1:]
    (folder,) = re.findall(r"^WORKDIR (\S+)$", worker, flags=re.MULTILINE)
    (storage,) = re.findall(r"EXPUNGE_STORAGE=(\S+)", worker)
    volumes = dict(volume.split(":") for volume in compose()["services"]["operator"]["volumes"])
    (of_storage,) = (name for name, path in volumes.items() if Path(storage).is_relative_to(path))
    (of_commands,) = (name for name, path in volumes.items() if Path(folder).is_relative_to(path))

    assert of_commands != of_storage
    assert set(volumes) <= set(compose()["volumes"])
    made = re.findall(r"install --directory --owner expunge --group expunge --mode 0700 (.*)", base)
    assert set(volumes.values()) <= set(made[0].split())


def test_a_lock_keeps_the_hashes_of_other_platforms_as_long_as_the_version_stays(tmp_path: Path) -> None:
    path, one, other = tmp_path / "lock.txt", "a" * 64, "b" * 64
    LOCK.write(path, {"numpy": ("2.0", {one})}, index="https://pypi.org/simple")
    LOCK.write(path, {"numpy": ("2.0", {other})}, index="https://pypi.org/simple")
    assert LOCK.read(path) == {"numpy": ("2.0", {one, other})}
    LOCK.write(path, {"numpy": ("2.1", {other})}, index="https://pypi.org/simple")
    assert LOCK.read(path) == {"numpy": ("2.1", {other})}


def test_pip_refuses_a_file_that_is_not_the_locked_one(tmp_path: Path) -> None:
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing.py", "")
        archive.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        archive.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("thing-1.0.dist-info/RECORD", "")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--require-hashes",
        "--no-index",
        "--find-links",
        ".",
    ]
    for digest, status in ((hashlib.sha256(wheel.read_bytes()).hexdigest(), 0), ("0" * 64, 1)):
        LOCK.write(tmp_path / "lock.txt", {"thing": ("1.0", {digest})}, index="here")
        command = [*install, "--target", str(tmp_path / "target"), "--requirement", "lock.txt"]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert found.returncode == status, found.stderr
        (tmp_path / "lock.txt").unlink()


def test_the_bill_of_materials_names_everything_that_is_installed_with_the_locked_hashes() -> None:
    command = [sys.executable, str(CONTAINERS / "sbom"), str(CONTAINERS / "locks/api.txt")]
    bill = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    by_name = {component["name"]: component for component in bill["components"]}

    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert set(by_name) == {LOCK.normal(one.metadata["Name"]) for one in distributions()} - {"expunge"}
    version, hashes = locked("api")["fastapi"]
    assert by_name["fastapi"]["purl"] == f"pkg:pypi/fastapi@{version}"
    assert [one["content"] for one in by_name["fastapi"]["hashes"]] == sorted(hashes)
    assert "hashes" not in by_name["pytest"]  # no lock file has it


PINS = script("pin-images")

DOCKER = """#!/bin/sh
[ "$1 $2 $3 $5" = "buildx imagetools inspect --format" ] || exit 1
echo "sha256:$(printf %s "$4" | sha256sum | cut -c1-64)"
"""


def test_every_image_of_others_is_pinned_to_a_digest() -> None:
    assert PINS.main(["--check"]) == 0


def test_images_are_pinned_to_the_digests_that_the_registries_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(DOCKER)
    (tmp_path / "bin/docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for path in ("Dockerfile", "docker-compose.yml", "ops/kubernetes/base/postgres.yaml"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(re.sub(r"@sha256:[0-9a-f]{64}", "", (ROOT / path).read_text()))
    assert PINS.main(["--check"], tmp_path) == 1
    loose = capsys.readouterr().out.splitlines()
    assert {"Dockerfile: python:3.11.14-slim-bookworm", "docker-compose.yml: grafana/grafana:12.1.1"} <= set(loose)
    theirs = {
        one["image"].partition("@")[0]
        for one in compose()["services"].values()
        if not one["image"].startswith("expunge-")
    }
    assert {f"docker-compose.yml: {image}" for image in theirs} <= set(loose)

    assert PINS.main([], tmp_path) == 0
    assert PINS.main(["--check"], tmp_path) == 0
    digest = hashlib.sha256(b"postgres:18.1-bookworm").hexdigest()
    pinned = f"image: postgres:18.1-bookworm@sha256:{digest}\n"
    assert pinned in (tmp_path / "docker-compose.yml").read_text()
    assert pinned in (tmp_path / "ops/kubernetes/base/postgres.yaml").read_text()
    before = (tmp_path / "docker-compose.yml").read_text()
    assert PINS.main([], tmp_path) == 0
    assert (tmp_path / "docker-compose.yml").read_text() == before


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
