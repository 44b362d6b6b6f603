"""Write the new version's weights and the report, and publish both in one transaction."""

from uuid import uuid4

from ledger.db import now
from ledger.events.timeline import list_job_events
from ledger.jobs import results
from ledger.jobs.claims import Claim
from ledger.jobs.jobs import list_attempts
from ledger.sample_ids import sample_digest
from ledger.states import Phase, VersionKind
from ledger.transparency.commitments import Commitment, commit_samples
from ledger.transparency.log import sign_checkpoint
from report.canonical import canonical_sha256
from unlearning.storage import save_weights
from worker.attempt import AttemptResult
from worker.inputs import JobInputs
from worker.lease import fenced
from worker.progress import ProgressReporter, attempt_timings, stage
from worker.report import Background, build_report
from worker.settings import Settings
from worker.signing import Signer, sign_statement


def publish(
    reporter: ProgressReporter,
    inputs: JobInputs,
    result: AttemptResult,
    *,
    settings: Settings,
    signer: Signer | None = None,
) -> None:
    """Publish a result as the model's next version, signed where there is a signer. The file comes first: a file without a
    row is litter, a row without its file would be a broken version.

    Raises StaleClaim, and OSError where the disk is full; nothing is published then.
    """
    claim = reporter.monitor.claim
    with stage(reporter, Phase.REPORT):
        path, sha256 = save_weights(result.model, settings.storage)
        manifest = commit_to(claim, inputs, key=settings.sample_key_bytes)
        report = build_report(
            claim,
            inputs,
            result,
            report_id=uuid4(),
            background=read_background(reporter),
            manifest_root=manifest.root,
            weights_sha256=sha256,
            timings=attempt_timings(reporter),
        )
        digest = canonical_sha256(report)
        statement = None if signer is None else sign_statement(report, report_sha256=digest, signer=signer)
    with stage(reporter, Phase.PUBLISH), fenced(reporter.sessions, claim) as session:
        results.publish(
            session,
            claim,
            weights_sha256=sha256,
            weights_path=path.name,
            kind=VersionKind.UNLEARNED,
            report=report,
            report_sha256=digest,
            verdict=report["verdict"]["value"],
            timings=dict(reporter.timings),
            manifest=manifest,
            statement=statement,
        )
        if signer is not None:
            sign_checkpoint(session, signer.checkpoint)


def commit_to(claim: Claim, inputs: JobInputs, *, key: bytes) -> Commitment:
    """Commit to the forget set: here, where the IDs are, because a leaf must speak of the ID that the person knows."""
    ids = inputs.forget.ids
    return commit_samples(
        claim.dataset, ((sample_digest(key, claim.dataset, sample_id), sample_id) for sample_id in ids)
    )


def read_background(reporter: ProgressReporter) -> Background:
    """Read what the report tells beside the measurements."""
    claim = reporter.monitor.claim
    with reporter.sessions.begin() as session:
        return Background(
            attempts=list_attempts(session, tenant_id=claim.tenant_id, job_id=claim.job_id),
            timeline=list_job_events(session, tenant_id=claim.tenant_id, job_id=claim.job_id),
            now=now(session),
        )
