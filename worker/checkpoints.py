"""Training checkpoints of a job: saved while its method runs, and loaded by the next attempt.

A file lies in the storage at `checkpoints/<job>/<attempt>/<sha256>.safetensors`. The ledger says which one counts.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from connectors.storage import Storage, StoredFile, delete_all
from ledger.errors import StaleClaim
from ledger.jobs.checkpoints import (
    discard_checkpoint,
    last_checkpoint,
    record_checkpoint,
    record_resumption,
    record_unsaved_checkpoint,
)
from ledger.jobs.claims import Claim
from ledger.sample_ids import samples_sha256
from ledger.states import DATA_WAIT, Phase
from unlearning.errors import CheckpointUnusable, WeightsDamaged, WeightsMissing
from unlearning.state import State
from unlearning.steps import Outcome, Progress
from unlearning.storage import checkpoint_to_bytes, load_training_checkpoint
from worker.cleanup import folder_of
from worker.inputs import JobInputs
from worker.lease import Run, add_time, attempt_timings, fenced

logger = logging.getLogger(__name__)


def checkpointing(run: Run, inputs: JobInputs, state: State) -> Callable[[Progress], None]:
    """Make what is called between two steps: it saves the run once the interval is over, and when the worker is to stop."""
    interval = run.settings.checkpoint_seconds
    saved_at, saved_step = time.monotonic(), 0

    def save_if_due(progress: Progress) -> None:
        nonlocal saved_at, saved_step
        if time.monotonic() - saved_at < interval and not run.stop_signal.is_set:
            return
        step = progress.step if state.step is None else state.step
        if step == saved_step:
            return  # An owner's training function has given no new state to save.
        _save(run, inputs, {"state": state.snapshot()}, step=step, total=progress.total)
        saved_at, saved_step = time.monotonic(), step

    return save_if_due


def save_unlearned(run: Run, inputs: JobInputs, *, model: nn.Module, outcome: Outcome) -> None:
    """Save the end of a method, so that the next attempt repeats only the audit."""
    content = {"model": model.state_dict(), "outcome": asdict(outcome)}
    _save(run, inputs, content, step=outcome.steps, total=outcome.steps)


def _save(run: Run, inputs: JobInputs, content: Mapping[str, Any], *, step: int, total: int) -> None:
    """Write a checkpoint, record it in the ledger, and delete older ones.

    A full disk does not end the run: it is recorded, and the run continues. Raises StaleClaim, and then leaves no file.
    """
    claim, storage = run.claim, run.settings.files
    folder = folder_of(claim.job_id)
    timings = attempt_timings(run)
    seconds, waited = (timings.get(name, 0.0) for name in (Phase.UNLEARN.value, DATA_WAIT))
    try:
        written = checkpoint_to_bytes({"of": _identity(claim, inputs), "seconds": seconds, "waited": waited, **content})
        name, sha256 = storage.put(written, f"{folder}/{claim.attempt}")
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
        logger.warning("job %s: no checkpoint was saved at step %s: %s", claim.job_id, step, why)
        with fenced(run) as (session, job):
            record_unsaved_checkpoint(session, job, why=why)
        return
    try:
        with fenced(run) as (session, job):
            record_checkpoint(session, job, sha256=sha256, step=step, total=total)
    except StaleClaim:
        with suppress(OSError):  # It is deleted when the job has ended.
            storage.delete(name)
        raise
    try:
        others = [file for file in storage.list_files(folder) if file.name != name]
        delete_all(storage.delete, [file.name for file in others if _attempt_of(file) <= claim.attempt])
    except OSError as error:  # They are deleted with the next one, or when the job has ended.
        logger.warning("job %s: older checkpoints were not deleted: %s", claim.job_id, error)


def _attempt_of(file: StoredFile) -> int:
    """The attempt that has saved a checkpoint, by the folder that the file lies in."""
    return int(file.name.split("/")[-2])


def find_checkpoint(run: Run, inputs: JobInputs) -> Mapping[str, Any] | None:
    """Load the checkpoint from which the claim's job resumes; None if there is none.

    One that cannot be used is recorded and discarded. The time that the run took up to it counts as this attempt's.
    """
    claim = run.claim
    with fenced(run) as (_, job):
        recorded = last_checkpoint(job)
    if recorded is None:
        return None
    name = f"{folder_of(claim.job_id)}/{recorded.attempt}/{recorded.sha256}.safetensors"
    try:
        path = fetch_checkpoint(run.settings.files, name, recorded.sha256)
        content = load_training_checkpoint(path, recorded.sha256)
        if content["of"] != _identity(claim, inputs):
            raise CheckpointUnusable(
                "it is of another method, or of other weights, samples, references or fingerprints"
            )
    except CheckpointUnusable as error:
        logger.warning("job %s: the checkpoint of attempt %s is not used: %s", claim.job_id, recorded.attempt, error)
        with fenced(run) as (session, job):
            discard_checkpoint(session, job, recorded, why=str(error))
        return None
    with fenced(run) as (session, job):
        record_resumption(session, job, recorded)
    add_time(run, Phase.UNLEARN, content["seconds"])
    if waited := content.get("waited"):  # which checkpoints of older versions lack
        add_time(run, DATA_WAIT, waited)
    run.resumed = True
    return content


def fetch_checkpoint(storage: Storage, name: str, sha256: str) -> Path:
    """Fetch a checkpoint's file. Raises CheckpointUnusable if the storage has lost or altered it, and StorageError."""
    try:
        return storage.fetch(name, sha256)
    except WeightsMissing:
        raise CheckpointUnusable("its file is gone") from None
    except WeightsDamaged:
        raise CheckpointUnusable("its file is damaged: the SHA-256 is not the recorded one") from None


def _identity(claim: Claim, inputs: JobInputs) -> dict[str, Any]:
    """Everything that a run depends on: runs with the same identity take the same steps."""
    file = None if inputs.references is None else claim.references
    references = {} if file is None else {"references": file.sha256}
    return (
        inputs.workload.identity
        | references
        | {
            "workload": claim.workload,
            "method": dict(claim.method),
            "seed": claim.seed,
            "weights": claim.weights_sha256,
            "forget": samples_sha256(claim.samples.forget),
            "erased": samples_sha256(claim.samples.left_out),
        }
    )
