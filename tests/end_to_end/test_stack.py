"""A request travels all the way through the whole stack."""

import dataclasses
import json

import httpx
import pytest

from expunge import client
from expunge.errors import FolderInUse, Refused
from expunge.operator.deployment import find_deployment
from expunge.operator.registration import register_workload
from expunge.operator.training import Trained
from expunge.stack.stack import Stack, run_stack
from ledger.resources import Job
from report.document import Report
from tests.end_to_end.conftest import REFERENCE, SAMPLES, options

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

MORE = [f"image-{i}" for i in range(400)]
"""Holds SAMPLES; of these 179 are in the training set."""


@pytest.fixture(scope="module")
def model(running: Stack, trained: Trained) -> str:
    where = find_deployment(running.folder.root)
    return register_workload(
        where, name="digits", reference=REFERENCE, weights=trained.path, policy=["ltu", "retrain"]
    ).name


def unlearn(http: httpx.Client, sample_ids: list[str], *, method: str | None = None) -> Job:
    """Submit, and follow the one job to its end."""
    request = client.submit(http, dataset="tiny-digits", sample_ids=sample_ids, models=["digits"], method=method)
    (job_id,) = client.job_ids(request)
    *_, job = client.watch_job(http, job_id)
    return job


def test_a_second_start_on_the_same_folder_is_refused(running: Stack) -> None:
    with pytest.raises(FolderInUse), run_stack(options(running.folder.root)):
        pass


def test_two_requests_travel_all_the_way_and_the_second_starts_where_the_first_ended(
    http: httpx.Client, model: str
) -> None:
    first = unlearn(http, SAMPLES)
    assert first.state == "completed", first
    report = client.get_report(http, first.report_id)
    Report.model_validate_json(json.dumps(report))
    assert (report["model"]["version_before"], report["model"]["version_after"]) == (1, 2)
    assert report["asked"]["samples"] > 0
    assert "<html" in client.get_report_file(http, first.report_id, "text/html").decode()

    second = unlearn(http, MORE, method="retrain")
    assert second.state == "completed", second
    later = client.get_report(http, second.report_id)
    assert later["method"]["origin"] == "request"
    assert later["model"]["weights_before_sha256"] == report["model"]["weights_after_sha256"]
    assert later["asked"]["samples_previously_forgotten"] == report["asked"]["samples"]
    assert later["audit"]["samples"]["remain"] < report["audit"]["samples"]["remain"]


def test_samples_that_no_model_was_trained_on_are_refused(http: httpx.Client, model: str) -> None:
    with pytest.raises(Refused) as raised:
        client.submit(http, dataset="tiny-digits", sample_ids=["nobody"])
    assert raised.value.status == 422


def test_no_sample_id_is_in_any_log(running: Stack, http: httpx.Client, model: str) -> None:
    client.submit(http, dataset="tiny-digits", sample_ids=SAMPLES)
    for log in running.folder.logs.iterdir():
        assert "image-" not in log.read_text(), log


def test_given_servers_are_used_and_none_is_started(
    database_url: str, running: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    given = dataclasses.replace(
        options(tmp_path_factory.mktemp("given") / "data"),
        database_url=database_url,
        redis_url=running.settings.redis_url.replace("/0", "/1"),
    )
    with run_stack(given) as other:
        assert [child.program.name for child in other.children] == ["the worker", "the beat", "the API"]
        assert httpx.get(f"{other.url}/readyz").status_code == 200
