"""Check in the worker's environment that each registered model can be built, before the first request for it comes.

A model is registered by a command, whose variables, packages, files and allow-list may be others than the worker's. The dry run of
the registration says nothing about these.
"""

import logging
from uuid import UUID

import torch
from sqlalchemy.orm import Session, sessionmaker

from ledger.registry.checks import find_to_check, record_check, start_check
from worker.failures import classify
from worker.inputs import load_model, load_workload
from worker.settings import Settings

logger = logging.getLogger(__name__)


def check_model(model_id: UUID, *, sessions: sessionmaker[Session], settings: Settings) -> None:
    """Call a model's factory, build its network and load its served weights, as a job would, and record what does not work."""
    with sessions.begin() as session:
        start_check(session, model_id)
        found = find_to_check(session, model_id)
    if found is None:
        return
    fault, ids = None, tuple[str, ...]()
    try:
        workload = load_workload(found.workload, allowed=settings.allowed)
        ids = workload.private_ids
        weights = settings.files.fetch(found.weights_path, found.weights_sha256)
        load_model(workload, weights, found.weights_sha256, torch.device("cpu"))
    except Exception as error:
        fault = classify(error, owned=settings.allowed, ids=ids).detail
        logger.error("model %s: this worker cannot build it, so its jobs will fail: %s", found.name, fault)
    with sessions.begin() as session:
        record_check(session, model_id, fault=fault)
