"""The resources of the API: what may be seen of requests, jobs, models and the rest.

Each resource is declared here once. The ledger's reading functions build it, the service answers with it, and `expunge.client`
returns it. Nothing internal is on it, such as the paths of weights or the names of workers. Times are in UTC, durations in seconds.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ledger.states import (
    AttemptOutcome,
    ClosingReason,
    DeliveryState,
    DisabledReason,
    Escalation,
    JobState,
    MessageType,
    Phase,
    Reason,
    RequestState,
    TryOutcome,
    Verdict,
    VersionKind,
    WebhookProtocol,
)


class Resource(BaseModel):
    """A resource is frozen, and can be read off a row that has attributes of the same names.

    A field that is called otherwise in JSON, where it has kept its first name, has that as its alias.
    """

    model_config = ConfigDict(frozen=True, from_attributes=True, serialize_by_alias=True, validate_by_name=True)


R = TypeVar("R", bound=Resource)


class Page(Resource, Generic[R]):
    """A page of a list, newest first."""

    items: Sequence[R]
    next_cursor: str | None = Field(description="Pass as `cursor` for the next page; null on the last.")


class Listing(Resource, Generic[R]):
    """A whole list."""

    items: Sequence[R]


class SampleCounts(Resource):
    """How many of the samples there are of each outcome."""

    accepted: int = Field(description="To be erased.")
    already_erased: int = Field(description="Erased by an earlier job.")
    not_in_training_set: int = Field(description="No model in question was trained on them.")


class SubjectCounts(Resource):
    """How many people a request names."""

    given: int = Field(description="Each counted once.")
    matched: int = Field(description="Those that have samples in the request's datasets.")


class JoinedJob(Resource):
    """The job that a request joined for one model."""

    id: UUID | None = Field(description="See GET /jobs/{id}. Null in a preview that would open a new job.")
    state: JobState
    closes_at: datetime = Field(
        validation_alias="cut_off",
        serialization_alias="cut_off",
        description="It starts then, if the model and a worker are free; until then others may join.",
    )
    closing_reason: ClosingReason = Field(
        validation_alias="cut_off_reason",
        serialization_alias="cut_off_reason",
        description="Why then: end of the window, a deadline, expedited, another method.",
    )


class Target(Resource):
    """One model that the request touches, with its own outcome."""

    model: str = Field(examples=["digits-cnn"])
    state: RequestState
    reason: Reason | None = Field(description="Why it ended as it did.")
    detail: str | None = Field(description="What happened, in words.")
    samples: SampleCounts
    job: JoinedJob | None
    version: int | None = Field(description="The model version that no longer knows the samples.")
    report_id: UUID | None = Field(description="See GET /reports/{id}.")
    verdict: Verdict | None
    finished_at: datetime | None


class UnlearnRequest(Resource):
    """What was asked, by when it is due, and what became of it, model by model.

    A key without `requests:read` must not learn who is in a training set. Its answers are the same whether anything matches: what
    became of the request is null, `targets` is empty, and of the datasets there are those that it named.
    """

    id: UUID
    dataset: str | None = Field(
        description="Its dataset; one of them if there are several. Null for a key without requests:read if it named none.",
        examples=["digits"],
    )
    datasets: tuple[str, ...] = Field(default=(), description="All of its datasets, by name.")
    every_dataset: bool = Field(
        default=False,
        description="Whether it named people, and neither dataset nor model: it concerns every dataset, also those to come.",
    )
    state: RequestState | None = Field(
        description="The least advanced of its targets'; when all have ended, the worst. Null for a key without requests:read."
    )
    targets: tuple[Target, ...] = Field(
        description="By the names of their models. Empty for a key without requests:read."
    )
    samples: SampleCounts | None = Field(description="Over all models. Null for a key without requests:read.")
    subjects: SubjectCounts | None = Field(
        default=None, description="Null if it named no person, and for a key without requests:read."
    )
    samples_by_subject: list[int] | None = Field(
        default=None,
        description="In the answer to the POST alone: how many samples each of its `subjects` has in these datasets, in order.",
    )
    unmatched_sample_ids: list[str] | None = Field(
        default=None,
        description="In the answer to the POST alone: those of its sample IDs that no model was trained on. They are not stored. "
        "Null for an upload, of which only the keyed hashes are there: see `unmatched_lines`.",
    )
    unmatched_lines: list[int] | None = Field(
        default=None,
        description="In the answer to the POST alone, for an upload: the numbers, from 1, of the first 1000 of its lines that "
        "hold a sample that no model was trained on, or a person without samples. `samples` and `subjects` count all of them. "
        "Null in an answer that is given again by its idempotency key after the upload was deleted.",
    )
    method: dict[str, Any] | None = Field(description="Null for the models' own policies.")
    reason: str | None
    regulation: str
    received_at: datetime
    due_at: datetime = Field(description="By law, from when it was received.")
    unserved: bool | None = Field(
        description="Whether the law still asks for it: it was neither served nor withdrawn nor dismissed. A failed one still is. "
        "Null for a key without requests:read."
    )
    extension_reason: str | None
    external_id: str | None
    expedite: bool
    escalate: Escalation | None = Field(default=None, description="Null for the models' own settings.")
    created_at: datetime
    finished_at: datetime | None
    dismissed_at: datetime | None = Field(
        description="When an admin decided that it is no longer owed though it failed."
    )
    dismissed_by: str | None
    dismissal_reason: str | None


class EstimateSource(StrEnum):
    """What an estimate is made of."""

    PAST_JOBS = "past_jobs"  # the median and the range of the model's last twenty
    TRAINING = "training"  # the seconds that its training took


class Estimate(Resource):
    """How long a job will run."""

    seconds: float = Field(description="From its start to its published result.")
    low_seconds: float
    high_seconds: float
    source: EstimateSource = Field(
        description="The model's last jobs (median and range), or, before the first, how long its training took: a guess."
    )
    finish_at: datetime = Field(description="When it will have ended at the latest, if the range holds.")


class PlannedMethod(Resource):
    """A method that a job may try."""

    kind: str = Field(examples=["ltu"])
    seconds: float | None = Field(
        description="What it takes with its audit: the median of its last runs on this model; of retraining, before the first, "
        "what the training took. Null while not known."
    )
    share: float | None = Field(
        ge=0, le=1, description="The share of the model's last twenty jobs that came to it; null before the first."
    )


class VerdictChance(Resource):
    """Whether an audit can verify an erasure of so few samples. It needs the model's reference predictions."""

    samples: int = Field(description="Of the job, with those of the requests that it has already.")
    probability: float = Field(
        ge=0,
        le=1,
        description="That a model which never saw so many typical samples is verified; no method can do better.",
    )
    samples_needed: int | None = Field(
        description="From about how many samples on it is enough (the audit's threshold `reference_power`); null if it never is."
    )


