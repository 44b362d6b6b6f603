"""The whole stack, as `expunge up` starts it: a request travels all the way, and nothing is left running."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from expunge import client
from expunge.embedded.broker import free_port
from expunge.embedded.stack import Options, Stack, stack
from expunge.errors import FolderInUse, Refused
from expunge.registration import place, register_workload
from expunge.training import train_workload
from service.report.schema import validate

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

REFERENCE = "tests.worker.digits:workload"
FORGET = [f"image-{i}" for i in range(1700)]


def options(data_dir: Path) -> Options:
    return Options(data_dir=data_dir, port=free_port(), workloads="tests")


def below(folder: Path) -> list[str]:
    """The processes that have anything to do with a data folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status", "pid"]):
        words = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(folder) in word for word in words):
            found.append(" ".join(words))
    return found


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stack") / "data"


@pytest.fixture(scope="module")
def running(data_dir: Path) -> Iterator[Stack]:
    with stack(options(data_dir)) as running:
        yield running


@pytest.fixture(scope="module")
def http(running: Stack) -> Iterator[httpx.Client]:
    assert running.api_key is not None
    with client.connect(running.url, running.api_key) as http:
        yield http


@pytest.fixture(scope="module")
def model(running: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    trained = train_workload(REFERENCE, allowed=("tests",), folder=tmp_path_factory.mktemp("weights"))
    where = place(running.folder.root)
    return register_workload(
        where, name="digits", reference=REFERENCE, weights=trained.path, policy=["ltu", "retrain"]
    ).name


def unlearn(http: httpx.Client, sample_ids: list[str], **more: str) -> client.Json:
    """Submit, and follow the one job to its end."""
    request = client.submit(http, dataset="tiny-digits", sample_ids=sample_ids, **more)  # type: ignore[arg-type]
    (job_id,) = client.job_ids(request)
    *_, job = client.watch_job(http, job_id)
    return job


def test_a_second_start_on_the_same_folder_is_refused(running: Stack, data_dir: Path) -> None:
    with pytest.raises(FolderInUse), stack(options(data_dir)):
        pass


def test_two_requests_travel_all_the_way_and_the_second_starts_where_the_first_ended(
    http: httpx.Client, model: str
) -> None:
    first = unlearn(http, FORGET[:100])
    assert first["state"] == "completed", first
    report = client.get_report(http, first["report_id"])
    validate(report)
    assert (report["model"]["version_before"], report["model"]["version_after"]) == (1, 2)
    assert report["asked"]["samples"] > 0

    second = unlearn(http, FORGET[:150], method="ieu")
    assert second["state"] in ("completed", "failed"), second
    later = client.get_report(http, second["report_id"])
    assert later["model"]["version_before"] == 2
    assert later["model"]["weights_before_sha256"] == report["model"]["weights_after_sha256"]
    assert later["asked"]["samples_previously_forgotten"] == report["asked"]["samples"]
    assert later["audit"]["samples"]["remain"] < report["audit"]["samples"]["remain"]
    assert "<html" in client.get_report_file(http, first["report_id"], "text/html").decode()


def test_samples_that_nobody_was_trained_on_are_refused(http: httpx.Client, model: str) -> None:
    with pytest.raises(Refused) as raised:
        client.submit(http, dataset="tiny-digits", sample_ids=["nobody"])
    assert raised.value.status == 422
