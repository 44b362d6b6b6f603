"""The closed sets of values in the ledger, and the table of moves between states."""

from collections.abc import Mapping
from enum import StrEnum


class JobState(StrEnum):
    """The state of one unlearning run of one model."""

    QUEUED = "queued"  # takes requests, or waits for its model to be free or for a worker
    AWAITING_APPROVAL = (
        "awaiting_approval"  # before it runs (phase `waiting`), or with its result ready (phase `publish`)
    )
    RUNNING = "running"  # a worker holds the lease and changes the model
    VERIFYING = "verifying"  # a worker holds the lease and audits the result
    COMPLETED = "completed"  # the new version and its report are published
    FAILED = "failed"  # ended without a result; the reason code says why
    CANCELLED = "cancelled"  # by the caller, or its run was not approved; the served model is untouched


class RequestState(StrEnum):
    """The state of a request, or of one of its targets (request × model)."""

    RECEIVED = "received"  # recorded
    SCHEDULED = "scheduled"  # has joined a job
    RUNNING = "running"  # the job runs
    VERIFYING = "verifying"  # the job's result is audited
    COMPLETED = "completed"  # erased, with a report; or erased before the request came
    FAILED = "failed"  # a job ended without a result
    CANCELLED = "cancelled"  # by the caller, or the run of its job was refused (then it stays owed)
    REJECTED = "rejected"  # the model was not trained on any of the samples


class Phase(StrEnum):
    """What a job's worker is doing. The phases from `load` to `publish` are also the stages that are timed."""

    WAITING = "waiting"
    LOAD = "load"
    UNLEARN = "unlearn"
    AUDIT_MEMBERSHIP = "audit_membership"
    AUDIT_RELEARN = "audit_relearn"
    REPORT = "report"
    PUBLISH = "publish"
    DONE = "done"


AUDIT_PHASES = (Phase.AUDIT_MEMBERSHIP, Phase.AUDIT_RELEARN)

STAGES = tuple(phase.value for phase in Phase if phase not in (Phase.WAITING, Phase.DONE))
"""What is timed, one after the other."""

DATA_WAIT = "data_wait"
"""Among the timings: the part of `unlearn` in which the method waited for samples to be read. Missing where it did not."""


class Reason(StrEnum):
    """Why a job or a target ended, or an attempt failed."""

    WORKER_LOST = "worker_lost"  # the lease expired
    OUT_OF_MEMORY = "out_of_memory"
    GPU_LOST = "gpu_lost"  # the GPU failed during the run; the process that used it is replaced
    DISK_FULL = "disk_full"
    STORAGE_FAILED = "storage_failed"  # the object storage does not answer, or refuses
    WEIGHTS_MISSING = "weights_missing"
    WEIGHTS_DAMAGED = "weights_damaged"  # the file's SHA-256 is not the registered one
    WORKLOAD_FAILED = "workload_failed"  # the operator's factory raised
    METHOD_REFUSED = "method_refused"  # the method needs what the objective does not offer
    METHOD_FAILED = "method_failed"  # an error that would come again, or a result that is not finite
    STALLED = "stalled"  # no progress for as long as the settings allow; the process was ended
    AUDIT_FAILED = "audit_failed"  # no method of the policy reached a verdict that may be published, and none was exact
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"  # the lease expired in every try of a method
    CANCELLED_BY_CALLER = "cancelled_by_caller"
    UTILITY_DROP = "utility_drop"  # the version lost more merit than the model allows; it awaits approval
    APPROVAL_REFUSED = "approval_refused"  # an approver refused the run or the version
    SUPERSEDED = "superseded"  # an earlier job has erased all of these samples
    ALREADY_ERASED = "already_erased"  # before the request came
    NOT_IN_TRAINING_SET = "not_in_training_set"  # the model was not trained on any of them
    SIGNING_FAILED = "signing_failed"  # the worker must sign and has no usable key
    UNEXPECTED = "unexpected"  # a bug in this program


class SampleOutcome(StrEnum):
    """What a request means for one of its samples, over all of its models."""

    ACCEPTED = "accepted"  # at least one model has to forget it
    ALREADY_ERASED = "already_erased"  # every model that was trained on it has forgotten it
    NOT_IN_TRAINING_SET = "not_in_training_set"  # no model was trained on it


