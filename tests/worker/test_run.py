"""Jobs run in this process, on real PostgreSQL and a real small network."""

import base64
import errno
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import torch
from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from expunge.operator.deployment import Deployment
from expunge.operator.keys import create_signing_key, list_signing_keys
from expunge.operator.registration import register_new_version
from expunge.operator.training import train_workload
from ledger.jobs.cancellation import cancel_job, retry_job
from ledger.jobs.jobs import get_report, list_attempts
from ledger.registry.versions import find_served_signature, promote
from ledger.resources import Attempt, Version
from ledger.sample_ids import sample_digest
from ledger.states import STAGES, AttemptOutcome, Escalation, JobState, Phase, Reason, RequestState, Verdict
from ledger.tables import UnlearnRequest
from ledger.transparency.commitments import prove_inclusion
from report.canonical import canonical_json
from report.document import Report
from tests.connectors.test_model_signing import write_key
from tests.fixtures.waiting import PATIENCE
from tests.worker import digits
from tests.worker.conftest import KEY, Bench
from unlearning import files
from unlearning.data.objectives import multi_label
from unlearning.errors import MethodRefused
from unlearning.files import file_sha256
from unlearning.specs import IEU, LTU, GradientAscent
from unlearning.specs.audit import AuditSpec
from unlearning.storage import save_weights
from verifier.keys import read_keys
from verifier.statement import check_report, check_sample, check_weights, read_statement
from worker import attempt as attempts
from worker import run as running
from worker.attempt import AttemptResult, run_attempt
from worker.failures import AuditFailed
from worker.inputs import load_inputs, load_workload
from worker.lease import Run


def report_of(bench: Bench, job_id: UUID) -> dict[str, object]:
    report_id = bench.job(job_id).report_id
    assert report_id is not None
    with bench.sessions.begin() as session:
        return dict(get_report(session, tenant_id=bench.tenant_id, report_id=report_id).body)


def served(bench: Bench) -> Version:
    return bench.versions()[-1]


@pytest.mark.usefixtures("whole_audits")
def test_a_job_ends_with_a_new_version_and_a_report_that_keeps_to_its_schema(
    bench: Bench, training_ids: tuple[str, ...]
) -> None:
    job_id = bench.submit(training_ids[:80])
    assert bench.run(job_id)
    job = bench.job(job_id)
    assert (job.state, job.phase, job.progress) == (JobState.COMPLETED, Phase.DONE, 1.0), job.detail
    assert set(job.timings) == set(STAGES)
    version = served(bench)
    assert version.number == 2
    assert file_sha256(bench.settings.storage / f"{version.weights_sha256}.safetensors") == version.weights_sha256
    report: Any = report_of(bench, job_id)
    Report.model_validate_json(json.dumps(report))
    assert report["thresholds"]["settings"]["relearners"] == list(AuditSpec().relearners)
    text = str(report)
    assert "image-" not in text
    assert sample_digest(KEY, "tiny-digits", training_ids[0]).hex() not in text


def test_a_result_is_signed_and_one_person_can_be_shown_to_be_in_it(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...], database_url: str, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    create_signing_key(database_url, keys)
    bench = make_bench(signing_keys=keys, model_signing_key=write_key(tmp_path))
    job_id = bench.submit(training_ids[:80])
    bench.run(job_id)
    report_id = bench.job(job_id).report_id
    assert report_id is not None, bench.job(job_id).detail
    with bench.sessions.begin() as session:
        report = get_report(session, tenant_id=bench.tenant_id, report_id=report_id)
        digest = sample_digest(KEY, "tiny-digits", training_ids[3])
        proof = prove_inclusion(
            session,
            tenant_id=bench.tenant_id,
            report_id=report_id,
            dataset="tiny-digits",
            sample_id=training_ids[3],
            digest=digest,
            key=KEY,
        )
    trusted = [key for view in list_signing_keys(database_url) for key in read_keys(view.public_key.encode())]
    statement = read_statement(json.dumps(report.statement).encode(), keys=trusted)
    check_report(statement, canonical_json(report.body))
    check_weights(statement, served(bench).weights_sha256)
    check_sample(statement, proof)
    with bench.sessions.begin() as session:
        number, bundle = find_served_signature(session, tenant_id=bench.tenant_id, model="digits")
    manifest = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    assert number == 2
    assert manifest["predicate"]["resources"][0]["digest"] == served(bench).weights_sha256


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    """Weights that have never seen anything."""
    return save_weights(digits.workload().build(), tmp_path)[0]