class PreviewTarget(Target):
    """One model that the request would touch."""

    estimate: Estimate | None = Field(description="Null where there is nothing to erase, or nothing is known.")
    meets_deadline: bool | None = Field(
        description="Whether `finish_at` is not after `due_at`; null without an estimate."
    )
    methods: tuple[PlannedMethod, ...] = Field(
        default=(),
        description="What the job would try, in order. The next runs if a method fails or its audit does not verify the result.",
    )
    verdict_chance: VerdictChance | None = Field(
        default=None, description="Null where there is nothing to erase, or the model has no reference predictions."
    )


class Preview(Resource):
    """What a request would do now. Nothing was written."""

    dataset: str
    datasets: tuple[str, ...] = ()
    every_dataset: bool = False
    samples: SampleCounts
    subjects: SubjectCounts | None = None
    samples_by_subject: list[int] | None = Field(
        default=None,
        description="How many samples each of its `subjects` has in these datasets, in their order.",
    )
    unmatched_sample_ids: list[str] | None = Field(description="Null for an upload.")
    unmatched_lines: list[int] | None = Field(
        default=None, description="For an upload: the first 1000 lines without a match, by number, from 1."
    )
    targets: tuple[PreviewTarget, ...]
    received_at: datetime
    due_at: datetime


class Fallback(Resource):
    """Why a job's method followed another."""

    after: str = Field(description="The kind of the method before.", examples=["ieu"])
    why: str = Field(description="What its audit found, or why it gave no result.")
    seconds: float | None = Field(description="What the present method takes with its audit; null while not known.")
    at: datetime