class AttemptOutcome(StrEnum):
    """How one attempt at a job ended."""

    PUBLISHED = "published"
    ESCALATED = "escalated"  # its result could not be published, or it gave none; the next method of the policy follows
    EXPIRED = "lapsed"  # the worker stopped renewing its lease; stored and sent under its former name
    RELEASED = "released"  # the worker gave the job back because it shuts down
    FAILED = "failed"
    CANCELLED = "cancelled"


class Verdict(StrEnum):
    """The result of an audit."""

    VERIFIED = "verified"
    INCONCLUSIVE = "inconclusive"
    FAILED = "failed"


class Escalation(StrEnum):
    """When a job escalates to the policy's next method because of the audit's verdict."""

    NEVER = "never"  # an inconclusive result is published; after a failed audit the job fails
    WHEN_IT_CAN_HELP = (
        "when_it_can_help"  # after a failed audit, and an inconclusive one that another method may decide
    )
    ALWAYS = "always"  # until a result is verified, or exact

    def or_more(self, other: "Escalation") -> "Escalation":
        """Return whichever of the two tries more."""
        order = list(Escalation)
        return max(self, other, key=order.index)


class VersionKind(StrEnum):
    """How a model version was made."""

    TRAINED = "trained"  # by the operator, who registered it
    UNLEARNED = "unlearned"  # by a job, from an earlier version


class ClosingReason(StrEnum):
    """Why a job closes, that is, takes no more requests, when it does."""

    WINDOW = "window"  # the batching window ends
    DEADLINE = "deadline"  # the latest start that still meets the earliest deadline
    EXPEDITE = "expedite"  # a request asked to go first
    METHOD = "method"  # a later request asked for another method


class MessageType(StrEnum):
    """The types of webhook messages."""

    REQUEST_RECEIVED = "request.received"
    REQUEST_EXTENDED = "request.extended"
    REQUEST_OVERDUE = "request.overdue"  # unserved after its due date
    REQUEST_COMPLETED = "request.completed"
    REQUEST_FAILED = "request.failed"
    REQUEST_CANCELLED = "request.cancelled"
    REQUEST_DISMISSED = "request.dismissed"  # it failed, and an admin decided that it is no longer owed
    JOB_RUNNING = "job.running"  # an attempt begins
    JOB_AWAITING_APPROVAL = "job.awaiting_approval"
    JOB_COMPLETED = "job.completed"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    REPORT_PUBLISHED = "report.published"
    VERSION_PUBLISHED = "version.published"
    VERSION_PROMOTED = "version.promoted"  # a caller chose to serve it


class WebhookProtocol(StrEnum):
    """How messages to an endpoint are written and signed."""

    STANDARD = "standard"  # Standard Webhooks, for an endpoint that an admin has added
    OPENDSR = "opendsr"  # status callbacks of OpenDSR, for an address that a request named


class ManagedState(StrEnum):
    """The status of a request that its manager sees: OpenDSR's four statuses."""

    PENDING = "pending"  # recorded
    IN_PROGRESS = "in_progress"  # being erased; or it failed and is still owed
    COMPLETED = "completed"  # erased from every model that knew the person, if one did
    CANCELLED = "cancelled"  # withdrawn, or dismissed


class DeliveryState(StrEnum):
    """The state of a message for one endpoint."""

    PENDING = "pending"  # waits for its next try
    DELIVERED = "delivered"  # the endpoint accepted it
    FAILED = "failed"  # no try is left; it can be replayed


class TryOutcome(StrEnum):
    """How one try to deliver a message ended."""

    DELIVERED = "delivered"  # answered with 2xx
    REFUSED = "refused"  # answered with another status, redirects included
    UNREACHABLE = "unreachable"  # no answer in time, no such name, no connection, a bad certificate
    FORBIDDEN = "forbidden"  # its host name resolves to an address that is not allowed


class HandOverState(StrEnum):
    """Where a model version is on its way to another system, such as a model server or a registry."""

    PENDING = "pending"  # the system does not have it yet; it is tried until it has
    DELIVERED = "delivered"  # the system has confirmed it, and is asked again from time to time
    SUPERSEDED = "superseded"  # another version was promoted, or the connector does not concern the model any more
    WITHDRAWING = "withdrawing"  # its weights were purged here and are to be deleted there
    WITHDRAWN = "withdrawn"  # the system has confirmed that it has deleted them


