"""One job, from the claim to the published result. The job's row decides; the message only wakes the worker.

Whatever is raised on the way ends the attempt in one of five ways: the claim is stale (nothing is written), the worker shuts down
(the job goes back to the queue), the caller has cancelled the job, the database is away (the lease expires, and the sweep brings
the job back), or the attempt fails with a reason, and is tried again if that can help.
"""

import logging
from uuid import UUID

import torch
from sqlalchemy.orm import Session, sessionmaker

from ledger.db import DATABASE_AWAY
from ledger.errors import JobCancelled, StaleClaim, WrongSampleKey
from ledger.jobs import claims, results
from ledger.jobs.claims import Claim, RowsLeft
from ledger.sample_key import check_sample_key
from ledger.states import AUDIT_PHASES, Escalation, Phase, Reason, Verdict
from unlearning.audit.verdict import Verdict as AuditVerdict
from unlearning.errors import InvalidSpec, MethodRefused
from unlearning.specs import EXACT
from worker.attempt import AttemptResult, run_attempt
from worker.child import StopSignal
from worker.failures import (
    AuditFailed,
    Failure,
    GpuLost,
    MethodFailed,
    ResumedMethodFailed,
    ShuttingDown,
    as_method_failure,
    classify,
)
from worker.inputs import JobInputs, load_inputs, load_workload, rewrite_references
from worker.launch import plan_launch
from worker.lease import Run, fenced, hold_lease, stage, start_next_attempt
from worker.publish import publish_result
from worker.settings import Settings
from worker.signing import find_model_signer, find_signer
from worker.watchdog import ProgressNotes

logger = logging.getLogger(__name__)


NO_AUDIT = (
    "The audit could not be made, and nothing is published without one. Mend the cause and retry the job. Or train the model again "
    "without its do-not-train list, register and promote that version, and retry the job: it then ends without a run."
)
"""What the operator can do about an error of the audit. The second way needs none: the promoted version never saw the samples."""


def run_job(
    job_id: UUID,
    *,
    sessions: sessionmaker[Session],
    settings: Settings,
    worker: str,
    stop_signal: StopSignal,
    notes: ProgressNotes | None = None,
) -> bool:
    """Run a job to its end if it can be claimed; return whether it was. Raises GpuLost after the end of an attempt is written.

    notes: tell the parent process of the run's progress. With another sample key than the ledger's it claims nothing.
    """
    try:
        claim = claim_job(job_id, sessions=sessions, settings=settings, worker=worker)
    except (WrongSampleKey, OSError) as error:
        logger.error("job %s is not claimed: %s", job_id, error)
        return False
    if claim is None:
        return False
    logger.info("job %s: attempt %d runs %s", job_id, claim.attempt, claim.method["kind"])
    run = Run(claim, sessions, settings, stop_signal, notes)
    with hold_lease(run):
        try:
            execute(run)
        except ShuttingDown:
            write_end(run, None)
        except JobCancelled:
            logger.info("job %s: cancelled by the caller", job_id)
            write_end(run, Failure(Reason.CANCELLED_BY_CALLER, "Cancelled by the caller.", retry=False))
        except StaleClaim as error:
            logger.warning("job %s is left to the worker that holds it now: %s", job_id, error)
        except DATABASE_AWAY as error:
            logger.error("job %s is left to the sweep: the database is away: %s", job_id, type(error).__name__)
        except Exception as error:
            failure = classify(error, owned=settings.allowed, ids=run.private_ids)
            logger.error("job %s: %s: %s", job_id, failure.reason, failure.detail, exc_info=error)
            write_end(run, failure)
            if failure.reason is Reason.GPU_LOST:
                raise GpuLost(failure.detail) from None
    return True


def claim_job(job_id: UUID, *, sessions: sessionmaker[Session], settings: Settings, worker: str) -> Claim | None:
    """Claim a job. One that needs no run is completed once the references have no rows of its samples.

    Raises WrongSampleKey, and OSError if the references cannot be written anew now.
    """
    rewritten = None
    while True:
        try:
            with sessions.begin() as session:
                check_sample_key(session, settings.sample_key_bytes)
                return claims.claim(session, job_id, worker=worker, lease=settings.lease, rewritten=rewritten)
        except RowsLeft as left:
            rewritten = rewrite_references(left.file, left.samples, settings.files)


def execute(run: Run) -> None:
    """Run the policy's methods in order until one gives a result that may be published, and publish it."""
    claim, settings = run.claim, run.settings
    signer = find_signer(run.sessions, settings.signing_keys)
    model_signer = find_model_signer(settings.model_signing_key)
    if signer is None:
        logger.warning("results are not signed: EXPUNGE_SIGNING_KEYS is not set")
    with stage(run, Phase.LOAD):
        run.launch = plan_launch(settings)
        if run.launch is not None:
            count, hosts = run.launch.count, settings.hosts
            logger.info("job %s: %d processes of this host run it, of %d hosts in all", claim.job_id, count, hosts)
            with fenced(run) as (session, job):
                claims.record_processes(session, job, processes=count, hosts=hosts)
        # With ranks, which load onto their own devices, this process only writes the report.
        device = None if run.launch is None else torch.device("cpu")
        workload = load_workload(claim.workload, allowed=settings.allowed, details=claim.details)
        run.private_ids = workload.private_ids  # before anything else of the owner's runs
        inputs = load_inputs(claim, workload, settings, device=device)
    unused = inputs.loaded_references.unused
    if unused is not None:
        with fenced(run) as (session, job):
            claims.record_references_unused(session, job, why=unused)
    result = None
    while result is None:
        result = run_method_of_policy(run, inputs)
    publish_result(run, inputs, result, signer=signer, model_signer=model_signer)
    logger.info("job %s: published with the verdict %s", claim.job_id, result.findings.verdict.value)


