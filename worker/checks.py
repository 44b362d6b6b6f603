"""Check in the worker's environment that each registered model can be built, before the first request for it comes.

A model is registered by a command, whose variables, packages, files and allow-list may be others than the worker's. The dry run of
the registration says nothing about these. The worker's parent process asks for a check, and its child makes it.
"""

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from ledger.db import now
from ledger.jobs.workers import ask_for_check, find_to_check, record_check, start_check, withdraw_check
from worker.failures import classify
from worker.settings import Settings

logger = logging.getLogger(__name__)

CHECK_INTERVAL = 5.0
"""Seconds between two polls for a model that is to be checked."""


def send_next_check(sessions: sessionmaker[Session], *, send: Callable[[UUID], object], started: float) -> None:
    """Have a child check the next model that no worker has checked yet, or that could not be built, once the last check has ended.

    started: when this worker did, by the monotonic clock. What the broker does not take is not noted as asked for.
    """
    with sessions.begin() as session:
        since = now(session) - timedelta(seconds=time.monotonic() - started)
        model_id = ask_for_check(session, since=since)
    if model_id is None:
        return
    try:
        send(model_id)
    except Exception:
        with sessions.begin() as session:
            withdraw_check(session, model_id)
        raise


def check_model(model_id: UUID, *, sessions: sessionmaker[Session], settings: Settings) -> None:
    """Make a model's workload and load its served weights, as a job would, and record what does not work."""
    # Only the child may import torch.
    import torch

    from worker.inputs import load_model, load_workload

    with sessions.begin() as session:
        start_check(session, model_id)
        found = find_to_check(session, model_id)
    if found is None:
        return
    fault, ids = None, tuple[str, ...]()
    try:
        workload = load_workload(found.workload, allowed=settings.allowed, details=found.details)
        ids = workload.private_ids
        weights = settings.files.fetch(found.weights_path, found.weights_sha256)
        load_model(workload, weights, found.weights_sha256, torch.device("cpu"))
    except Exception as error:
        fault = classify(error, owned=settings.allowed, ids=ids).detail
        logger.error("model %s: this worker cannot build it, so its jobs will fail: %s", found.name, fault)
    with sessions.begin() as session:
        record_check(session, model_id, fault=fault)
