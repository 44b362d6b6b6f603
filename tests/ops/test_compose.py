import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from service.settings import Settings as ServiceSettings
from tests.ops.files import DASHBOARDS, GPU_FIELDS, ROOT, compose, metrics_of, queries, read_yaml
from worker.settings import Settings as WorkerSettings

SERVICES: dict[str, Any] = compose()["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def command_of(service: dict[str, Any]) -> list[str]:
    """What a service of ours runs: its own command, or its image's."""
    if "command" in service:
        return list(service["command"])
    stage = DOCKERFILE.split(f" AS {service['build']['target']}\n")[1].split("\nFROM ")[0]
    (found,) = re.findall(r"^CMD \[(.*)\]$", stage, flags=re.MULTILINE)
    return re.findall(r'"([^"]*)"', found)


def test_the_compose_specifications_schema_is_content() -> None:
    """The schema is compose-spec/compose-spec's schema/compose-spec.json, as of 2026."""
    schema = json.loads((ROOT / "tests/ops/schemas/compose-spec.json").read_text())

    jsonschema_rs.validator_for(schema).validate(compose())


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_docker_composes_own_reading_of_it_succeeds(profile: str, tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed")
    environment = {"COMPOSE_PROFILES": profile, "PATH": str(Path(program).parent), "HOME": str(tmp_path)}
    command = [program, "--env-file", ".env.example", "--file", "docker-compose.yml", "config", "--quiet"]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert found.returncode == 0, found.stderr


def test_hadolint_has_nothing_to_say() -> None:
    program = Path(sys.executable).parent / "hadolint"
    found = subprocess.run([program, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)

    assert (found.returncode, found.stdout) == (0, "")


def test_the_whole_stack_is_there() -> None:
    assert {"postgres", "redis", "migrate", "api", "worker", "worker-gpu", "beat", "prometheus", "grafana"} <= set(
        SERVICES
    )
    assert {"postgres-exporter", "redis-exporter", "dcgm-exporter"} <= set(SERVICES)
    jobs = {job["job_name"] for job in read_yaml("ops/prometheus/prometheus.yml")["scrape_configs"]}
    assert jobs == {"expunge", "postgres", "redis", "gpu", "prometheus"}


@pytest.mark.parametrize("name", OURS)
def test_every_command_of_ours_exists(name: str) -> None:
    program, *arguments = command_of(OURS[name])

    assert shutil.which(program, path=str(Path(sys.executable).parent)), program
    for argument in arguments:
        if re.fullmatch(r"(service|worker)\.\w+(:\w+)?", argument):
            module, _, attribute = argument.partition(":")
            assert hasattr(importlib.import_module(module), attribute or "celery_app")


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_one_that_is_read(name: str) -> None:
    known = {field.validation_alias for of in (ServiceSettings, WorkerSettings) for field in of.model_fields.values()}
    given = {variable.removesuffix("_FILE") for variable in OURS[name]["environment"]}

    others = {
        "MPLCONFIGDIR",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "WEB_CONCURRENCY",
        "PROMETHEUS_MULTIPROC_DIR",
    }
    assert given <= known | others
    assert {"DATABASE_URL", "REDIS_URL", "EXPUNGE_SAMPLE_KEY"} <= given


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_no_rights_they_do_not_need(name: str) -> None:
    service = OURS[name]

    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service
    assert f" AS {service['build']['target']}\n" in DOCKERFILE


def test_no_image_of_ours_runs_as_root() -> None:
    stages = [stage for stage in DOCKERFILE.split("\nFROM ") if stage.startswith("base AS ") and "ENTRYPOINT" in stage]

    assert len(stages) == 2
    assert all("\nUSER 10001:10001\n" in stage for stage in stages)


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned_and_every_service_is_looked_after(name: str) -> None:
    service = SERVICES[name]

    assert re.search(r":v?\d+\.\d+", service["image"])
    assert "healthcheck" in service or "HEALTHCHECK" in DOCKERFILE.split(f" AS {service['build']['target']}\n")[1]
    assert service["restart"] == ("no" if name in {"migrate", "operator"} else "unless-stopped")


def test_the_gpu_exporter_is_given_what_the_dashboards_ask_for() -> None:
    exporter = SERVICES["dcgm-exporter"]
    (mount,) = exporter["volumes"]
    source, target, _ = mount.split(":")
    asked = set().union(*(metrics_of(query) for path in DASHBOARDS for query in queries(path).values()))

    assert exporter["command"] == [f"--collectors={target}"]
    assert source == "./ops/prometheus/gpu.csv"
    assert set(GPU_FIELDS) == {name for name in asked if name.startswith("DCGM_")}
    for line in (ROOT / source).read_text().splitlines():
        assert line.startswith("#") or (line.count(",") == 2 and " gauge," in line)


def test_no_password_stands_in_the_file() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY|URL", variable) and variable != "EXPUNGE_PUBLIC_URL":
                assert str(value).startswith("/run/secrets/"), f"{name}: {variable}"


def test_secrets_are_declared_and_only_where_they_are_used() -> None:
    declared = set(compose()["secrets"])

    assert {secret for service in SERVICES.values() for secret in service.get("secrets", ())} == declared
    for service in SERVICES.values():
        for value in service.get("environment", {}).values():
            if str(value).startswith("/run/secrets/"):
                assert Path(value).name in service["secrets"]


def test_nothing_is_reachable_from_other_machines_and_the_database_not_at_all() -> None:
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
    assert "ports" not in SERVICES["postgres"]
    assert "ports" not in SERVICES["redis"]
    assert compose()["networks"]["back"] == {"internal": True}


def test_every_required_variable_is_in_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+)[:}]", (ROOT / "docker-compose.yml").read_text()))
    given = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE))

    assert asked <= given
    assert given - asked == {"COMPOSE_PROFILES"}
