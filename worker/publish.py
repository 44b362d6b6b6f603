"""Write the new version's weights and the report, and publish both in one transaction."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from connectors.model_signing import ModelSigner
from ledger.db import DATABASE_AWAY
from ledger.jobs import results
from ledger.jobs.claims import Claim
from ledger.jobs.results import Publication
from ledger.registry.models import CHECKPOINTS
from ledger.states import Phase
from ledger.transparency.commitments import commit_samples, commit_subjects
from report.document import write
from report.sheet import Sheet, to_pictures
from report.sheet import to_bytes as sheet_to_bytes
from unlearning.steps import Progress
from unlearning.storage import to_bytes as weights_to_bytes
from worker.attempt import AttemptResult
from worker.cleanup import SHEETS, delete_outdated_files
from worker.inputs import JobInputs, write_references
from worker.lease import Run, attempt_timings, refusals_counted, report_progress, stage
from worker.report import build_report, read_background
from worker.settings import Settings
from worker.signing import Signer, remember_signed, sign_head, sign_statement

logger = logging.getLogger(__name__)


def publish_result(
    run: Run,
    inputs: JobInputs,
    result: AttemptResult,
    *,
    signer: Signer | None = None,
    model_signer: ModelSigner | None = None,
) -> None:
    """Publish a result as the model's next version. signer: signs its statement; model_signer: its weights, for other tools.

    The weights are written first: a file without a row is only litter, a row without its file would be a broken version.
    Raises StaleClaim, InvalidReport, and OSError if the disk is full; nothing is published then.
    """
    claim, settings = run.claim, run.settings
    with stage(run, Phase.REPORT):
        prepared = prepare(run, inputs, result, signer=signer, model_signer=model_signer)
    with stage(run, Phase.PUBLISH), refusals_counted(run) as session:
        started = time.monotonic()
        results.publish(session, claim, prepared, timings=dict(run.timings))
        head = None if signer is None else sign_head(session, signer)
        results.record_publication_time(session, claim, time.monotonic() - started)
    if signer is not None and head is not None:
        remember_signed(signer.folder, head)
    write_sheet(result, report_id=prepared.document.report.report_id, settings=settings)
    try:
        delete_outdated_files(settings.files, run.sessions)
    except (OSError, *DATABASE_AWAY) as error:
        logger.warning("job %s is published; what it made outdated is deleted later: %s", claim.job_id, error)


def write_sheet(result: AttemptResult, *, report_id: str, settings: Settings) -> None:
    """Write the operator's sheet, if there is one and it is to be kept. A failure only warns: the result is published already."""
    found = result.findings.sheet
    if found is None or not settings.sheet_days:
        return
    rows = {title: to_pictures(images, bounds=found.bounds) for title, images in found.rows.items()}
    pictures = {title: shown for title, shown in rows.items() if shown is not None}
    sheet = Sheet(report_id=report_id, rows=pictures, texts=found.texts)
    try:
        settings.files.put(sheet_to_bytes(sheet), f"{SHEETS}/{report_id}")
    except OSError as error:
        logger.warning("report %s has no sheet for the operator: %s", report_id, error)


def prepare(
    run: Run,
    inputs: JobInputs,
    result: AttemptResult,
    *,
    signer: Signer | None = None,
    model_signer: ModelSigner | None = None,
) -> Publication:
    """Write the weights and the report, and sign them. Raises InvalidReport, and OSError if the disk is full."""
    claim, settings = run.claim, run.settings
    weights, sha256 = settings.files.put(weights_to_bytes(result.model))
    report_progress(run, Progress(phase=Phase.REPORT.value, step=1, total=2))  # each file has its own time limit
    remaining = inputs.loaded_references.remaining
    references = None if remaining is None else write_references(remaining, settings.files)
    report_progress(run, Progress(phase=Phase.REPORT.value, step=2, total=2))
    key = settings.sample_key_bytes
    # The ledger has hashes only; a leaf holds the ID that the person knows.
    commitment = commit_samples(claim.dataset, inputs.forget.ids, key=key)
    people = commit_subjects(claim.people, key=key)
    with run.sessions.begin() as session:
        background = read_background(session, claim)
    document = write(
        build_report(
            claim,
            inputs,
            result,
            report_id=uuid4(),
            background=background,
            commitment=commitment,
            people=people,
            weights_sha256=sha256,
            timings=attempt_timings(run),
        )
    )
    return Publication(
        document=document,
        weights_path=weights,
        commitment=commitment.seal(key),
        people=None if people is None else people.seal(key),
        statement=None if signer is None else sign_statement(document, signer=signer),
        references=references,
        utility_drop=result.findings.utility.drop,
        checkpoints=_remaining_checkpoints(claim, inputs, result),
        signature=None if model_signer is None else model_signer.sign(claim.model, sha256),
    )


def _remaining_checkpoints(
    claim: Claim, inputs: JobInputs, result: AttemptResult
) -> Sequence[Mapping[str, Any]] | None:
    """List the usable checkpoints of before and those of this run; of one slice the newest."""
    if not result.outcome.kept and CHECKPOINTS not in claim.details:
        return None
    by_slice = {entry["slice"]: entry for entry in (*inputs.checkpoints, *result.outcome.kept)}
    return [by_slice[number] for number in sorted(by_slice)]
