"""One job, from the claim to the published result: the row decides, the message only wakes.

Whatever is raised on the way ends in one of four ways: the claim is lost (nothing is written), the worker shuts down (the
job goes back to the queue), the database is away (the lease lapses, and the sweep brings the job back), or the job fails
with a reason, to be tried again where that can help.
"""

import logging
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from ledger.errors import JobCancelled, StaleClaim
from ledger.jobs import claims, results
from ledger.states import Phase, Reason, Verdict
from unlearning.errors import InvalidSpec, MethodRefused
from unlearning.specs.audit import AuditSpec
from worker.attempt import Trial, try_method
from worker.checkpoints import Saving
from worker.child import Flag
from worker.errors import AuditFailed, GpuLost, ShuttingDown
from worker.failures import Failure, failure
from worker.inputs import Material, load
from worker.lease import fenced, kept
from worker.progress import Journal, stage, start_afresh
from worker.publish import publish
from worker.settings import Settings
from worker.signing import find_signer

logger = logging.getLogger(__name__)


def run(job_id: UUID, *, sessions: sessionmaker[Session], settings: Settings, worker: str, stopping: Flag) -> bool:
    """Run a job if it can be claimed, to one of its ends; tell whether it was claimed. Raises GpuLost after such an end."""
    with sessions.begin() as session:
        claim = claims.claim(session, job_id, worker=worker, lease=settings.lease)
    if claim is None:
        return False
    logger.info("job %s: attempt %d runs %s", job_id, claim.attempt, claim.method["kind"])
    with kept(claim, sessions=sessions, lease=settings.lease, stopping=stopping) as watch:
        journal = Journal(watch, sessions)
        try:
            execute(journal, settings)
        except ShuttingDown:
            give_back(journal)
        except JobCancelled:
            logger.info("job %s: cancelled by the caller", job_id)
            end(journal, Failure(Reason.CANCELLED_BY_CALLER, "Cancelled by the caller.", retry=False), settings)
        except StaleClaim as error:
            logger.warning("job %s is left alone: %s", job_id, error)
        except OperationalError as error:
            logger.error("job %s is left to the sweep, the database is away: %s", job_id, type(error.orig).__name__)
        except Exception as error:
            found = failure(error)
            # The frames without the message: it may quote a sample's ID.
            frames = "".join(traceback.format_tb(error.__traceback__))
            logger.error("job %s: %s: %s\n%s", job_id, found.reason, found.detail, frames)
            end(journal, found, settings)
            if found.reason is Reason.GPU_LOST:
                raise GpuLost(found.detail) from None
    return True


def execute(journal: Journal, settings: Settings) -> None:
    """Try the policy's methods in order until one gives what may be published, and publish it."""
    signer = find_signer(journal.sessions, settings.signing_keys)
    if signer is None:
        logger.warning("results are not signed: EXPUNGE_SIGNING_KEYS is not set")
    with stage(journal, Phase.LOAD):
        material = load(journal.watch.claim, settings)
    saving = Saving(storage=settings.storage, every=settings.checkpoint_seconds)
    trial = None
    while trial is None:
        trial = try_next(journal, material, saving=saving)
    publish(journal, material, trial, settings=settings, signer=signer)
    logger.info("job %s: published with the verdict %s", journal.watch.claim.job_id, trial.findings.verdict.value)


def try_next(journal: Journal, material: Material, *, saving: Saving) -> Trial | None:
    """Run the claim's method; give the trial to publish, or None after moving the claim on to the policy's next method.

    An inconclusive result is published, and told as what it is, where the request named this method or where none is left;
    otherwise the policy goes on. A failed one never is.
    Raises AuditFailed, and MethodRefused where no method is left.
    """
    claim = journal.watch.claim
    following = claim.policy[claim.policy_index + 1 :]
    try:
        trial = try_method(journal, material, spec=AuditSpec(), saving=saving)
    except (MethodRefused, InvalidSpec) as error:
        if not following:
            raise
        escalate(journal, following[0], {"refused": str(error)})
        return None
    verdict = trial.findings.verdict
    settled = claim.origin == "request" or not following
    if verdict.value == Verdict.VERIFIED or (verdict.value == Verdict.INCONCLUSIVE and settled):
        return trial
    if not following:
        raise AuditFailed(f"The audit failed {claim.method['kind']}, the policy's last method. {verdict.sentence}")
    escalate(journal, following[0], {"verdict": verdict.value, "sentence": verdict.sentence})
    return None


def escalate(journal: Journal, method: Mapping[str, Any], finding: dict[str, object]) -> None:
    """Move the claim on to the policy's next method, whose figures start afresh."""
    watch = journal.watch
    with watch.turn:
        with fenced(journal.sessions, watch.claim) as session:
            following = results.escalate(session, watch.claim, method=method, finding=finding, timings=journal.timings)
        watch.claim = following
    start_afresh(journal)


def give_back(journal: Journal) -> None:
    """Put the job back into the queue for another worker."""
    with written(journal) as session:
        claims.release_job(session, journal.watch.claim)


def end(journal: Journal, found: Failure, settings: Settings) -> None:
    """End the attempt with its reason; the job goes back to the queue where another try may help and tries are left."""
    with written(journal) as session:
        results.fail(
            session,
            journal.watch.claim,
            reason=found.reason,
            detail=found.detail,
            retry=found.retry,
            max_attempts=settings.max_attempts,
        )


@contextmanager
def written(journal: Journal) -> Iterator[Session]:
    """Open the transaction of an attempt's last words. Where it can not be written, the sweep finds the lapsed lease."""
    try:
        with fenced(journal.sessions, journal.watch.claim) as session:
            yield session
    except (StaleClaim, OperationalError) as error:
        logger.warning("the end of job %s was not written: %s", journal.watch.claim.job_id, type(error).__name__)
