"""Datasets, models and model versions as the API tells them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ledger.states import VersionKind


class DatasetBody(BaseModel):
    """A named set of samples."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str = Field(examples=["digits"])
    samples: int = Field(description="How many samples are registered.")
    created_at: datetime


class VersionBody(BaseModel):
    """One set of weights of a model."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    model: str = Field(examples=["digits-cnn"])
    number: int = Field(description="From 1, in the order in which they came.")
    kind: VersionKind
    weights_sha256: str = Field(description="SHA-256 of the safetensors file, hex.")
    job_id: UUID | None = Field(description="The job that published it; null for the trained one.")
    report_id: UUID | None = Field(description="The audit of that job.")
    served: bool = Field(description="Whether it is the one that is served.")
    refused_at: datetime | None = Field(description="When an approver refused it; it is never served.")
    created_at: datetime


class ModelBody(BaseModel):
    """A served model."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str = Field(examples=["digits-cnn"])
    dataset: str = Field(examples=["digits"])
    workload: str = Field(examples=["examples.digits:workload"])
    policy: list[dict[str, Any]] = Field(
        description="The methods that `auto` tries, in order, until the audit verifies."
    )
    details: dict[str, Any]
    training_samples: int
    erased_samples: int
    trained_on_erased: int = Field(
        description="Training samples that another model of the dataset had erased when this one was registered: should be 0."
    )
    approve_jobs: bool = Field(description="Whether an admin must approve each job before it runs.")
    approve_versions: bool = Field(description="Whether an admin must approve each version before it is served.")
    version: VersionBody = Field(description="The one that is served.")
    created_at: datetime


class ApprovalsBody(BaseModel):
    """What of a model's needs approval; what is left out or null stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    approve_jobs: bool | None = Field(default=None, description="Each job, before it runs.")
    approve_versions: bool | None = Field(default=None, description="Each version, before it is served.")


class DatasetsBody(BaseModel):
    """All datasets of the tenant, by name."""

    items: list[DatasetBody]


class ModelsBody(BaseModel):
    """All models of the tenant, by name."""

    items: list[ModelBody]


class VersionsBody(BaseModel):
    """All versions of a model, newest first."""

    items: list[VersionBody]
