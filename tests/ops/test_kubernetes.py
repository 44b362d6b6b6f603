"""The Kubernetes manifests against the schemas of Kubernetes, and against the settings and images that they name."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.orm import Session, sessionmaker

from service.metrics import families
from service.settings import Settings as ServiceSettings
from tests.ops.files import ROOT, compose
from tests.ops.test_containers import make_secrets
from tests.service.conftest import Serve, Site
from worker.settings import Settings as WorkerSettings

FOLDER = ROOT / "ops/kubernetes"
VERSIONS = ("1.30", "1.37")
"""The oldest that is meant to work, and the newest whose schemas there are."""


def base() -> list[dict[str, Any]]:
    """Every object of the base."""
    files = yaml.safe_load((FOLDER / "base/kustomization.yaml").read_text())["resources"]
    return [object_ for name in files for object_ in yaml.safe_load_all((FOLDER / "base" / name).read_text())]


def pods() -> dict[str, dict[str, Any]]:
    """The pods' specifications by the name of what makes them."""
    return {o["metadata"]["name"]: o["spec"]["template"]["spec"] for o in base() if "template" in o.get("spec", {})}


def built(folder: str) -> list[dict[str, Any]]:
    """What kustomize makes of a folder."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    found = subprocess.run(["kubectl", "kustomize", str(FOLDER / folder)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return [*yaml.safe_load_all(found.stdout)]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_as_kubernetes_wants_it(version: str) -> None:
    for object_ in base():
        kubernetes_validate.validate(object_, version, strict=True)


@pytest.mark.parametrize("folder", ["base", "gpu"])
def test_kustomize_makes_objects_that_are_as_kubernetes_wants_them(folder: str) -> None:
    objects = built(folder)

    for object_ in objects:
        kubernetes_validate.validate(object_, VERSIONS[-1], strict=True)
    assert {o["metadata"].get("namespace", "expunge") for o in objects} == {"expunge"}
    (worker,) = (o for o in objects if (o["kind"], o["metadata"]["name"]) == ("Deployment", "worker"))
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) is (folder == "gpu")
    assert ({"name": "EXPUNGE_DEVICE", "value": "cuda"} in container.get("env", [])) is (folder == "gpu")


def test_the_same_parts_run_the_same_images_as_in_compose() -> None:
    services = compose()["services"]

    for name, pod in pods().items():
        assert pod["containers"][0]["image"] == services[name]["image"], name
    assert set(pods()) == {"api", "beat", "postgres", "redis", "worker"}
    assert pods()["beat"]["containers"][0]["args"] == services["beat"]["command"]


def test_no_pod_has_rights_that_it_does_not_need() -> None:
    for name, pod in pods().items():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            context = container["securityContext"]
            assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} == set(container["resources"])
        assert "readinessProbe" in pod["containers"][0], name


def test_a_volume_that_is_kept_keeps_the_modes_of_its_files() -> None:
    """By default Kubernetes makes every file readable for the group at each start, and a private key is refused then."""
    kept = {"postgres", "redis"} | {
        n for n, p in pods().items() if any("persistentVolumeClaim" in v for v in p["volumes"])
    }

    assert kept == {"postgres", "redis", "worker"}
    for name in kept:
        assert pods()[name]["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch", name


def test_the_worker_keeps_in_volumes_what_the_operator_of_compose_keeps() -> None:
    """The operator's commands run in it."""
    claims = {o["metadata"]["name"] for o in base() if o["kind"] == "PersistentVolumeClaim"}
    kept = {v["name"] for v in pods()["worker"]["volumes"] if "persistentVolumeClaim" in v}
    (container,) = pods()["worker"]["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"] if mount["name"] in kept}

    assert mounts == {path: name for name, path in (v.split(":") for v in compose()["services"]["operator"]["volumes"])}
    assert claims == kept


def test_every_setting_is_one_that_is_read_and_no_secret_is_among_them() -> None:
    (settings,) = (o["data"] for o in base() if o["kind"] == "ConfigMap")
    known = {field.validation_alias for of in (ServiceSettings, WorkerSettings) for field in of.model_fields.values()}

    assert {name.removesuffix("_FILE") for name in settings} <= known
    assert not any(o["kind"] == "Secret" for o in base())
    for name, value in settings.items():
        if re.search("PASSWORD|KEY|URL", name) and name != "EXPUNGE_PUBLIC_URL":
            assert value.startswith("/run/secrets/"), name


def test_what_a_process_counts_itself_is_scraped_from_every_pod_and_the_ledgers_from_one_address(
    serve: Serve, site: Site, sessions: sessionmaker[Session]
) -> None:
    one, every = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    (dropped,), (kept,) = one["metric_relabel_configs"], every["metric_relabel_configs"]
    http = serve()
    http.get("/methods")
    with sessions() as session:
        ledgers = {sample.name for family in families(session) for sample in family.samples}
    exported = text_string_to_metric_families(http.get("/metrics").text)
    own = {sample.name for family in exported for sample in family.samples} - ledgers
    own -= {"expunge_build_info", "expunge_exporter_up"}  # the same from every process

    assert (dropped["action"], kept["action"], dropped["regex"]) == ("drop", "keep", kept["regex"])
    assert "http_requests_total" in own
    assert {name for name in own | ledgers if re.fullmatch(kept["regex"], name)} == own


def test_prometheus_can_read_the_scrape_configuration(promtool: str, tmp_path: Path) -> None:
    """Debian's has no discovery in Kubernetes, so that a fixed address stands for it."""
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    del configuration["scrape_configs"][1]["kubernetes_sd_configs"]
    configuration["scrape_configs"][1]["static_configs"] = [{"targets": ["10.0.0.7:8000"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))

    subprocess.run([promtool, "check", "config", str(tmp_path / "prometheus.yml")], check=True, capture_output=True)


def test_every_key_of_the_secret_is_one_that_is_made(tmp_path: Path) -> None:
    secrets = [volume["secret"] for pod in pods().values() for volume in pod["volumes"] if "secret" in volume]
    asked = {item["key"] for secret in secrets for item in secret["items"]}

    assert asked <= set(make_secrets(tmp_path))
    assert {secret["secretName"] for secret in secrets} == {"expunge"}