def run_method_of_policy(run: Run, inputs: JobInputs) -> AttemptResult | None:
    """Run the claim's method; return a result that may be published, or None after escalating to the policy's next method.

    A result that is exact by construction is published whatever its audit finds: no other method could remove more. Of the others a
    failed one is never published, and an inconclusive one if no fallback remains or `should_escalate` decides against it.
    A method that refuses, or that raises an error that would come again, gives way to the next one; not so if the audit has raised
    the same error after an earlier method.
    Raises AuditFailed, MethodRefused and MethodFailed if no fallback remains; after an error of the audit with a way without it.
    Raises ResumedMethodFailed instead if the attempt went on from a checkpoint, in which the cause may lie.
    """
    claim = run.claim
    is_last = claim.policy_index + 1 >= len(claim.policy)
    try:
        result = run_attempt(run, inputs)
    except (MethodRefused, InvalidSpec) as error:
        if is_last:
            raise
        start_next_method(run, why=str(error), finding="refused")
        return None
    except Exception as error:
        why = explain_failure(run, error, is_last=is_last)
        logger.error("job %s: the next method follows: %s", claim.job_id, why, exc_info=error)
        start_next_method(run, why=why, finding="error", reason=Reason.METHOD_FAILED)
        return None
    verdict = result.findings.verdict
    if may_publish(claim, verdict, is_last=is_last):
        return result
    start_next_method(run, why=verdict.sentence, finding="sentence", verdict=verdict.value)
    return None


def explain_failure(run: Run, error: Exception, *, is_last: bool) -> str:
    """Say which error of a method or its audit makes the policy's next method follow.

    Raises `error` itself if it may pass or stops the run, and otherwise, where no method follows, what ends the attempt:
    ResumedMethodFailed, MethodFailed.
    """
    failed = as_method_failure(error, owned=run.settings.allowed, ids=run.private_ids)
    if failed is None:
        raise error
    why = f"{run.claim.method['kind']}, phase {run.phase}: {failed}"
    if run.resumed:
        raise ResumedMethodFailed(why) from error
    in_audit = run.phase in AUDIT_PHASES
    if is_last or (in_audit and str(failed) in run.audit_errors):
        raise MethodFailed(f"{why} {NO_AUDIT}" if in_audit else why) from error
    if in_audit:
        run.audit_errors.add(str(failed))
    return why


def may_publish(claim: Claim, verdict: AuditVerdict, *, is_last: bool) -> bool:
    """Return whether a result is published; if not, the policy's next method follows. Raises AuditFailed if none does."""
    if verdict.value == Verdict.VERIFIED or claim.method["kind"] in EXACT:
        return True
    if not is_last and should_escalate(claim, verdict):
        return False
    if verdict.value == Verdict.INCONCLUSIVE:
        return True
    last = ", the policy's last method" if is_last else ""
    raise AuditFailed(f"The audit failed {claim.method['kind']}{last}. {verdict.sentence}")


def should_escalate(claim: Claim, verdict: AuditVerdict) -> bool:
    """Return whether the policy's next method follows a verdict that is not `verified`.

    By default only where it can help: if the samples are too few for any method to be verified on, or the attacks have no power, a
    fallback buys nothing. A method that the request named is followed by another only after a failed audit.
    """
    if claim.escalate is Escalation.NEVER:
        return False
    if verdict.value == Verdict.FAILED or claim.escalate is Escalation.ALWAYS:
        return True
    return verdict.reason == "open" and claim.origin == "policy"


def start_next_method(
    run: Run, *, why: str, finding: str, verdict: str | None = None, reason: Reason | None = None
) -> None:
    """Replace the claim by one of the policy's next method, and start its figures.

    why: a sentence for callers. finding: the name under which the attempt keeps it, beside the verdict of its audit.
    """
    found = {finding: why} if verdict is None else {finding: why, "verdict": verdict}
    with run.lock:
        with fenced(run) as (session, job):
            following = results.escalate(
                session, job, run.claim, finding=found, why=why, reason=reason, timings=run.timings
            )
        run.claim = following
    logger.info("job %s: attempt %d runs %s", following.job_id, following.attempt, following.method["kind"])
    start_next_attempt(run)


def write_end(run: Run, failure: Failure | None) -> None:
    """End the attempt with its reason; without one the job goes back to the queue for another worker.

    After a failure it goes back if another try may help and tries are left. If the end cannot be written, the sweep finds the
    expired lease.
    """
    try:
        with fenced(run) as (session, job):
            if failure is None:
                claims.release_job(session, job)
            else:
                rule = run.settings.retry_rule if failure.retry else None
                results.fail(session, job, reason=failure.reason, detail=failure.detail, rule=rule)
    except (StaleClaim, *DATABASE_AWAY) as error:
        logger.warning("the end of job %s was not written: %s", run.claim.job_id, type(error).__name__)
