"""The connector template for Fides: as Fides reads it, and as it calls the service."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from connectors.managers import read_managers
from ledger.registry.subjects import assign_subjects
from ledger.sample_ids import sample_digest, subject_digest
from ledger.tables import Target
from tests.service.conftest import SAMPLE_KEY, Serve, Site, fail_job, publish_job

FOLDER = Path(__file__).parents[2] / "ops" / "fides"
KEY = bytes.fromhex(SAMPLE_KEY)
FIDES = shutil.which("fides")

VALIDATE = """
import sys, yaml
from fides.api.schemas.saas.saas_config import SaaSConfig
from fides.api.schemas.saas.async_polling_configuration import AsyncPollingConfiguration
from fideslang.models import Dataset
config, dataset = (yaml.safe_load(open(path).read().replace("<instance_fides_key>", "expunge")) for path in sys.argv[1:])
parsed = SaaSConfig(**config["saas_config"])
polling = parsed.endpoints[0].requests.delete.async_config
AsyncPollingConfiguration(**polling.configuration)
Dataset(**dataset["dataset"][0])
print(parsed.fides_key, polling.strategy)
"""


def template() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((FOLDER / "expunge_config.yml").read_text())["saas_config"]
    return config


def filled(text: str, **values: str) -> str:
    """Put values in the place of a template's placeholders, as Fides does."""
    for name, value in values.items():
        text = text.replace(f"<{name}>", value)
    return text


@pytest.mark.slow
@pytest.mark.skipif(FIDES is None, reason="fides is not installed")
def test_fides_own_classes_take_the_template() -> None:
    assert FIDES is not None
    files = [str(FOLDER / f"expunge_{kind}.yml") for kind in ("config", "dataset")]
    command = [str(Path(FIDES).with_name("python")), "-c", VALIDATE, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.stdout.splitlines()[-1:] == ["expunge polling"], done.stderr


def test_the_dataset_has_the_collection_and_the_field_of_the_template() -> None:
    (dataset,) = yaml.safe_load((FOLDER / "expunge_dataset.yml").read_text())["dataset"]
    (endpoint,) = template()["endpoints"]
    (collection,) = dataset["collections"]
    assert collection["name"] == endpoint["name"]
    row = json.loads(filled(endpoint["requests"]["read"]["output"], email="ann@example.org"))
    assert [set(each) for each in row] == [{field["name"] for field in collection["fields"]}]


@pytest.mark.parametrize("fails", [False, True])
def test_an_erasure_is_done_for_fides_when_it_is_done_here_and_not_if_it_failed(
    serve: Serve, site: Site, sessions: sessionmaker[Session], tmp_path: Path, fails: bool
) -> None:
    rows = [(subject_digest(KEY, "ann@example.org"), sample_digest(KEY, "scans", "sample-1"), 1)]
    with sessions.begin() as session:
        assign_subjects(session, tenant_id=site.tenant_id, dataset="scans", rows=rows)
    declared = tmp_path / "managers.toml"
    declared.write_text((FOLDER / "managers.toml").read_text() + "quiet_hours = 0\n")
    assert read_managers(FOLDER / "managers.toml")["fides"].quiet_hours == 24
    http = serve(key=site.admin, managers=declared, batch_window_seconds=0)
    tried = template()["test_request"]
    assert http.request(tried["method"], tried["path"]).status_code == 200

    request = template()["endpoints"][0]["requests"]["delete"]
    polled = request["async_config"]["configuration"]["status_request"]
    body = filled(request["body"], privacy_request_id="pri_17f0a3f1", email="Ann@example.org")
    headers = {"Content-Type": "application/json"}
    answer = http.request(request["method"], request["path"], content=body, headers=headers)
    assert answer.status_code == 202
    correlation_id = answer.json()[request["correlation_id_path"]]

    def is_done() -> bool:
        status = http.request(polled["method"], filled(polled["path"], correlation_id=correlation_id)).json()
        return bool(status[polled["status_path"]] == polled["status_completed_value"])

    assert not is_done()
    with sessions() as session:
        job_id = session.scalars(select(Target.job_id)).one()
    assert job_id is not None
    if fails:
        fail_job(sessions, job_id)
    else:
        publish_job(sessions, job_id)
    assert is_done() is not fails