class Job(Resource):
    """One unlearning run of one model, for one or many requests.

    For a key without `requests:read`, in the answers to `:cancel` and `:retry`, what tells how many samples it erases is left out:
    `samples`, `requests`, `verdict`, `detail`, `fallback` and `eta_seconds` are null, `metrics` and `timings` empty, `step` and
    `total` 0.
    """

    id: UUID
    model: str = Field(examples=["digits-cnn"])
    dataset: str = Field(examples=["digits"])
    state: JobState
    reason: Reason | None = Field(description="Why it failed, was cancelled, or has its version await approval.")
    detail: str | None
    phase: Phase = Field(
        description="What the worker does now. A job that awaits approval is `waiting` before it runs, `publish` with its result."
    )
    progress: float = Field(ge=0, le=1, description="Of the whole job, 0 to 1.")
    step: int = Field(description="Of this phase.")
    total: int = Field(description="Steps of this phase.")
    eta_seconds: float | None = Field(description="Seconds to the end of the job, estimated; null while not known.")
    metrics: dict[str, Any] = Field(description="What was measured so far in this attempt.")
    timings: dict[str, Any] = Field(description="Seconds by stage.")
    attempt: int = Field(description="From 1; grows with each worker or method that takes over.")
    method: dict[str, Any] = Field(description="The method of this attempt with its parameters.")
    policy: tuple[dict[str, Any], ...] = Field(description="The methods to try, in order, until the audit verifies.")
    fallback: Fallback | None = Field(
        default=None, description="If `method` is not the first that was tried: why it runs, and how long it takes."
    )
    retry_at: datetime | None = Field(
        default=None, description="After a failure that may pass, it waits in the queue until then; the waits grow."
    )
    escalate: Escalation = Field(
        default=Escalation.WHEN_IT_CAN_HELP, description="Whether an inconclusive verdict leads to the next of them."
    )
    closes_at: datetime = Field(
        validation_alias="cut_off",
        serialization_alias="cut_off",
        description="Until then further requests may join; then it starts, if model and worker are free.",
    )
    closing_reason: ClosingReason = Field(validation_alias="cut_off_reason", serialization_alias="cut_off_reason")
    samples: int | None = Field(description="To be erased by it; null until it is closed.")
    requests: int | None = Field(description="How many requests it serves.")
    due_at: datetime | None = Field(description="The earliest deadline among them.")
    approved_by: str | None = Field(description="Who let it run, where the model's jobs need approval.")
    approved_at: datetime | None
    cancel_requested: bool
    base_version: int | None = Field(description="The model version it starts from.")
    version: int | None = Field(description="The model version it published.")
    report_id: UUID | None = Field(description="See GET /reports/{id}.")
    verdict: Verdict | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime = Field(description="Moves with every change.")


class Attempt(Resource):
    """One attempt of a worker at a job."""

    number: int
    method: dict[str, Any]
    outcome: AttemptOutcome | None = Field(description="Null while it runs.")
    reason: Reason | None
    detail: str | None
    finding: dict[str, Any] | None = Field(description="What the audit found when it was not good enough to publish.")
    timings: dict[str, Any] = Field(description="Seconds by stage.")
    started_at: datetime
    finished_at: datetime | None


class Event(Resource):
    """Something that happened."""

    id: int = Field(description="Grows; pass the last one as `after` to read on.")
    at: datetime
    kind: str = Field(examples=["job.running"])
    text: str
    data: dict[str, Any]


class Dataset(Resource):
    """A named set of samples."""

    id: UUID
    name: str = Field(examples=["digits"])
    samples: int = Field(description="How many samples are registered.")
    subjects: int = Field(default=0, description="How many people they belong to, as far as that is known.")
    created_at: datetime


class Version(Resource):
    """One set of weights of a model."""

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


class ServedVersion(Resource):
    """The version that a model serves now."""

    model: str = Field(examples=["digits-cnn"])
    version: int = Field(description="Its number.")
    weights_sha256: str = Field(description="SHA-256 of the safetensors file, hex.")
    report_id: UUID | None = Field(description="The audit of the job that made it; null for a trained one.")
    verdict: Verdict | None
    created_at: datetime


class WorkerCheck(Resource):
    """Whether a worker, with its own packages, variables and files, can build a model and load its weights."""

    asked_at: datetime
    ended_at: datetime | None = Field(
        description="Null while a worker has not found out. A busy one does so after its job."
    )
    fault: str | None = Field(description="What does not work; the model's jobs will fail by it.")


