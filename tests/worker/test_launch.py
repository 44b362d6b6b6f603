"""Jobs on two processes, which torchrun starts."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import create_autospec

import psutil
import pytest

from connectors.storage import Storage
from expunge.stack.broker import free_port
from ledger.jobs.jobs import get_report, list_attempts
from ledger.states import AttemptOutcome, JobState, Phase, Reason
from tests.fixtures.waiting import PATIENCE, await_that
from tests.worker.conftest import Bench
from tests.worker.digits import MORTAL, sharded_on_ranks
from unlearning.steps import Progress
from unlearning.storage import load_weights
from worker import attempt, rank
from worker.failures import NoGpu
from worker.launch import Launch, accept_first_rank, plan_launch
from worker.lease import Run, report_progress

REFERENCE = "tests.worker.digits:on_ranks"


@pytest.fixture
def pair(make_bench: Callable[..., Bench]) -> Bench:
    """A worker that runs jobs on two processes, and saves at every step."""
    return make_bench(reference=REFERENCE, processes=2, checkpoint_seconds=0, retry_seconds=0)


def ranks_left() -> list[psutil.Process]:
    """The processes that torchrun started for this one."""
    return [child for child in psutil.Process().children(recursive=True) if "worker.rank" in command_of(child)]


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended meanwhile
        return []


def attempts_of(bench: Bench, job_id: object) -> list[tuple[AttemptOutcome | None, Reason | None]]:
    with bench.sessions.begin() as session:
        found = list_attempts(session, tenant_id=bench.tenant_id, job_id=job_id)  # type: ignore[arg-type]  # a UUID
    return [(each.outcome, each.reason) for each in found]


def on_one_process(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"processes": 1})


def after_steps(count: int, happen: Callable[[Run], object], monkeypatch: pytest.MonkeyPatch, *, phase: Phase) -> None:
    """Let something happen to the run after so many steps of a phase."""
    seen: list[int] = []

    def report(run: Run, progress: Progress) -> None:
        if progress.phase == phase and progress.step:
            seen.append(progress.step)
            if len(seen) == count:
                happen(run)
        report_progress(run, progress)

    monkeypatch.setattr(attempt, "report_progress", report)


@pytest.mark.slow
def test_a_killed_rank_ends_the_attempt_and_the_next_goes_on_from_its_checkpoint_on_any_number_of_processes(
    pair: Bench, training_ids: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = tmp_path / "the second rank is to die"
    sign.touch()
    monkeypatch.setenv(MORTAL, str(sign))
    job_id = pair.submit(training_ids[:80])
    pair.run(job_id)
    assert not sign.exists()
    assert not ranks_left()
    assert pair.job(job_id).state is JobState.QUEUED

    on_one_process(pair)
    resumed: list[bool] = []

    def note_and_end(run: Run) -> None:
        resumed.append(run.resumed)
        run.cancelled.set()

    after_steps(1, note_and_end, monkeypatch, phase=Phase.UNLEARN)
    pair.run(job_id)
    assert resumed == [True]
    assert attempts_of(pair, job_id) == [
        (AttemptOutcome.FAILED, Reason.WORKER_LOST),
        (AttemptOutcome.CANCELLED, Reason.CANCELLED_BY_CALLER),
    ]


@pytest.mark.slow
def test_a_job_is_unlearned_and_audited_on_two_processes_after_a_shutdown(
    pair: Bench, training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "worker.run")
    job_id = pair.submit(training_ids[:80])
    after_steps(3, lambda run: pair.stop_signal.set(), monkeypatch, phase=Phase.UNLEARN)
    pair.run(job_id)
    assert not ranks_left()
    assert pair.job(job_id).state is JobState.QUEUED

    pair.stop_signal.is_set = False
    pair.run(job_id)
    assert not ranks_left()
    job = pair.job(job_id)
    assert job.state is JobState.COMPLETED, job.detail
    assert [outcome for outcome, _ in attempts_of(pair, job_id)] == [AttemptOutcome.RELEASED, AttemptOutcome.PUBLISHED]
    assert caplog.text.count(f"job {job_id}: 2 processes of this host") == 2
    assert job.report_id is not None
    with pair.sessions.begin() as session:
        report = get_report(session, tenant_id=pair.tenant_id, report_id=job.report_id).body
    said = [event["text"] for event in report["timeline"] if event["kind"] == "job.processes"]
    assert said == ["It runs on several processes: 2 a host; hosts: 1."] * 2


@pytest.mark.slow
def test_a_sharded_model_is_unlearned_and_audited_in_parts_and_published_whole(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...]
) -> None:
    """By the second method: the first one differentiates twice. A checkpoint of parts is resumed by one process."""
    reference = "tests.worker.digits:sharded_on_ranks"
    bench = make_bench(("ltu", "retrain"), reference=reference, processes=2, checkpoint_seconds=0, retry_seconds=0)
    job_id = bench.submit(training_ids[:80])
    bench.run(job_id)
    assert not ranks_left()
    job = bench.job(job_id)
    assert job.state is JobState.COMPLETED, job.detail
    with bench.sessions.begin() as session:
        refused, _ = list_attempts(session, tenant_id=bench.tenant_id, job_id=job_id)
    assert "sharded" in str(refused.finding)
    version = bench.versions()[-1]
    load_weights(
        sharded_on_ranks().build(),
        bench.settings.storage / f"{version.weights_sha256}.safetensors",
        version.weights_sha256,
    )


@pytest.mark.slow
@pytest.mark.parametrize("phase", [Phase.UNLEARN, Phase.AUDIT_RELEARN])
def test_a_cancelled_job_ends_at_its_next_step_with_its_ranks(
    phase: Phase, pair: Bench, training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = pair.submit(training_ids[:80])
    after_steps(2, lambda run: run.cancelled.set(), monkeypatch, phase=phase)
    pair.run(job_id)
    assert not ranks_left()
    assert attempts_of(pair, job_id) == [(AttemptOutcome.CANCELLED, Reason.CANCELLED_BY_CALLER)]


@pytest.mark.slow
def test_what_a_rank_raises_ends_the_job_as_if_it_had_been_raised_here(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...]
) -> None:
    bench = make_bench(reference="tests.worker.digits:with_raising_trainer", processes=2, retry_seconds=0)
    jobs = []
    for start in (0, 100):
        job_id = bench.submit(training_ids[start : start + 80])
        bench.run(job_id)
        jobs.append(bench.job(job_id))
        on_one_process(bench)
    on_two, on_one = ((job.state, job.reason, job.detail) for job in jobs)
    assert on_two == on_one
    assert on_two[:2] == (JobState.FAILED, Reason.METHOD_FAILED)


@pytest.mark.slow
def test_ranks_end_when_the_worker_child_is_gone(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    """The kernel closes the connection of a process that is killed."""
    launch = plan_launch(make_bench(processes=2).settings)
    assert launch is not None
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen(1)
        launcher = subprocess.Popen([*launch.command, str(tmp_path)], env=launch.environment)
        accept_first_rank(server, launcher, tmp_path, check=lambda: None).close()
        await_that(lambda: launcher.poll() is not None, "the end of torchrun")
    assert not ranks_left()


@pytest.mark.slow
def test_two_groups_of_processes_run_a_job_together_as_two_hosts_do(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...]
) -> None:
    port = free_port()
    bench = make_bench(reference=REFERENCE, hosts=2, rendezvous=f"127.0.0.1:{port}")
    launch = plan_launch(bench.settings)
    assert launch is not None
    place = ["--nnodes", "2", "--node-rank", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    other = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *place, "--max-restarts", "0", "-m", "worker.rank", "cpu"],
        env=launch.environment,
    )
    job_id = bench.submit(training_ids[:80])
    bench.run(job_id)
    assert bench.job(job_id).state is JobState.COMPLETED, bench.job(job_id).detail
    assert other.wait(PATIENCE) == 0


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_rank_on_another_host_deletes_its_copies_at_its_end_and_one_on_the_workers_leaves_them_to_the_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, elsewhere: bool, fails: bool
) -> None:
    storage = create_autospec(Storage, instance=True)

    def serve(made: rank.Rank, orders: object) -> None:
        made.storage = storage
        if fails:
            raise ValueError

    monkeypatch.setattr(rank, "serve", serve)
    monkeypatch.setattr(rank, "die_with_parent", lambda: None)
    monkeypatch.setattr("unlearning.ranks.joined", lambda device: nullcontext())
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) if fails else nullcontext():
        rank.main("cpu", None if elsewhere else tmp_path)
    assert storage.delete_own_copies.call_count == elsewhere


def test_one_process_launches_nothing(make_bench: Callable[..., Bench]) -> None:
    settings = make_bench().settings
    assert plan_launch(settings) is None
    assert plan_launch(settings.model_copy(update={"processes": "auto", "device": "cpu"})) is None


def test_each_gpu_has_one_process(make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_bench(processes="auto").settings
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert plan_launch(settings) == Launch(count=4, device="cuda", settings=settings)
    with pytest.raises(NoGpu, match=r"EXPUNGE_PROCESSES is 5.* 4 GPUs"):
        plan_launch(settings.model_copy(update={"processes": 5}))


def test_several_hosts_need_a_rendezvous(make_bench: Callable[..., Bench]) -> None:
    with pytest.raises(ValueError, match="EXPUNGE_RENDEZVOUS"):
        make_bench(hosts=2, rendezvous="10.0.0.5")
