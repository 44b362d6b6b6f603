"""Every panel of every dashboard is asked of a real Prometheus that scrapes a real run, and answers."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from expunge import client
from expunge.operator.deployment import find_deployment
from expunge.operator.registration import register_workload
from expunge.operator.training import Trained
from expunge.stack.stack import Stack
from ops.prometheus.local import EXPORTERS, Prometheus, prometheus
from tests.end_to_end.conftest import GATED, SAMPLES, Gates
from tests.fixtures.registration import RETRAINED
from tests.fixtures.waiting import PATIENCE, await_that
from tests.ops.files import DASHBOARDS, filled, jobs_of, queries, rules

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is not installed (apt-get install prometheus)"
    ),
]

NAME = "watched"


@pytest.fixture(scope="module")
def watched(
    running: Stack, http: httpx.Client, trained: Trained, gates: Gates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Prometheus, float]]:
    """A Prometheus that has seen a model registered and a job of it run and complete, and when it began to scrape."""
    began = time.time()
    with prometheus(running.settings, tmp_path_factory.mktemp("prometheus"), interval="1s") as seen:
        where = find_deployment(running.folder.root)
        register_workload(
            where,
            name=NAME,
            reference=GATED,
            weights=trained.path,
            dataset=NAME,
            **RETRAINED,
            dry_run=False,
        )
        await_series(seen, f'expunge_unlearning_seconds_count{{model="{NAME}"}} == 0')
        gates.shut("load")
        try:
            (job_id,) = client.job_ids(client.submit(http, dataset=NAME, sample_ids=SAMPLES))
            await_series(seen, f'expunge_job_progress_ratio{{model="{NAME}"}}')
        finally:
            gates.open("load")
        *_, job = client.watch_job(http, job_id)
        assert job.state == "completed", job
        await_series(seen, f'expunge_unlearning_seconds_count{{model="{NAME}"}} == 1')
        yield seen, began


def await_series(seen: Prometheus, expression: str) -> None:
    """Until Prometheus knows something; it scrapes each second."""
    await_that(lambda: seen.query(expression), expression)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panels_query_gives_data(watched: tuple[Prometheus, float], http: httpx.Client, dashboard: Path) -> None:
    seen, began = watched
    known = {panel: query for panel, query in queries(dashboard).items() if jobs_of(query) <= seen.jobs}
    left_out = [panel for panel in queries(dashboard) if panel not in known]
    allowed = unmeasured(http)

    empty = set(known)

    def all_have_data() -> bool:
        http.get("/jobs")  # a rate of calls needs calls
        end = time.time() + 2
        for panel in sorted(empty):
            if seen.query_range(filled(known[panel], window="5m"), start=began, end=end, step=1):
                empty.remove(panel)
        return empty <= allowed

    await_that(all_have_data, "every panel to have data")
    missing = {job for job, program in EXPORTERS.items() if shutil.which(program) is None} | {"gpu"}
    assert all(jobs_of(queries(dashboard)[panel]) & missing for panel in left_out)


def unmeasured(http: httpx.Client) -> set[str]:
    """The panels of measures that the audits of this small model could not take: its original has nothing to relearn."""
    reports = [job["report_id"] for job in http.get("/jobs").json()["items"] if job["report_id"]]
    ratios = [client.get_report(http, report).audit.relearn.ratio_to_control for report in reports]
    return {"Relearn delay A"} if all(ratio is None for ratio in ratios) else set()


def test_every_alert_and_every_recording_is_evaluated_without_an_error(watched: tuple[Prometheus, float]) -> None:
    seen, _ = watched
    answer = httpx.get(f"{seen.url}/api/v1/rules", timeout=PATIENCE, trust_env=False).json()
    found = {rule["name"]: rule["health"] for group in answer["data"]["groups"] for rule in group["rules"]}

    assert found == dict.fromkeys({**rules("alert"), **rules("record")}, "ok")


def test_what_just_ran_is_what_the_dashboard_shows(watched: tuple[Prometheus, float], http: httpx.Client) -> None:
    seen, _ = watched
    job = http.get("/jobs", params={"model": NAME}).json()["items"][0]
    (series,) = seen.query(f'expunge_unlearning_seconds_sum{{model="{NAME}", method="retrain"}}')
    (forgotten,) = seen.query(f'expunge_samples_erased_total{{model="{NAME}"}}')

    assert float(series["value"][1]) == pytest.approx(job["timings"]["unlearn"], abs=0.01)
    assert float(forgotten["value"][1]) > 0
