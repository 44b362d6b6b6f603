"""A job's checkpoints: written while its method runs, found by the next attempt, removed with the job.

The file lies below the storage at `checkpoints/<job>/<attempt>/<sha256>.safetensors`; which one counts is the ledger's to say.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

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
from ledger.states import Phase
from unlearning.errors import CheckpointUnusable
from unlearning.state import State
from unlearning.storage import load_training_checkpoint, save_training_checkpoint
from unlearning.task import Outcome, Progress
from worker.cleanup import folder_of
from worker.lease import fenced
from worker.progress import Journal, add_time, spent

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """Where checkpoints go, and how many seconds apart."""

    storage: Path
    every: float


def saver(journal: Journal, state: State, saving: Saving) -> Callable[[Progress], None]:
    """What to call between two steps: it saves the run when it is time, and when the worker is to stop."""
    saved = time.monotonic()

    def save(progress: Progress) -> None:
        nonlocal saved
        if time.monotonic() - saved < saving.every and not journal.watch.stopping.is_set:
            return
        write(journal, saving, {"state": state.snapshot()}, step=progress.step, total=progress.total)
        saved = time.monotonic()

    return save


def save_unlearned(journal: Journal, saving: Saving, *, model: nn.Module, outcome: Outcome) -> None:
    """Save the end of a method, so that only the audit is done again."""
    content = {"model": model.state_dict(), "outcome": asdict(outcome)}
    write(journal, saving, content, step=outcome.steps, total=outcome.steps)


def write(journal: Journal, saving: Saving, content: Mapping[str, Any], *, step: int, total: int) -> None:
    """Write a checkpoint and let the ledger know; older ones go. A disk that is full ends no run: it is noted, and the run goes on.

    Raises StaleClaim, and then leaves no file.
    """
    claim = journal.watch.claim
    folder = folder_of(saving.storage, claim.job_id) / str(claim.attempt)
    seconds = spent(journal).get(Phase.UNLEARN.value, 0.0)
    try:
        path, sha256 = save_training_checkpoint({"of": identity(claim), "seconds": seconds, **content}, folder)
    except OSError as error:
        logger.warning("job %s: no checkpoint at step %s: %s", claim.job_id, step, error.strerror)
        with fenced(journal.sessions, claim) as session:
            record_unsaved_checkpoint(session, claim, why=error.strerror or type(error).__name__)
        return
    try:
        with fenced(journal.sessions, claim) as session:
            record_checkpoint(session, claim, sha256=sha256, step=step, total=total)
    except StaleClaim:
        path.unlink(missing_ok=True)
        raise
    for other in folder.parent.glob("*/*"):
        if other != path and int(other.parent.name) <= claim.attempt:
            other.unlink(missing_ok=True)


def find(journal: Journal, saving: Saving) -> Mapping[str, Any] | None:
    """The content of the checkpoint that the claim's job goes on from, or None; one that can not be used is noted and forgotten.

    The time that it took to come there counts as this attempt's.
    """
    claim = journal.watch.claim
    with fenced(journal.sessions, claim) as session:
        recorded = last_checkpoint(session, claim)
    if recorded is None:
        return None
    path = folder_of(saving.storage, claim.job_id) / str(recorded.attempt) / f"{recorded.sha256}.safetensors"
    try:
        content = load_training_checkpoint(path, recorded.sha256)
        if content["of"] != identity(claim):
            raise CheckpointUnusable("it is of another method, or of other weights or samples")
    except CheckpointUnusable as error:
        logger.warning("job %s: the checkpoint of attempt %s is not used: %s", claim.job_id, recorded.attempt, error)
        with fenced(journal.sessions, claim) as session:
            discard_checkpoint(session, claim, recorded, why=str(error))
        return None
    with fenced(journal.sessions, claim) as session:
        record_resumption(session, claim, recorded)
    add_time(journal, Phase.UNLEARN, content["seconds"])
    return content


def identity(claim: Claim) -> dict[str, Any]:
    """What a run is of: from the same, the same steps follow."""
    return {
        "workload": claim.workload,
        "method": dict(claim.method),
        "seed": claim.seed,
        "weights": claim.weights_sha256,
        "forget": samples_sha256(claim.forget),
        "erased": samples_sha256(claim.erased),
    }
