"""A job that is interrupted goes on from its last checkpoint, and ends in the weights of one that was not."""

import contextlib
import copy
import dataclasses
import errno
import hashlib
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import safetensors.torch
import torch
from sqlalchemy import text, update
from torch import nn

from connectors.storage import LocalFolder
from ledger.events.timeline import list_job_events
from ledger.jobs.cancellation import cancel_job
from ledger.jobs.claims import sweep
from ledger.jobs.jobs import list_attempts
from ledger.metrics import stale_writes_rejected
from ledger.registry.references import ReferenceFile, register_references
from ledger.sample_ids import sample_digest
from ledger.states import AttemptOutcome, JobState, Phase
from ledger.tables import Job
from tests.fixtures.s3 import BUCKET, S3
from tests.ledger.conftest import RETRY_RULE
from tests.worker import digits
from tests.worker.conftest import KEY, Bench, Killed
from unlearning import files as written_files
from unlearning.data.references import References, to_bytes
from unlearning.data.workload import Workload
from unlearning.errors import NotFinite
from unlearning.methods.registry import unlearn
from unlearning.specs import Spec
from unlearning.state import State
from unlearning.steps import Progress, Steps, each_step_in, map_progress, run_to_completion
from unlearning.task import Task
from unlearning.training.run import TrainingRun
from worker import attempt
from worker.cleanup import FOLDER, delete_finished_checkpoints, folder_of
from worker.failures import AuditFailed, MethodFailed

STEPS = 12
METHOD = {"kind": "gradient_ascent", "steps": STEPS, "stop": {"check_every": STEPS}}


@pytest.fixture
def eager(make_bench: Callable[..., Bench]) -> Bench:
    """A worker that saves at every step."""
    return make_bench(policy=[METHOD], checkpoint_seconds=0, retry_seconds=0)


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """A worker that does not come to its first interval."""
    return make_bench(policy=[METHOD])


@pytest.fixture
def owners(make_bench: Callable[..., Bench]) -> Bench:
    """A worker that saves as often as it may, for a model that its owner's function trains."""
    return make_bench(reference="tests.worker.digits:with_trainer", checkpoint_seconds=0, retry_seconds=0)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """SHA-256 of the weights that came to the audit, which takes seconds and here refuses them all."""
    found: list[str] = []

    def refuse(*, unlearned: nn.Module, **_: object) -> Steps:
        found.append(weights_of(unlearned))
        yield Progress(phase=Phase.AUDIT_MEMBERSHIP, step=1, total=1)
        raise AuditFailed("Not judged here.")

    monkeypatch.setattr(attempt, "audit", refuse)
    return found


@pytest.fixture
def reference() -> "Reference":
    return Reference()


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch, reference: "Reference") -> Callable[..., list[int]]:
    """Let something happen after so many steps of the next run of a method; gives the steps that are taken from now on."""

    def arrange(happen: Callable[[], object], *, after: int) -> list[int]:
        taken: list[int] = []
        pending = [happen]

        def counted(spec: Spec, task: Task) -> Steps:
            reference.note(spec, task)
            return each_step_in(map_progress(unlearn(spec, task), note), arriving)

        def note(progress: Progress) -> Progress:
            taken.append(progress.step)
            return progress

        @contextlib.contextmanager
        def arriving() -> Iterator[None]:
            if len(taken) == after and pending:
                pending.pop()()
            yield

        monkeypatch.setattr(attempt, "unlearn", counted)
        return taken

    return arrange


def kill() -> None:
    raise Killed


def lose_the_lease(bench: Bench, job_id: UUID) -> None:
    with bench.sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=text("clock_timestamp()")))
        sweep(session, rule=RETRY_RULE)


def run_killed(bench: Bench, job_id: UUID) -> None:
    with pytest.raises(Killed):
        bench.run(job_id)
    lose_the_lease(bench, job_id)


def events(bench: Bench, job_id: UUID, kind: str) -> list[dict[str, Any]]:
    """The data of a job's events of one kind."""
    with bench.sessions.begin() as session:
        found = list_job_events(session, tenant_id=bench.tenant_id, job_id=job_id)
        return [dict(event.data) for event in found if event.kind == kind]