def test_a_version_that_was_trained_on_what_remains_is_what_the_report_holds_the_result_against(
    bench: Bench,
    untrained: Path,
    training_ids: tuple[str, ...],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The operator's word is taken for what it was trained on: here on nothing, so that the test need not wait."""

    def left_open(*given: Any, **more: Any) -> AttemptResult:
        result = run_attempt(*given, **more)
        verdict = replace(result.findings.verdict, value="inconclusive")
        return replace(result, findings=replace(result.findings, verdict=verdict))

    monkeypatch.setattr(running, "run_attempt", left_open)  # so that the chances of a training do not decide this test
    where = Deployment(database_url=database_url, storage=bench.settings.storage, sample_key=KEY, workloads="tests")
    anew = register_new_version(
        where, name="digits", weights=untrained, without=training_ids[:80], accept_untrained=True
    )
    job_id = bench.submit(training_ids[:80])
    bench.run(job_id)
    report: Any = report_of(bench, job_id)
    Report.model_validate_json(json.dumps(report))
    assert report["model"]["reference"] == {"version": 2, "weights_sha256": anew.weights_sha256}
    assert report["audit"]["relearn"]["curves"]["reference"]["loss"][0] > 1  # nats: it guesses among ten
    assert report["audit"]["measures"]["reference"]["ua"]["value"] > 50
    assert "positive_control" in {finding["code"] for finding in report["verdict"]["findings"]}
    assert any("never saw the forgotten samples" in limit for limit in report["limits"])


def test_a_reference_whose_file_is_gone_is_done_without(
    bench: Bench, untrained: Path, training_ids: tuple[str, ...], database_url: str
) -> None:
    where = Deployment(database_url=database_url, storage=bench.settings.storage, sample_key=KEY, workloads="tests")
    register_new_version(where, name="digits", weights=untrained, without=training_ids[:80], accept_untrained=True)
    claimed = bench.claim(bench.submit(training_ids[:80]))
    assert claimed.retrained is not None
    workload = load_workload(claimed.workload, allowed=bench.settings.allowed)
    assert load_inputs(claimed, workload, bench.settings).retrained is not None
    lost = replace(claimed, retrained=replace(claimed.retrained, weights_path="gone.safetensors"))
    assert load_inputs(lost, workload, bench.settings).retrained is None


@pytest.mark.parametrize(
    ("setting", "said"), [("signing_keys", "signing-keys new"), ("model_signing_key", "EXPUNGE_MODEL_SIGNING_KEY")]
)
def test_without_a_usable_key_a_job_that_is_to_be_signed_ends_before_it_has_cost_anything(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...], tmp_path: Path, setting: str, said: str
) -> None:
    bench = make_bench(**{setting: tmp_path / "keys"})
    job_id = bench.submit(training_ids[:80])
    bench.run(job_id)
    job = bench.job(job_id)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.SIGNING_FAILED)
    assert said in str(job.detail)


def test_the_second_job_starts_from_the_first_ones_version_and_never_sees_its_samples_again(
    bench: Bench, training_ids: tuple[str, ...]
) -> None:
    bench.run(bench.submit(training_ids[:80]))
    job_id = bench.submit(training_ids[40:100])
    bench.run(job_id)
    report = report_of(bench, job_id)
    assert report["asked"]["samples"] == 20  # type: ignore[index]  # JSON
    assert report["asked"]["samples_previously_forgotten"] == 80  # type: ignore[index]  # JSON
    assert report["audit"]["samples"]["remain"] == 700  # type: ignore[index]  # JSON
    assert report["model"]["version_before"] == 2  # type: ignore[index]  # JSON
    assert [version.number for version in bench.versions()] == [1, 2, 3]


def test_a_second_delivery_does_nothing(bench: Bench, training_ids: tuple[str, ...]) -> None:
    job_id = bench.submit(training_ids[:80])
    assert bench.run(job_id)
    before = bench.job(job_id)
    assert not bench.run(job_id)
    assert bench.job(job_id) == before
    assert len(bench.versions()) == 2


