"""What leaves with a model: the card and the entry of a bill of materials, before and after erasures."""

import json
from importlib import import_module
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from expunge.cli import caller
from ledger.tables import ModelVersion
from tests.service.conftest import Serve, Site, publish_job

ADDRESS = "https://expunge.example.org/"


@pytest.fixture
def http(serve: Serve, site: Site) -> httpx.Client:
    return serve(key=site.admin, public_url=ADDRESS, batch_window_seconds=0)


def erase(http: httpx.Client, sessions: sessionmaker[Session], *samples: str) -> str:
    asked = {"dataset": "scans", "sample_ids": list(samples), "external_id": "ann"}
    (target,) = http.post("/unlearn-requests", json=asked).json()["targets"]
    return str(publish_job(sessions, target["job"]["id"]))


def test_a_trained_model_has_forgotten_nothing(http: httpx.Client) -> None:
    answer = http.get("/models/triage/card")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/markdown; charset=utf-8")
    assert "None: this version is as it was trained." in answer.text
    component = http.get("/models/triage/bom").json()["metadata"]["component"]
    assert (component["version"], component["hashes"][0]["content"]) == ("1", "0" * 64)
    assert "externalReferences" not in component


def test_the_history_of_the_served_version_is_on_the_card(http: httpx.Client, sessions: sessionmaker[Session]) -> None:
    reports = [erase(http, sessions, "sample-1", "sample-2"), erase(http, sessions, "sample-3")]
    card = http.get("/models/triage/card").text
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith(("| 2", "| 3"))]
    assert [[row[0], *row[2:4], *row[5:7]] for row in rows] == [
        ["| 2", "1", "2", "verified", reports[0]],
        ["| 3", "2", "1", "verified", reports[1]],
    ]
    assert "Version 3, as of" in card
    assert "3 of them have been erased" in card
    assert "which know samples that were erased since: 1, 2." in card
    with sessions.begin() as session:
        session.execute(update(ModelVersion).where(ModelVersion.number == 1).values(purged_at=ModelVersion.created_at))
    assert "which know samples that were erased since: 2." in http.get("/models/triage/card").text


def test_a_bill_of_materials_says_the_same_and_leads_to_the_reports(
    http: httpx.Client, sessions: sessionmaker[Session]
) -> None:
    report = erase(http, sessions, "sample-1")
    answer = http.get("/models/triage/bom")
    assert answer.headers["Content-Type"] == "application/vnd.cyclonedx+json; version=1.6"
    bom = answer.json()
    component = bom["metadata"]["component"]
    assert (bom["bomFormat"], bom["specVersion"], component["type"]) == ("CycloneDX", "1.6", "machine-learning-model")
    properties = {one["name"]: one["value"] for one in component["properties"]}
    assert (properties["expunge:training_samples"], properties["expunge:erased_samples"]) == ("50", "1")
    erasure = json.loads(properties["expunge:erasure:2"])
    assert (erasure["from_version"], erasure["samples"], erasure["verdict"]) == (1, 1, "verified")
    (link,) = component["externalReferences"]
    assert link["url"] == f"https://expunge.example.org/reports/{report}"
    served = http.get(f"/reports/{report}", headers={"Accept": "application/json"}).headers["ETag"]
    assert served == f'"{link["hashes"][0]["content"]}"'


@pytest.mark.slow
def test_a_bill_of_materials_is_valid_by_the_schema_of_cyclonedx(
    http: httpx.Client, sessions: sessionmaker[Session]
) -> None:
    """By CycloneDX's own library, where it is installed: `pip install 'cyclonedx-python-lib[json-validation]'`."""
    validation = pytest.importorskip("cyclonedx.validation.json")
    erase(http, sessions, "sample-1")
    validator = validation.JsonStrictValidator(import_module("cyclonedx.schema").SchemaVersion.V1_6)
    text = http.get("/models/triage/bom").text
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace('"machine-learning-model"', '"person"')) is not None


def test_neither_holds_anything_of_a_person_and_both_need_the_scope(
    serve: Serve, site: Site, http: httpx.Client, sessions: sessionmaker[Session]
) -> None:
    erase(http, sessions, "sample-1")
    for path in ("/models/triage/card", "/models/triage/bom"):
        text = http.get(path).text
        assert "sample-1" not in text
        assert "ann" not in text.replace("cannot", "")
        assert serve(key=site.writer).get(path).status_code == 403
        assert http.get(path.replace("triage", "none")).status_code == 404


def test_the_command_writes_either(http: httpx.Client, site: Site, tmp_path: Path) -> None:
    for form, begins in (("markdown", "---\ntags:"), ("cyclonedx", '{\n  "$schema"')):
        caller.card("triage", site.reader, form, tmp_path / form, str(http.base_url))  # type: ignore[arg-type]
        assert (tmp_path / form).read_text().startswith(begins)
