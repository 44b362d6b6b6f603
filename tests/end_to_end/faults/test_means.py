"""What a worker needs is missing or wrong: memory, weights as they were registered, a clock that is right."""

import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.end_to_end.conftest import OWNED
from tests.end_to_end.faults.conftest import Scene

pytestmark = pytest.mark.end_to_end


@pytest.mark.slow
def test_out_of_memory_is_recorded_and_the_job_completes(scene: Scene) -> None:
    """PyTorch's allocator refuses a petabyte, as it does whatever the machine has not."""
    scene.gates.shut("memory")
    job_id = scene.submit("out-of-memory")

    scene.ended_once("out-of-memory", job_id)
    assert scene.outcomes(job_id) == ["failed", "published"]
    assert scene.reasons(job_id) == ["out_of_memory", None]
    assert [event["attempt"] for event in scene.events(job_id, "job.queued")] == [2]


@pytest.mark.slow
def test_a_lost_gpu_is_recorded_and_the_job_completes_in_a_new_process(scene: Scene) -> None:
    """CUDA gives a process whose device has failed no second chance."""
    before = scene.worker_child().pid
    scene.gates.shut("gpu")
    job_id = scene.submit("lost-gpu")

    scene.ended_once("lost-gpu", job_id)
    assert scene.reasons(job_id) == ["gpu_lost", None]
    assert [event["attempt"] for event in scene.events(job_id, "job.queued")] == [2]
    assert scene.worker_child().pid != before


def test_damaged_weights_end_the_job_visibly_and_a_retry_after_the_repair_completes_it(scene: Scene) -> None:
    scene.register("damaged")
    version = scene.http.get("/models/damaged/versions").json()["items"][0]
    path = scene.stack.folder.weights / f"{version['weights_sha256']}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        job_id = scene.submit_for("damaged")
        job = scene.watch(job_id)
        assert (job.state, job.reason) == ("failed", "weights_damaged")
        assert version["weights_sha256"] in job.detail
    finally:
        path.write_bytes(whole)
    assert scene.http.post(f"/jobs/{job_id}:retry").status_code == 200

    scene.ended_once("damaged", job_id)


@pytest.fixture(scope="module")
def wrong_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that a process loads before the C library, to see another time."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler on Linux to make the wrong clock")
    made = tmp_path_factory.mktemp("clock") / "wrong_clock.so"
    source = Path(__file__).with_name("wrong_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(made), str(source), "-ldl"], check=True)
    return made


@pytest.mark.slow
def test_a_workers_wrong_clock_changes_nothing(scene: Scene, wrong_clock: Path) -> None:
    """A lost message too: the sweep, sent by a beat whose clock is right, must not look expired to the worker."""
    days = 40
    clock = {"LD_PRELOAD": str(wrong_clock), "EXPUNGE_TEST_CLOCK": str(days * 86400)}
    began = datetime.now(UTC)
    with scene.replaced("the worker", "the shifted worker", **clock) as shifted:
        job_id = scene.submit_without_a_message("wrong-clock")
        job = scene.ended_once("wrong-clock", job_id)
    seen = {
        f"{moment + timedelta(days=days):%Y-%m}-" for moment in (began, datetime.now(UTC))
    }  # a month may end meanwhile
    assert any(month in shifted.program.log.read_text() for month in seen)
    assert scene.outcomes(job_id) == ["published"]
    for event in scene.http.get(f"/jobs/{job_id}/events").json()["items"]:
        assert began - timedelta(seconds=1) < datetime.fromisoformat(event["at"]) <= datetime.now(UTC)
    report = scene.http.get(f"/reports/{job.report_id}").json()
    assert began < datetime.fromisoformat(report["created_at"]) <= datetime.now(UTC)


def test_a_factory_that_was_mended_serves_the_next_job_of_a_worker_that_runs_on(scene: Scene, owned: Path) -> None:
    owned.write_text("def workload():\n    raise RuntimeError('the data have moved')\n")
    scene.register("mended")
    with scene.sessions.begin() as session:
        session.execute(text(f"UPDATE models SET workload = '{OWNED}:workload' WHERE name = 'mended'"))
    worker = scene.part("the worker").process.pid
    job_id = scene.submit_for("mended")
    job = scene.watch(job_id)
    assert (job.state, job.reason) == ("failed", "workload_failed")
    assert "the data have moved" in str(job.detail)
    owned.write_text("from tests.worker.gated import workload\n")
    assert scene.http.post(f"/jobs/{job_id}:retry").status_code == 200
    scene.ended_once("mended", job_id)
    assert scene.part("the worker").process.pid == worker