def test_a_message_for_a_job_that_is_not_there_does_nothing(bench: Bench) -> None:
    assert not bench.run(UUID(int=0))


def test_a_method_that_refuses_gives_way_to_the_next(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(policy=("ieu", "retrain"))
    tried: list[str] = []

    def refuse(run: Run, inputs: object, **_: object) -> None:
        tried.append(run.claim.method["kind"])
        raise MethodRefused("It needs logits.")

    monkeypatch.setattr(running, "run_attempt", refuse)
    job_id = bench.submit(training_ids[:80])
    bench.run(job_id)
    job = bench.job(job_id)
    assert tried == ["ieu", "retrain"]
    assert (job.state, job.reason, job.detail) == (JobState.FAILED, Reason.METHOD_REFUSED, "It needs logits.")
    assert [attempt.finding for attempt in attempts_of(bench, job_id)] == [{"refused": "It needs logits."}, None]


@pytest.mark.parametrize("origin", ["policy", "request"])
@pytest.mark.parametrize("verdict", [Verdict.VERIFIED, Verdict.INCONCLUSIVE, Verdict.FAILED])
@pytest.mark.parametrize("tried", [0, 1, 2])
@pytest.mark.parametrize("reason", ["open", "too_few_samples", "no_power"])
@pytest.mark.parametrize("asked", list(Escalation))
def test_fallbacks_follow_as_far_as_was_requested(
    tried: int, verdict: Verdict, origin: str, reason: str, asked: Escalation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LTU, IEU, then another that approximates. A failed result is not published, an inconclusive one only at the end."""
    policy = [asdict(spec) for spec in (LTU(), IEU(), GradientAscent())]
    claim = SimpleNamespace(policy=policy, policy_index=tried, method=policy[tried], origin=origin, escalate=asked)
    run = SimpleNamespace(claim=claim)
    found = SimpleNamespace(value=verdict, sentence="So it is.", reason=reason)
    result = SimpleNamespace(findings=SimpleNamespace(verdict=found))
    inputs = SimpleNamespace()
    following: list[str] = []
    monkeypatch.setattr(running, "run_attempt", lambda *_, **__: result)
    monkeypatch.setattr(running, "start_next_method", lambda *_, **__: following.append(policy[tried + 1]["kind"]))
    last = tried == 2
    can_help = verdict == Verdict.FAILED or (reason == "open" and origin == "policy")
    stops = last or asked is Escalation.NEVER or (asked is Escalation.WHEN_IT_CAN_HELP and not can_help)
    published = verdict == Verdict.VERIFIED or (verdict == Verdict.INCONCLUSIVE and stops)
    if stops and not published:
        with pytest.raises(AuditFailed, match=f"{policy[tried]['kind']}.*So it is"):
            running.run_method_of_policy(run, inputs)
        return

    assert running.run_method_of_policy(run, inputs) is (result if published else None)
    assert following == ([] if published else [policy[tried + 1]["kind"]])


@pytest.mark.parametrize(
    ("policy", "asked"),
    [
        pytest.param(["retrain"], None, id="by policy-alone"),
        pytest.param(["retrain", "ieu"], {"kind": "retrain"}, id="by request-before others"),
        pytest.param(["retrain", "ieu"], None, id="by policy-before others", marks=pytest.mark.slow),
        pytest.param(["retrain"], {"kind": "retrain"}, id="by request-alone", marks=pytest.mark.slow),
    ],
)
def test_exact_retraining_is_published_with_what_its_audit_found(
    make_bench: Callable[..., Bench],
    training_ids: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    policy: list[str],
    asked: dict[str, object] | None,
) -> None:
    """A model that never saw them 'fails' where the samples are not typical. No method could remove more."""

    def failing(*given: Any, **more: Any) -> AttemptResult:
        result = run_attempt(*given, **more)
        verdict = replace(result.findings.verdict, value="failed", sentence="The audit of the samples failed.")
        return replace(result, findings=replace(result.findings, verdict=verdict))

    monkeypatch.setattr(running, "run_attempt", failing)
    bench = make_bench(policy=policy)
    job_id = bench.submit(training_ids[:60], method=asked)
    bench.run(job_id)
    job = bench.job(job_id)
    assert (job.state, job.verdict) == (JobState.COMPLETED, Verdict.FAILED), job.detail
    assert served(bench).number == 2
    report = Report.model_validate_json(json.dumps(report_of(bench, job_id)))
    assert report.exactness is not None
    assert report.exactness.causes


def test_a_certified_result_is_audited_as_any_other_and_says_what_is_certified(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...], tmp_path: Path
) -> None:
    reference = "tests.worker.digits:with_a_head"
    weights = train_workload(reference, allowed=("tests",), folder=tmp_path / "weights", plain=True).path
    bench = make_bench(policy=["retrain"], reference=reference, weights=weights)
    job_id = bench.submit(training_ids[:60], {"kind": "certified", "decay": 0.1, "epsilon": 2})
    bench.run(job_id)
    job = bench.job(job_id)
    assert job.state is JobState.COMPLETED, job.detail
    report = Report.model_validate_json(json.dumps(report_of(bench, job_id)))
    assert report.certificate is not None
    assert (report.certificate.epsilon, report.certificate.delta) == (2.0, 1e-5)
    assert "ε = 2, δ = 1e-05" in report.certificate.statement
    assert report.exactness is None
    assert (report.method.kind, report.verdict.value) == ("certified", job.verdict)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), Reason.WEIGHTS_MISSING),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), Reason.WEIGHTS_DAMAGED),
    ],
)
def test_weights_that_are_not_what_was_registered_end_the_job(
    bench: Bench, training_ids: tuple[str, ...], damage: Callable[[Path], object], reason: Reason
) -> None:
    damage(bench.settings.storage / f"{served(bench).weights_sha256}.safetensors")
    job_id = bench.submit(training_ids[:80])
    bench.run(job_id)
    job = bench.job(job_id)
    assert (job.state, job.reason) == (JobState.FAILED, reason)
    assert served(bench).number == 1


def test_a_workload_outside_the_allow_list_ends_the_job(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...]
) -> None:
    bench = make_bench(workloads="examples")
    job_id = bench.submit(training_ids[:80])
    bench.run(job_id)
    job = bench.job(job_id)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.WORKLOAD_FAILED)
    assert "EXPUNGE_WORKLOADS" in str(job.detail)


def test_targets_that_do_not_suit_the_objective_end_the_job_before_it_has_cost_anything(
    bench: Bench, training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = digits.workload()
    monkeypatch.setattr(digits, "workload", lambda: replace(given, objective=multi_label(10)))
    job_id = bench.submit(training_ids[:80])
    bench.run(job_id)
    job = bench.job(job_id)
    assert (job.state, job.reason, job.attempt) == (JobState.FAILED, Reason.WORKLOAD_FAILED, 1)
    assert "multi_label(10), which needs (n, 10)" in str(job.detail)


def test_a_factory_that_raises_ends_the_job_with_its_message(
    bench: Bench, training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.worker import digits

    monkeypatch.setattr(digits, "workload", digits.broken)
    job_id = bench.submit(training_ids[:80])
    bench.run(job_id)
    job = bench.job(job_id)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.WORKLOAD_FAILED)
    assert "no data here" in str(job.detail)


@pytest.mark.parametrize("place", ["build", "objective"])
def test_what_the_owners_code_says_names_neither_samples_nor_people(
    bench: Bench,
    training_ids: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
) -> None:
    """Wherever it fails, also while its network is built; to the operator, in the log and to who asks for the job."""
    given = digits.workload()
    people = tuple(f"anna-{number}@example.org" for number in range(len(given.train)))

    def fail(*_: object) -> None:
        raise ValueError(f"the photo {training_ids[3]} of {people[3]} has no colours")

    owned = replace(given, train=replace(given.train, subjects=people))
    changed = {"build": fail} if place == "build" else {"objective": replace(given.objective, losses=fail)}
    monkeypatch.setattr(digits, "workload", lambda: replace(owned, **changed))
    job_id = bench.submit(training_ids[:80])
    bench.run(job_id)
    logged = [record.getMessage() for record in caplog.records]  # what an exception itself says is in no line of ours
    said = f"{bench.job(job_id).detail} {attempts_of(bench, job_id)} {logged}"
    assert "the photo (an ID) of (an ID) has no colours" in said
    assert "anna" not in said
    assert training_ids[3] not in said


@pytest.mark.parametrize(
    ("error", "reason", "tries"),
    [
        (MemoryError(), Reason.OUT_OF_MEMORY, 4),
        (OSError(errno.ENOSPC, "No space left on device"), Reason.DISK_FULL, 4),
        (ConnectionResetError("the bucket of image-7 is away"), Reason.UNEXPECTED, 2),
    ],
)
def test_what_may_pass_is_tried_again_a_bounded_number_of_times(
    make_bench: Callable[..., Bench],
    training_ids: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: Reason,
    tries: int,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    bench = make_bench(max_attempts=4, retry_seconds=0)
    monkeypatch.setattr(running, "run_attempt", fail)
    job_id = bench.submit(training_ids[:80])
    for _ in range(tries):
        assert bench.run(job_id)
    job = bench.job(job_id)
    assert job.state is JobState.FAILED
    assert not bench.run(job_id)
    made = attempts_of(bench, job_id)
    assert [attempt.reason for attempt in made] == [reason] * tries
    assert "image-7" not in str(made)


def test_a_failure_that_may_pass_is_waited_for(
    bench: Bench, training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(running, "run_attempt", fail)
    job_id = bench.submit(training_ids[:80])
    assert bench.run(job_id)
    assert bench.job(job_id).retry_at is not None
    assert not bench.run(job_id)


def attempts_of(bench: Bench, job_id: UUID) -> list[Attempt]:
    with bench.sessions.begin() as session:
        return list_attempts(session, tenant_id=bench.tenant_id, job_id=job_id)


def test_an_error_that_would_come_again_gives_way_to_the_next_method_and_is_not_tried_again(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a crash in LTU's second derivative: IEU may do without."""
    bench = make_bench(policy=("ltu", "ieu"))
    original = running.run_attempt

    def crash_in_ltu(run: Run, *given: Any, **more: Any) -> AttemptResult:
        if run.claim.method["kind"] == "ltu":
            torch.nn.Linear(3, 2)(torch.zeros(4, 5))
        return original(run, *given, **more)

    monkeypatch.setattr(running, "run_attempt", crash_in_ltu)
    job_id = bench.submit(training_ids[:80])
    assert bench.run(job_id)
    first, *others = attempts_of(bench, job_id)
    assert (first.method["kind"], first.outcome, first.reason) == (
        "ltu",
        AttemptOutcome.ESCALATED,
        Reason.METHOD_FAILED,
    )
    assert "mat1 and mat2" in str(first.detail)
    assert [attempt.method["kind"] for attempt in others] == ["ieu"]
    fallback = bench.job(job_id).fallback
    assert fallback is not None
    assert (fallback.after, fallback.why) == ("ltu", first.detail)


def test_where_no_method_is_left_an_error_that_would_come_again_ends_the_job_with_its_reason(
    bench: Bench, training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise NotImplementedError("image-7 needs a second derivative")

    monkeypatch.setattr(running, "run_attempt", crash)
    job_id = bench.submit(training_ids[:80])
    assert bench.run(job_id)
    job = bench.job(job_id)
    assert (job.state, job.reason, job.attempt) == (JobState.FAILED, Reason.METHOD_FAILED, 1)
    assert "(an ID) needs a second derivative" in str(job.detail)


def test_an_audit_that_fails_alike_after_two_methods_ends_the_job(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No method can help an audit that the model makes impossible, and retraining would take hours to show it."""
    bench = make_bench(policy=("ieu", "gradient_ascent", "retrain"))

    def crash(run: Run, *_: object, **__: object) -> None:
        run.phase = Phase.AUDIT_MEMBERSHIP
        torch.nn.Linear(3, 2)(torch.zeros(4, 5))

    monkeypatch.setattr(running, "run_attempt", crash)
    job_id = bench.submit(training_ids[:80])
    assert bench.run(job_id)
    assert [attempt.method["kind"] for attempt in attempts_of(bench, job_id)] == ["ieu", "gradient_ascent"]
    assert bench.job(job_id).reason is Reason.METHOD_FAILED


def test_where_no_audit_can_be_made_an_erasure_is_finished_by_a_version_that_never_saw_the_samples(
    make_bench: Callable[..., Bench],
    untrained: Path,
    training_ids: tuple[str, ...],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is published without an audit, not even what is exact; but no erasure is impossible for that."""

    def crash(*_: object, **__: object) -> Iterator[Any]:
        yield torch.nn.Linear(3, 2)(torch.zeros(4, 5))

    monkeypatch.setattr(attempts, "audit_steps", crash)
    monkeypatch.setattr(attempts, "run_method", lambda run, inputs, **_: (inputs.original, None))
    bench = make_bench(policy=("retrain",))
    job_id = bench.submit(training_ids[:80])
    assert bench.run(job_id)
    job = bench.job(job_id)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.METHOD_FAILED)
    assert "mat1 and mat2" in str(job.detail)
    assert "register and promote" in str(job.detail)
    where = Deployment(database_url=database_url, storage=bench.settings.storage, sample_key=KEY, workloads="tests")
    anew = register_new_version(
        where, name="digits", weights=untrained, without=training_ids[:80], accept_untrained=True
    )
    with bench.sessions.begin() as session:
        promote(session, tenant_id=bench.tenant_id, model="digits", number=anew.number, by="operator")
        retry_job(session, tenant_id=bench.tenant_id, job_id=job_id)
    bench.run(job_id)
    job = bench.job(job_id)
    assert (job.state, job.reason, job.report_id) == (JobState.COMPLETED, Reason.SUPERSEDED, None)
    assert served(bench).number == anew.number
    with bench.sessions() as session:
        assert set(session.scalars(select(UnlearnRequest.state))) == {RequestState.COMPLETED}


def test_a_retraining_that_is_not_finite_fails_and_is_never_published(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe that does not suit the model."""
    workload = digits.workload()
    wild = replace(workload, recipe=replace(workload.recipe, learning_rate=1e30))
    monkeypatch.setattr(digits, "workload", lambda: wild)
    bench = make_bench()
    job_id = bench.submit(training_ids[:80])
    assert bench.run(job_id)
    job = bench.job(job_id)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.METHOD_FAILED)
    assert "learning rate" in str(job.detail)
    assert served(bench).number == 1


@pytest.mark.parametrize(
    ("reference", "said"), [("with_raising_trainer", "has no caption"), ("with_idle_trainer", "no weight changed")]
)
def test_a_trainer_that_fails_ends_the_job_with_what_it_said_and_without_sample_ids(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...], reference: str, said: str
) -> None:
    bench = make_bench(reference=f"tests.worker.digits:{reference}")
    job_id = bench.submit(training_ids[:80])
    assert bench.run(job_id)
    job = bench.job(job_id)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.METHOD_FAILED)
    assert said in str(job.detail)
    assert not any(sample in str(job.detail) for sample in training_ids)
    assert len(attempts_of(bench, job_id)) == 1
    assert served(bench).number == 1


def test_a_model_whose_weights_are_not_finite_gives_way_to_the_next_method(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(policy=("gradient_ascent", "retrain"))
    original = attempts.unlearn

    def spoil(spec: Any, task: Any) -> Any:
        outcome = yield from original(spec, task)
        if spec.kind == "gradient_ascent":
            next(task.model.parameters()).data[0] = float("nan")
        return outcome

    monkeypatch.setattr(attempts, "unlearn", spoil)
    job_id = bench.submit(training_ids[:80])
    assert bench.run(job_id)
    first, last = attempts_of(bench, job_id)
    assert (first.reason, first.outcome) == (Reason.METHOD_FAILED, AttemptOutcome.ESCALATED)
    assert last.outcome is AttemptOutcome.PUBLISHED


def test_a_ruined_model_is_held_for_approval(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retrained by a recipe that hardly trains it, exact as it is."""
    bench = make_bench(approve_utility_drop=2.0)
    workload = digits.workload()
    weak = replace(workload, recipe=replace(workload.recipe, epochs=1, learning_rate=0.005))
    monkeypatch.setattr(digits, "workload", lambda: weak)
    job_id = bench.submit(training_ids[:80])
    assert bench.run(job_id)
    job = bench.job(job_id)
    assert (job.state, job.phase, job.reason) == (JobState.AWAITING_APPROVAL, Phase.PUBLISH, Reason.UTILITY_DROP)
    assert job.report_id is not None
    assert [version.served for version in bench.versions()] == [True, False]


@pytest.mark.parametrize(
    "error",
    [
        InterfaceError("", None, Exception()),
        OperationalError("", None, Exception("terminating connection due to administrator command")),
        InternalError("", None, Exception("cannot execute UPDATE in a read-only transaction")),
        PoolTimeout("no connection is free"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_database_that_is_away_in_whatever_way_leaves_the_job_to_the_sweep(
    bench: Bench, training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(running, "run_attempt", fail)
    job_id = bench.submit(training_ids[:80])
    assert bench.run(job_id)
    assert bench.job(job_id).state is JobState.RUNNING
    assert [attempt.outcome for attempt in attempts_of(bench, job_id)] == [None]


def test_a_worker_that_shuts_down_gives_the_job_back(bench: Bench, training_ids: tuple[str, ...]) -> None:
    bench.stop_signal.set()
    job_id = bench.submit(training_ids[:80])
    assert bench.run(job_id)
    assert bench.job(job_id).state is JobState.QUEUED
    assert served(bench).number == 1


def test_a_worker_that_lost_its_lease_writes_nothing(
    bench: Bench, training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker takes the job while this one computes; then this one wants to publish."""
    job_id = bench.submit(training_ids[:80])
    original = running.run_attempt

    def robbed(run: object, inputs: object, **more: object) -> object:
        with bench.sessions.begin() as session:
            from sqlalchemy import text

            session.execute(
                text("UPDATE jobs SET attempt = attempt + 1, worker = 'another' WHERE id = :id"), {"id": job_id}
            )
        return original(run, inputs, **more)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(running, "run_attempt", robbed)
    assert bench.run(job_id)
    assert bench.job(job_id).state is JobState.RUNNING
    assert served(bench).number == 1
    assert list(bench.settings.storage.glob(".writing-*")) == []


def test_an_ordinary_cancel_ends_the_job_as_cancelled_and_is_one_line_in_the_log(
    make_bench: Callable[..., Bench],
    training_ids: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = make_bench(lease_seconds=3.0)
    job_id = bench.submit(training_ids[:80])

    def cancelled(run: Run, inputs: object, **_: object) -> None:
        with bench.sessions.begin() as session:
            cancel_job(session, tenant_id=bench.tenant_id, job_id=job_id)
        assert run.cancelled.wait(PATIENCE)  # the next renewal of the lease reads it
        run.check()

    monkeypatch.setattr(running, "run_attempt", cancelled)
    caplog.set_level(logging.INFO, logger="worker.run")
    assert bench.run(job_id)
    job = bench.job(job_id)
    assert (job.state, job.reason) == (JobState.CANCELLED, Reason.CANCELLED_BY_CALLER)
    (line,) = [record for record in caplog.records if "cancelled" in record.getMessage()]
    assert (line.levelno, line.exc_info) == (logging.INFO, None)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_nothing_is_half_written_when_the_disk_is_full_at_the_end(
    bench: Bench, training_ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_atomically", full)
    job_id = bench.submit(training_ids[:80])
    bench.run(job_id)
    job = bench.job(job_id)
    assert job.state is JobState.QUEUED
    assert served(bench).number == 1


def test_a_model_whose_training_set_is_a_stream_is_retrained(
    make_bench: Callable[..., Bench], training_ids: tuple[str, ...]
) -> None:
    """A method that needs random access, which the request names, gives way to it."""
    bench = make_bench(policy=("retrain",), reference="tests.worker.digits:as_a_stream")
    job_id = bench.submit(training_ids[:80], {"kind": "ieu"})
    bench.run(job_id)

    job = bench.job(job_id)
    assert (job.state, job.method["kind"]) == (JobState.COMPLETED, "retrain"), job.detail
    with bench.sessions.begin() as session:
        first, second = list_attempts(session, tenant_id=bench.tenant_id, job_id=job_id)
    assert "is a stream" in str(first.finding)
    assert second.outcome is AttemptOutcome.PUBLISHED