class Model(Resource):
    """A served model."""

    id: UUID
    name: str = Field(examples=["digits-cnn"])
    dataset: str = Field(examples=["digits"])
    workload: str = Field(examples=["examples.digits:workload"])
    policy: tuple[dict[str, Any], ...] = Field(
        description="The methods that `auto` tries, in order, until the audit verifies."
    )
    details: dict[str, Any]
    training_samples: int
    erased_samples: int
    trained_on_erased: int = Field(
        description="Training samples that another model of the dataset had erased when this one was registered: should be 0."
    )
    escalate: Escalation = Field(
        default=Escalation.WHEN_IT_CAN_HELP,
        description="Whether its jobs escalate to the next method after an inconclusive verdict.",
    )
    batch_until_samples: int | None = Field(
        default=None, description="With fewer samples its jobs stay open for more, until some days before the deadline."
    )
    approve_jobs: bool = Field(description="Whether an admin must approve each job before it runs.")
    approve_versions: bool = Field(description="Whether an admin must approve each version before it is served.")
    approve_utility_drop: float = Field(
        description="An admin must approve a version that lost more points of merit (accuracy for a classifier) than this beyond "
        "what less data explains."
    )
    lacks: tuple[str, ...] | None = Field(
        default=None,
        description="What methods may need (see `needs` of `GET /methods`) and it does not have: a request cannot name a method "
        "that needs it. Slices and reference predictions are not among these, because they may come. Null for a model that was "
        "registered before this was found out.",
        examples=[["adapters", "head"]],
    )
    worker_check: WorkerCheck | None = Field(
        default=None, description="What a worker found out about it in its own environment. Null until one was asked."
    )
    version: Version = Field(description="The one that is served.")
    created_at: datetime


class Upload(Resource):
    """A list of samples or of people that was uploaded, to be named in a request's `upload`."""

    id: UUID
    dataset: str | None = Field(description="The samples' dataset. Null for people.", examples=["digits"])
    samples: int | None = Field(description="How many, each counted once. Null for people.")
    subjects: int | None = Field(default=None, description="How many people, each counted once. Null for samples.")
    sha256: str = Field(description="Of their sorted keyed hashes: it commits to the list and does not tell it.")
    created_at: datetime
    expires_at: datetime = Field(
        description="After this it is gone; requests that were made with it are not concerned."
    )


class Webhook(Resource):
    """An endpoint to which events are sent."""

    id: UUID
    url: str
    protocol: WebhookProtocol = Field(
        default=WebhookProtocol.STANDARD,
        description="`opendsr`: an address that a request named for its status callbacks. It gets these alone.",
    )
    types: tuple[MessageType, ...] = Field(description="Empty: all.")
    description: str | None
    enabled: bool
    disabled_at: datetime | None
    disabled_reason: DisabledReason | None
    failing_since: datetime | None = Field(description="Since then no try has succeeded.")
    rotated_at: datetime | None = Field(
        description="When its secret was rotated; the one before signs along for a day."
    )
    created_at: datetime


class WebhookWithSecret(Webhook):
    """An endpoint with its secret."""

    secret: str = Field(
        description="Verifies `webhook-signature` (Standard Webhooks). Shown here only; rotate it if it is lost.",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    )


class DeliveryTry(Resource):
    """One try at a delivery."""

    number: int
    outcome: TryOutcome
    status: int | None = Field(description="The HTTP status, where there was an answer.")
    seconds: float
    at: datetime


class Delivery(Resource):
    """A message for one endpoint, and how each try to deliver it went."""

    id: UUID
    message_id: str = Field(description="The header `webhook-id`: the same at every try.")
    type: str
    body: dict[str, Any] = Field(description="What is sent.")
    state: DeliveryState
    next_try_at: datetime | None
    tries: tuple[DeliveryTry, ...]
    created_at: datetime
    finished_at: datetime | None


class SigningKey(Resource):
    """A public key (Ed25519) that signs, or has signed, statements and log checkpoints."""

    key_id: str = Field(description="SHA-256, hex, of the key's DER form (SubjectPublicKeyInfo).")
    public_key: str = Field(description="PEM.")
    created_at: datetime
    revoked_at: datetime | None = Field(description="From then on nothing that it has ever signed counts.")
    revocation_reason: str | None