def outcomes(bench: Bench, job_id: UUID) -> list[AttemptOutcome | None]:
    with bench.sessions.begin() as session:
        return [attempt.outcome for attempt in list_attempts(session, tenant_id=bench.tenant_id, job_id=job_id)]


def files(bench: Bench, job_id: UUID) -> list[Path]:
    return sorted((bench.settings.storage / folder_of(job_id)).glob("*/*"))


def weights_of(model: nn.Module) -> str:
    return hashlib.sha256(safetensors.torch.save(model.state_dict())).hexdigest()


class Reference:
    """The task of the first run that is interrupted, to be run once more without interruption."""

    def __init__(self) -> None:
        self.spec: Spec | None = None
        self.task: Task | None = None

    def note(self, spec: Spec, task: Task) -> None:
        if self.task is None:
            self.spec, self.task = spec, dataclasses.replace(task, model=copy.deepcopy(task.model), state=State())

    def weights(self) -> str:
        """SHA-256 of the weights of a run that nothing interrupts."""
        assert self.spec is not None
        assert self.task is not None
        run_to_completion(unlearn(self.spec, self.task))
        return weights_of(self.task.model)


Interrupt = Callable[..., list[int]]


def test_a_killed_workers_job_goes_on_with_the_next_step_and_ends_in_the_same_weights(
    eager: Bench, training_ids: tuple[str, ...], interrupt: Interrupt, reference: Reference, forgotten: list[str]
) -> None:
    job_id = eager.submit(training_ids[:80])
    taken = interrupt(kill, after=7)
    run_killed(eager, job_id)
    assert len(files(eager, job_id)) == 1
    assert eager.run(job_id)

    assert taken == list(range(1, STEPS + 1))
    assert outcomes(eager, job_id) == [AttemptOutcome.EXPIRED, AttemptOutcome.FAILED]
    assert events(eager, job_id, "job.resumed") == [{"attempt": 2, "of": 1, "step": 7, "total": STEPS}]
    assert forgotten == [reference.weights()]


@pytest.mark.parametrize("error", [NotFinite("The weights are NaN."), MethodFailed("A rank's."), ValueError("Odd.")])
@pytest.mark.parametrize("kills", [1, 2])
def test_a_method_that_fails_after_going_on_from_a_checkpoint_begins_anew_and_then_gives_way_to_the_next(
    make_bench: Callable[..., Bench],
    training_ids: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kills: int,
) -> None:
    """Also if it is killed once more on the way: each kill costs a run, and none of them the fallback."""
    bench = make_bench(policy=[METHOD, {"kind": "retrain"}], checkpoint_seconds=0, retry_seconds=0, max_attempts=9)
    kill_next, began = [True], list[tuple[str, bool]]()

    def failing(spec: Spec, task: Task) -> Steps:
        began.append((spec.kind, bool(task.state.resumed)))
        if spec.kind == "retrain":
            raise AuditFailed("Not judged here.")
        for taken, step in enumerate(unlearn(spec, task), 1):
            yield step
            if taken == 3:
                raise Killed if kill_next and kill_next.pop() else error

    monkeypatch.setattr(attempt, "unlearn", failing)
    job_id = bench.submit(training_ids[:20])
    run_killed(bench, job_id)
    assert bench.run(job_id)  # it goes on, and fails
    if kills == 2:
        kill_next.append(True)
        run_killed(bench, job_id)
        assert bench.run(job_id)
    while bench.job(job_id).state is JobState.QUEUED:
        assert bench.run(job_id)

    method = METHOD["kind"]
    anew, resumed = (method, False), (method, True)
    assert began == [*[anew, resumed] * kills, anew, ("retrain", False)]
    assert bench.job(job_id).detail == "Not judged here."