class DisabledReason(StrEnum):
    """Why an endpoint gets no more messages."""

    BY_CALLER = "by_caller"
    GONE = "gone"  # it answered 410
    FAILING = "failing"  # no try has succeeded for days


OWED = (HandOverState.PENDING, HandOverState.WITHDRAWING)
"""The states of a hand-over in which the other system has not done yet what it should."""

LEASED = (JobState.RUNNING, JobState.VERIFYING)
"""The job states in which a worker holds a lease. `Job.holds_model` adds the jobs whose version awaits approval."""

TERMINAL = frozenset({"completed", "failed", "cancelled", "rejected"})
"""The final states of jobs, targets and requests. `failed` can be left: a job is retried, a request withdrawn."""

_J, _R = JobState, RequestState

MOVES: Mapping[str, Mapping[str, frozenset[str]]] = {
    "job": {
        # completed: an earlier job has erased all of its samples.
        _J.QUEUED: frozenset({_J.AWAITING_APPROVAL, _J.RUNNING, _J.COMPLETED, _J.CANCELLED}),
        # queued: it may run. completed: its version is served. failed: its version is refused.
        _J.AWAITING_APPROVAL: frozenset({_J.QUEUED, _J.COMPLETED, _J.FAILED, _J.CANCELLED}),
        # queued: its lease expired, or its worker gave it back; it is tried again.
        _J.RUNNING: frozenset({_J.VERIFYING, _J.QUEUED, _J.FAILED, _J.CANCELLED}),
        # running: the policy's next method follows.
        _J.VERIFYING: frozenset({_J.AWAITING_APPROVAL, _J.COMPLETED, _J.RUNNING, _J.QUEUED, _J.FAILED, _J.CANCELLED}),
        _J.FAILED: frozenset({_J.QUEUED}),  # retried by the operator
    },
    "target": {
        _R.RECEIVED: frozenset({_R.SCHEDULED, _R.COMPLETED, _R.REJECTED}),  # completed: erased before
        _R.SCHEDULED: frozenset({_R.RUNNING, _R.COMPLETED, _R.CANCELLED}),  # completed: superseded
        _R.RUNNING: frozenset({_R.VERIFYING, _R.SCHEDULED, _R.FAILED, _R.CANCELLED}),
        _R.VERIFYING: frozenset({_R.COMPLETED, _R.RUNNING, _R.SCHEDULED, _R.FAILED, _R.CANCELLED}),
        _R.FAILED: frozenset({_R.SCHEDULED, _R.CANCELLED}),  # scheduled: retried. cancelled: withdrawn
    },
    # A request follows its targets (`fold`): when its least advanced target ends, it moves to the state of the others.
    "request": {
        _R.RECEIVED: frozenset({_R.SCHEDULED, _R.COMPLETED, _R.REJECTED}),
        _R.SCHEDULED: frozenset({_R.RUNNING, _R.VERIFYING, _R.COMPLETED, _R.FAILED, _R.CANCELLED}),
        _R.RUNNING: frozenset({_R.SCHEDULED, _R.VERIFYING, _R.COMPLETED, _R.FAILED, _R.CANCELLED}),
        _R.VERIFYING: frozenset({_R.SCHEDULED, _R.RUNNING, _R.COMPLETED, _R.FAILED, _R.CANCELLED}),
        _R.FAILED: frozenset({_R.SCHEDULED, _R.CANCELLED}),
    },
}
"""For each state the states that may follow it. `ledger.jobs.transitions.advance` refuses every other move."""

_OPEN_ORDER = (_R.RECEIVED, _R.SCHEDULED, _R.RUNNING, _R.VERIFYING)
_ENDED_ORDER = (_R.FAILED, _R.CANCELLED, _R.COMPLETED, _R.REJECTED)


def fold(states: list[RequestState]) -> RequestState:
    """Give the state of a request from those of its targets.

    While a target is open, it is the least advanced state of the open targets. After that it is the first of failed, cancelled,
    completed, rejected that occurs. Each target keeps its own state, so one model's failure does not hide another's success.
    """
    return next(state for state in (*_OPEN_ORDER, *_ENDED_ORDER) if state in states)
