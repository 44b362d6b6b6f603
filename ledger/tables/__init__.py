"""The tables, a file a subject; whoever imports one has the whole schema in `Base.metadata`."""

from ledger.tables.base import Base
from ledger.tables.events import Event, OutboxEntry, Report, Tally, WebhookDelivery, WebhookEndpoint, WebhookTry
from ledger.tables.jobs import Attempt, Heartbeat, Job
from ledger.tables.registry import ApiKey, Dataset, IdempotencyKey, Model, ModelVersion, Tenant
from ledger.tables.requests import (
    Target,
    UnlearnRequest,
    Upload,
    commitment_leaves,
    erased_samples,
    job_samples,
    request_samples,
    samples,
    training_samples,
    uploaded_samples,
    version_samples,
)
from ledger.tables.transparency import LogCheckpoint, LogHead, LogLeaf, LogNode, LogOpening, SigningKey

__all__ = [
    "ApiKey",
    "Attempt",
    "Base",
    "Dataset",
    "Event",
    "Heartbeat",
    "IdempotencyKey",
    "Job",
    "LogCheckpoint",
    "LogHead",
    "LogLeaf",
    "LogNode",
    "LogOpening",
    "Model",
    "ModelVersion",
    "OutboxEntry",
    "Report",
    "SigningKey",
    "Tally",
    "Target",
    "Tenant",
    "UnlearnRequest",
    "Upload",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookTry",
    "commitment_leaves",
    "erased_samples",
    "job_samples",
    "request_samples",
    "samples",
    "training_samples",
    "uploaded_samples",
    "version_samples",
]
