"""A request travels all the way through the whole stack."""

import httpx
import pytest

from expunge import client
from expunge.errors import FolderInUse
from expunge.operator.deployment import find_deployment
from expunge.operator.registration import register_workload
from expunge.operator.training import Trained
from expunge.stack.stack import Stack, run_stack
from ledger.resources import Job
from tests.end_to_end.conftest import REFERENCE, SAMPLES, options
from tests.fixtures.registration import RETRAINED
from tests.fixtures.waiting import await_that
from tests.worker.test_checks import VARIABLE

pytestmark = pytest.mark.end_to_end

MORE = [f"image-{i}" for i in range(400)]
"""Holds SAMPLES; of these 39 are in the training set."""


@pytest.fixture(scope="module")
def model(running: Stack, trained: Trained) -> str:
    where = find_deployment(running.folder.root)
    return register_workload(
        where,
        name="digits",
        reference=REFERENCE,
        weights=trained.path,
        policy=["ltu", "retrain"],
        approve_utility_drop=100.0,  # whatever a seed loses is published
    ).name


def unlearn(
    http: httpx.Client,
    sample_ids: list[str],
    *,
    method: str | None = None,
    dataset: str = "few-digits",
    model: str = "digits",
) -> Job:
    """Submit, and follow the one job to its end."""
    request = client.submit(http, dataset=dataset, sample_ids=sample_ids, models=[model], method=method)
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
    assert (report.model.version_before, report.model.version_after) == (1, 2)
    assert report.asked.samples > 0
    assert "<html" in client.get_report_file(http, first.report_id, "text/html").decode()

    second = unlearn(http, MORE, method="retrain")
    assert second.state == "completed", second
    later = client.get_report(http, second.report_id)
    assert later.method.origin == "request"
    assert later.model.weights_before_sha256 == report.model.weights_after_sha256
    assert later.asked.samples_previously_forgotten == report.asked.samples
    assert later.audit.samples.remain < report.audit.samples.remain


def test_a_worker_finds_out_which_models_it_can_build_before_a_request_comes(
    running: Stack, http: httpx.Client, model: str, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that registers the second model has a variable which the worker was started without."""
    monkeypatch.setenv(VARIABLE, "/scans")
    register_workload(
        find_deployment(running.folder.root),
        name="elsewhere",
        reference="tests.worker.test_checks:workload",
        weights=trained.path,
        dataset="elsewhere",
        policy=["retrain"],
        dry_run=False,
    )

    def found(name: str) -> dict[str, str | None]:
        return http.get(f"/models/{name}").json()["worker_check"] or {}

    await_that(lambda: all(found(name).get("ended_at") for name in (model, "elsewhere")), "the worker's checks")
    assert found(model)["fault"] is None
    assert VARIABLE in str(found("elsewhere")["fault"])


def test_the_worker_reads_data_by_processes_of_its_own(running: Stack, http: httpx.Client, trained: Trained) -> None:
    """They are forked from a child of the worker that has computed with torch."""
    register_workload(
        find_deployment(running.folder.root),
        name="read",
        reference="tests.worker.digits:read_when_needed",
        weights=trained.path,
        **RETRAINED,
    )
    job = unlearn(http, SAMPLES, dataset="read-digits", model="read")

    assert job.state == "completed", job.detail
    assert 0 < job.timings["data_wait"] < job.timings["unlearn"]