@pytest.mark.slow
def test_a_killed_workers_job_goes_on_on_another_host_from_its_checkpoint_in_a_bucket(
    s3_api: S3,
    make_bench: Callable[..., Bench],
    training_ids: tuple[str, ...],
    interrupt: Interrupt,
    reference: Reference,
    forgotten: list[str],
    tmp_path: Path,
) -> None:
    options = {"policy": [METHOD], "checkpoint_seconds": 0, "retry_seconds": 0, "storage": f"s3://{BUCKET}/production"}
    bench = make_bench(storage_cache=tmp_path / "host 1", **options)
    job_id = bench.submit(training_ids[:80])
    taken = interrupt(kill, after=7)
    run_killed(bench, job_id)
    saved = [key for key, _ in s3_api.versions() if folder_of(job_id) in key]
    assert saved
    other = dataclasses.replace(
        bench, settings=bench.settings.model_copy(update={"storage_cache": tmp_path / "host 2"})
    )
    assert other.run(job_id)

    assert taken == list(range(1, STEPS + 1))
    assert events(other, job_id, "job.resumed") == [{"attempt": 2, "of": 1, "step": 7, "total": STEPS}]
    assert forgotten == [reference.weights()]


def test_a_worker_that_is_stopped_saves_the_step_it_is_at(
    bench: Bench, training_ids: tuple[str, ...], interrupt: Interrupt, reference: Reference, forgotten: list[str]
) -> None:
    """The interval has not passed; it is the stop that makes it save."""
    job_id = bench.submit(training_ids[:80])
    taken = interrupt(bench.stop_signal.set, after=7)
    bench.run(job_id)
    assert bench.job(job_id).state is JobState.QUEUED
    bench.stop_signal.is_set = False
    bench.run(job_id)

    assert taken == list(range(1, STEPS + 1))
    assert outcomes(bench, job_id) == [AttemptOutcome.RELEASED, AttemptOutcome.FAILED]
    assert forgotten == [reference.weights()]


def test_after_the_method_only_the_audit_is_done_again(
    bench: Bench,
    training_ids: tuple[str, ...],
    interrupt: Interrupt,
    monkeypatch: pytest.MonkeyPatch,
    forgotten: list[str],
) -> None:
    job_id = bench.submit(training_ids[:80])
    taken = interrupt(kill, after=STEPS + 1)
    with monkeypatch.context() as patch:
        patch.setattr(attempt, "enter_verifying", lambda *_: kill())
        run_killed(bench, job_id)
    bench.run(job_id)

    assert len(taken) == STEPS
    assert len(forgotten) == 1
    with bench.sessions.begin() as session:
        _, second = list_attempts(session, tenant_id=bench.tenant_id, job_id=job_id)
    assert second.timings[Phase.UNLEARN] > 0  # what it took, although another attempt took it


def why_not_used(bench: Bench, job_id: UUID, interrupt: Interrupt, change: Callable[[], object]) -> str:
    """Kill a job after its seventh step, change something, run it again, and return why it did not go on from the checkpoint."""
    taken = interrupt(kill, after=7)
    run_killed(bench, job_id)
    change()
    bench.run(job_id)
    assert taken[7] == 1
    (ignored,) = events(bench, job_id, "job.checkpoint_ignored")
    return str(ignored["why"])


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "damaged"),
        (lambda path: path.unlink(), "gone"),
    ],
)
def test_a_damaged_checkpoint_is_recorded_and_the_method_starts_again(
    eager: Bench,
    training_ids: tuple[str, ...],
    interrupt: Interrupt,
    reference: Reference,
    forgotten: list[str],
    damage: Callable[[Path], object],
    why: str,
) -> None:
    job_id = eager.submit(training_ids[:80])
    assert why in why_not_used(eager, job_id, interrupt, lambda: damage(*files(eager, job_id)))
    assert forgotten == [reference.weights()]


def test_a_checkpoint_of_another_method_is_not_used(
    eager: Bench, training_ids: tuple[str, ...], interrupt: Interrupt
) -> None:
    job_id = eager.submit(training_ids[:80])

    def change() -> None:
        with eager.sessions.begin() as session:
            session.execute(update(Job).where(Job.id == job_id).values(method={**METHOD, "learning_rate": 0.001}))

    assert "of another method" in why_not_used(eager, job_id, interrupt, change)


