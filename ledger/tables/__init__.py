"""The tables, a module for each subject. Importing any of them loads the whole schema into `Base.metadata`."""

from ledger.tables.base import Base
from ledger.tables.events import Event, HandOver, OutboxEntry, Tally, WebhookDelivery, WebhookEndpoint, WebhookTry
from ledger.tables.jobs import Attempt, Heartbeat, Job, Report
from ledger.tables.registry import ApiKey, ConsoleSession, Dataset, Model, ModelVersion, ReferenceSet, Tenant
from ledger.tables.requests import IdempotencyKey, ManagedRequest, Target, UnlearnRequest, Upload
from ledger.tables.samples import (
    commitment_leaves,
    erased_samples,
    job_samples,
    request_datasets,
    request_samples,
    request_subjects,
    samples,
    subject_samples,
    training_samples,
    uploaded_samples,
    version_samples,
)
from ledger.tables.transparency import LogCheckpoint, LogHead, LogLeaf, LogNode, LogOpening, SigningKey

__all__ = [
    "ApiKey",
    "Attempt",
    "Base",
    "ConsoleSession",
    "Dataset",
    "Event",
    "HandOver",
    "Heartbeat",
    "IdempotencyKey",
    "Job",
    "LogCheckpoint",
    "LogHead",
    "LogLeaf",
    "LogNode",
    "LogOpening",
    "ManagedRequest",
    "Model",
    "ModelVersion",
    "OutboxEntry",
    "ReferenceSet",
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
    "request_datasets",
    "request_samples",
    "request_subjects",
    "samples",
    "subject_samples",
    "training_samples",
    "uploaded_samples",
    "version_samples",
]
