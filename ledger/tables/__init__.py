"""The tables, a file a subject; whoever imports one has the whole schema in `Base.metadata`."""

from ledger.tables.access import ApiKey, IdempotencyKey, Tenant
from ledger.tables.base import Base
from ledger.tables.heartbeats import Heartbeat
from ledger.tables.history import Event, Report
from ledger.tables.jobs import Attempt, Job
from ledger.tables.log import LogCheckpoint, LogHead, LogLeaf, LogNode, LogOpening
from ledger.tables.outbox import OutboxEntry
from ledger.tables.registry import Dataset, Model, ModelVersion
from ledger.tables.requests import Target, UnlearnRequest
from ledger.tables.samples import (
    erased_samples,
    job_samples,
    manifest_leaves,
    request_samples,
    samples,
    training_samples,
    version_samples,
)
from ledger.tables.signing import SigningKey
from ledger.tables.uploads import UploadedManifest, uploaded_samples
from ledger.tables.webhooks import Tally, WebhookDelivery, WebhookEndpoint, WebhookTry

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
    "UploadedManifest",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookTry",
    "erased_samples",
    "job_samples",
    "manifest_leaves",
    "request_samples",
    "samples",
    "training_samples",
    "uploaded_samples",
    "version_samples",
]