def test_a_checkpoint_by_a_loss_that_was_fitted_to_other_targets_is_not_used(
    eager: Bench, training_ids: tuple[str, ...], interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = eager.submit(training_ids[:80])
    assert why_not_used(eager, job_id, interrupt, lambda: monkeypatch.setattr(Workload, "fitted_to", "held_out"))


def test_a_checkpoint_of_a_workload_with_other_fingerprints_is_not_used(
    eager: Bench, training_ids: tuple[str, ...], interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model was registered without any, so that nothing else shows that its tokenizer has changed since."""
    made = dataclasses.replace(digits.workload(), fingerprints={"tokenizer": "ab"})
    job_id = eager.submit(training_ids[:80])
    why = why_not_used(eager, job_id, interrupt, lambda: monkeypatch.setattr(digits, "workload", lambda: made))
    assert "fingerprints" in why


def test_a_checkpoint_without_the_references_that_came_since_is_not_used(
    make_bench: Callable[..., Bench],
    training_ids: tuple[str, ...],
    interrupt: Interrupt,
    reference: Reference,
    forgotten: list[str],
) -> None:
    """Neither the first nor the second half of the run would then be that of an uninterrupted one."""
    bench = make_bench(policy=[{"kind": "ieu", "steps": 8, "repair_steps": 0}], checkpoint_seconds=0, retry_seconds=0)
    job_id = bench.submit(training_ids[:80])
    taken = interrupt(kill, after=3)
    run_killed(bench, job_id)
    assert len(files(bench, job_id)) == 1
    register_equal_references(bench)
    reference.task = None
    assert bench.run(job_id)

    assert taken[3] == 1
    (ignored,) = events(bench, job_id, "job.checkpoint_ignored")
    assert "references" in ignored["why"]
    assert forgotten == [reference.weights()]


def register_equal_references(bench: Bench) -> None:
    """Register references by which every class of every sample is as probable as the others."""
    given = digits.workload()
    pool = (*given.train.ids, *given.held_out.ids)
    references = References(
        keys=tuple(sample_digest(KEY, "tiny-digits", sample) for sample in pool),
        predictions=torch.full((len(pool), 10), 0.1),
        losses=torch.full((len(pool),), math.log(10)),
        **{name: torch.zeros(len(pool)) for name in ("unseen", "seen")},
        details={},
    )
    path, sha256 = bench.settings.files.put(to_bytes(references))
    with bench.sessions.begin() as session:
        file = ReferenceFile(path=path, sha256=sha256)
        register_references(session, tenant_id=bench.tenant_id, model="digits", file=file, details={})


def test_a_worker_without_its_lease_can_not_leave_a_checkpoint(
    eager: Bench, training_ids: tuple[str, ...], interrupt: Interrupt
) -> None:
    job_id = eager.submit(training_ids[:80])
    taken = interrupt(lambda: lose_the_lease(eager, job_id), after=7)
    eager.run(job_id)

    (path,) = files(eager, job_id)
    with eager.sessions.begin() as session:
        job = session.get_one(Job, job_id)
        assert (job.checkpoint or {})["step"] == 7
        assert path.stem == (job.checkpoint or {})["sha256"]
        assert stale_writes_rejected(session) >= 1
    assert len(taken) == 8
    assert events(eager, job_id, "job.write_refused") == [{"attempt": 1}]


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(
    eager: Bench, training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, forgotten: list[str]
) -> None:
    write = written_files.write_atomically

    def full(path: Path, content: bytes) -> None:
        if "checkpoints" in path.parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(written_files, "write_atomically", full)
    job_id = eager.submit(training_ids[:80])
    eager.run(job_id)

    assert len(forgotten) == 1
    assert {event["why"] for event in events(eager, job_id, "job.checkpoint_failed")} == {"No space left on device"}


def test_older_checkpoints_that_cannot_be_deleted_do_not_end_the_run(
    eager: Bench, training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, forgotten: list[str]
) -> None:
    held, delete = list[str](), LocalFolder.delete

    def hold(self: LocalFolder, name: str) -> int:
        held.append(name)
        if name in held[:3]:
            raise PermissionError(1, "Operation not permitted")
        return delete(self, name)

    monkeypatch.setattr(LocalFolder, "delete", hold)
    job_id = eager.submit(training_ids[:80])
    eager.run(job_id)

    assert len(forgotten) == 1
    assert len(files(eager, job_id)) == 1 + len({*held[:3]})  # a file that cannot be deleted keeps no other one


def test_an_error_that_the_checkpoint_may_have_caused_makes_the_next_attempt_start_again(
    eager: Bench, training_ids: tuple[str, ...], interrupt: Interrupt
) -> None:
    def stumble() -> None:
        raise KeyError("momentum_buffer")

    job_id = eager.submit(training_ids[:80])
    interrupt(kill, after=5)
    run_killed(eager, job_id)
    taken = interrupt(stumble, after=2)
    eager.run(job_id)
    eager.run(job_id)

    assert taken[:3] == [6, 7, 1]
    assert outcomes(eager, job_id) == [AttemptOutcome.EXPIRED, AttemptOutcome.FAILED, AttemptOutcome.FAILED]


def test_checkpoints_go_with_their_job_and_no_sooner(
    eager: Bench, training_ids: tuple[str, ...], interrupt: Interrupt
) -> None:
    job_id = eager.submit(training_ids[:80])
    interrupt(kill, after=5)
    run_killed(eager, job_id)
    (eager.settings.storage / FOLDER / ".keep").touch()  # as tools make that folders stay
    delete_finished_checkpoints(eager.settings.files, eager.sessions)
    assert len(files(eager, job_id)) == 1
    with eager.sessions.begin() as session:
        cancel_job(session, tenant_id=eager.tenant_id, job_id=job_id)
    delete_finished_checkpoints(eager.settings.files, eager.sessions)

    assert not (eager.settings.storage / folder_of(job_id)).exists()


def test_a_trainer_that_is_killed_again_and_again_goes_on_from_its_own_checkpoints(
    owners: Bench, training_ids: tuple[str, ...], interrupt: Interrupt, reference: Reference, forgotten: list[str]
) -> None:
    """It has eight steps an epoch and saves after each. Killed before the first epoch is over, it starts again."""
    job_id = owners.submit(training_ids[:80])
    taken = []
    for after in (5, 12, 15):
        taken.append(interrupt(kill, after=after))
        run_killed(owners, job_id)
    taken.append(interrupt(kill, after=999))
    assert owners.run(job_id)

    starts = [(steps[0], steps[-1]) for steps in taken]
    assert starts == [(1, 5), (1, 12), (9, 23), (17, 32)]
    assert [event["step"] for event in events(owners, job_id, "job.resumed")] == [8, 16]
    assert forgotten == [reference.weights()]


def test_a_trainer_that_asks_whether_it_should_stop_is_stopped_between_two_reports(
    owners: Bench,
    training_ids: tuple[str, ...],
    interrupt: Interrupt,
    reference: Reference,
    forgotten: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker shuts down in the middle of a step; the function sees it, and returns."""

    def shut_down(step: int, run: TrainingRun) -> None:
        if step == 12:
            owners.stop_signal.set()
            while not run.should_stop:
                threading.Event().wait(0.001)

    job_id = owners.submit(training_ids[:80])
    taken = interrupt(kill, after=999)
    with monkeypatch.context() as patch:
        patch.setattr(digits, "hook", shut_down)
        owners.run(job_id)
    assert owners.job(job_id).state is JobState.QUEUED
    owners.stop_signal.is_set = False
    owners.run(job_id)

    assert taken == [*range(1, 12), 11, *range(9, 33)]
    assert outcomes(owners, job_id) == [AttemptOutcome.RELEASED, AttemptOutcome.FAILED]
    assert forgotten == [reference.weights()]


def test_a_trainer_is_stopped_at_its_report_when_its_job_is_cancelled(
    owners: Bench, training_ids: tuple[str, ...], interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not ask whether it should stop."""
    job_id = owners.submit(training_ids[:80])

    def cancel() -> None:
        with owners.sessions.begin() as session:
            cancel_job(session, tenant_id=owners.tenant_id, job_id=job_id)
        lose_the_lease(owners, job_id)

    taken = interrupt(cancel, after=5)
    owners.run(job_id)

    assert taken[-1] < 32
    assert owners.job(job_id).state is JobState.CANCELLED
