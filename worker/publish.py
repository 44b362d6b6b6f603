"""Write the new version's weights and the report, and publish both in one transaction."""

from dataclasses import dataclass
from pathlib import Path
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
from report.document import Document, write
from unlearning.storage import save_weights
from worker.attempt import Trial
from worker.inputs import Material
from worker.lease import fenced
from worker.progress import Journal, spent, stage
from worker.report import Background, build_report
from worker.settings import Settings
from worker.signing import Signer, sign_statement


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What is to be published: the file with the weights, the report, and the commitment to the forget set."""

    path: Path
    document: Document
    commitment: Commitment


def publish(
    journal: Journal, material: Material, trial: Trial, *, settings: Settings, signer: Signer | None = None
) -> None:
    """Publish a trial as the model's next version, signed if there is a signer.

    The weights are written first: a file without a row is only litter, a row without its file would be a broken version.
    Raises StaleClaim, InvalidReport, and OSError if the disk is full; nothing is published then.
    """
    claim = journal.watch.claim
    with stage(journal, Phase.REPORT):
        result = prepare(journal, material, trial, settings=settings)
        statement = None if signer is None else sign_statement(result.document, signer=signer)
    with stage(journal, Phase.PUBLISH), fenced(journal.sessions, claim) as session:
        results.publish(
            session,
            claim,
            document=result.document,
            weights_path=result.path.name,
            kind=VersionKind.UNLEARNED,
            timings=dict(journal.timings),
            commitment=result.commitment,
            statement=statement,
        )
        if signer is not None:
            sign_checkpoint(session, signer.checkpoint)


def prepare(journal: Journal, material: Material, trial: Trial, *, settings: Settings) -> Result:
    """Write the weights and the report. Raises InvalidReport, and OSError if the disk is full."""
    claim = journal.watch.claim
    path, sha256 = save_weights(trial.model, settings.storage)
    commitment = commit_to(claim, material, key=settings.sample_key_bytes)
    report = build_report(
        claim,
        material,
        trial,
        report_id=uuid4(),
        background=read_background(journal),
        manifest_root=commitment.root,
        weights_sha256=sha256,
        timings=spent(journal),
    )
    return Result(path=path, document=write(report), commitment=commitment)


def commit_to(claim: Claim, material: Material, *, key: bytes) -> Commitment:
    """Commit to the forget set. A leaf holds the ID that the person knows; the ledger has hashes only, so the worker does this."""
    ids = material.forget.ids
    return commit_samples(
        claim.dataset, ((sample_digest(key, claim.dataset, sample_id), sample_id) for sample_id in ids)
    )


def read_background(journal: Journal) -> Background:
    """Read from the ledger what the report says beside the measurements."""
    claim = journal.watch.claim
    with journal.sessions.begin() as session:
        return Background(
            attempts=list_attempts(session, tenant_id=claim.tenant_id, job_id=claim.job_id),
            timeline=list_job_events(session, tenant_id=claim.tenant_id, job_id=claim.job_id),
            now=now(session),
        )
