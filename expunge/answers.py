"""What the API answers, as the caller sees it: JSON objects, each field with its type. Times are RFC 3339, durations seconds.

A test holds them against the API's own OpenAPI document.
"""

from typing import Any, TypedDict


class Samples(TypedDict):
    """How many of the samples there are of each outcome."""

    accepted: int
    already_erased: int
    not_in_training_set: int


class JoinedJob(TypedDict):
    """The job that a request joined for one model."""

    id: str | None
    state: str
    cut_off: str
    cut_off_reason: str


class Target(TypedDict):
    """One model that the request touches, with its own outcome."""

    model: str
    state: str
    reason: str | None
    detail: str | None
    samples: Samples | None
    job: JoinedJob | None
    version: int | None
    report_id: str | None
    verdict: str | None
    finished_at: str | None


class Request(TypedDict):
    """What was asked, by when it is due, and what became of it, model by model."""

    id: str
    dataset: str
    state: str
    targets: list[Target]
    samples: Samples | None
    unmatched_sample_ids: list[str] | None
    method: dict[str, Any] | None
    reason: str | None
    regulation: str
    received_at: str
    due_at: str
    extension_reason: str | None
    external_id: str | None
    expedite: bool
    created_at: str
    finished_at: str | None


class Estimate(TypedDict):
    """How long a job will run."""

    seconds: float
    low_seconds: float
    high_seconds: float
    source: str
    finish_at: str


class PreviewTarget(Target):
    """One model that the request would touch, and what that would take."""

    estimate: Estimate | None
    meets_deadline: bool | None


class Preview(TypedDict):
    """What a request would do now. Nothing was written."""

    dataset: str
    samples: Samples
    unmatched_sample_ids: list[str] | None
    targets: list[PreviewTarget]
    received_at: str
    due_at: str


class Job(TypedDict):
    """One unlearning run of one model, for one or many requests."""

    id: str
    model: str
    dataset: str
    state: str
    reason: str | None
    detail: str | None
    phase: str
    progress: float
    step: int
    total: int
    eta_seconds: float | None
    metrics: dict[str, Any]
    timings: dict[str, Any]
    attempt: int
    method: dict[str, Any]
    policy: list[dict[str, Any]]
    cut_off: str
    cut_off_reason: str
    samples: int | None
    requests: int
    due_at: str | None
    approved_by: str | None
    approved_at: str | None
    cancel_requested: bool
    base_version: int | None
    version: int | None
    report_id: str | None
    verdict: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    updated_at: str


class Event(TypedDict):
    """Something that happened."""

    id: int
    at: str
    kind: str
    text: str
    data: dict[str, Any]


class Attempt(TypedDict):
    """One worker's go at a job."""

    number: int
    method: dict[str, Any]
    outcome: str | None
    reason: str | None
    detail: str | None
    finding: dict[str, Any] | None
    timings: dict[str, Any]
    started_at: str
    finished_at: str | None


class Dataset(TypedDict):
    """A named set of samples."""

    id: str
    name: str
    samples: int
    created_at: str


class Version(TypedDict):
    """One set of weights of a model."""

    id: str
    model: str
    number: int
    kind: str
    weights_sha256: str
    job_id: str | None
    report_id: str | None
    served: bool
    refused_at: str | None
    created_at: str


class Model(TypedDict):
    """A served model."""

    id: str
    name: str
    dataset: str
    workload: str
    policy: list[dict[str, Any]]
    details: dict[str, Any]
    training_samples: int
    erased_samples: int
    trained_on_erased: int
    approve_jobs: bool
    approve_versions: bool
    version: Version
    created_at: str
