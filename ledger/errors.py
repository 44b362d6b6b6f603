"""What the ledger refuses, by who is to blame.

LedgerError
├── Refused                     the caller's: nothing was written
│   ├── NotFound                no such thing for this tenant
│   │   ├── UnknownDataset
│   │   ├── UnknownModel
│   │   ├── UnknownVersion
│   │   ├── UnknownRequest
│   │   ├── UnknownJob
│   │   ├── UnknownReport
│   │   ├── NotInReport         the sample is not among those of this report
│   │   ├── UnknownEntry        not in the log, or no longer to be opened
│   │   ├── UnknownKey
│   │   ├── UnknownUpload
│   │   ├── UnknownWebhook
│   │   └── UnknownDelivery
│   ├── EmptyUpload             an uploaded list holds no sample
│   ├── NoSamplesMatch          none of the samples is in a training set
│   ├── SamplesNotInDataset     a model may only be trained on registered samples
│   ├── UnknownRegulation
│   ├── UnknownScope
│   ├── InvalidCursor
│   ├── InvalidPlace            the log has no tree of that size, or no such leaf in it
│   ├── InvalidTime             a time without a zone, or in the future
│   ├── KeyRefused              no, wrong, expired or revoked API key
│   ├── IdempotencyMismatch     the key was used with another body
│   └── Conflict                right now it cannot be done
│       ├── AlreadyRegistered
│       ├── IdempotencyInProgress
│       ├── TooLate             the thing is beyond the point where it could be cancelled or extended
│       ├── ModelBusy           a job of the model has not ended
│       ├── SamplesErased       a version still knows samples that were erased
│       ├── NotAwaiting         the job does not wait for approval
│       ├── VersionRefused      an approver has refused the version
│       ├── NotFailed           only a failed job can be retried
│       └── WebhookDisabled     a disabled endpoint is told nothing
├── StaleClaim                  the worker's: its lease is lost, it must stop and write nothing
├── JobCancelled                a caller cancelled the job while it ran: the worker ends it, and publishes nothing
└── IllegalMove                 ours: a state change that is not in the table of moves
"""


class LedgerError(Exception):
    """Base of everything the ledger raises on purpose."""


class Refused(LedgerError):
    """The caller asked for something that cannot be done; nothing was written."""


class NotFound(Refused):
    """No such thing for this tenant."""


class UnknownDataset(NotFound):
    """No dataset of that name."""


class UnknownModel(NotFound):
    """No model of that name trained on that dataset."""


class UnknownVersion(NotFound):
    """No version of that number."""


class UnknownRequest(NotFound):
    """No request of that id."""


class UnknownJob(NotFound):
    """No job of that id."""


class UnknownReport(NotFound):
    """No report of that id."""


class NotInReport(NotFound):
    """The sample is not among those that the report's job has erased."""


class UnknownEntry(NotFound):
    """The log has no such entry or checkpoint, or what opens it was erased."""


class UnknownKey(NotFound):
    """No API key, or no signing key, of that id."""


class UnknownUpload(NotFound):
    """No uploaded manifest of that id, or none any more."""


class UnknownWebhook(NotFound):
    """No webhook endpoint of that id."""


class UnknownDelivery(NotFound):
    """No delivery of that id at that endpoint."""


class EmptyUpload(Refused):
    """The uploaded list holds no sample."""


class NoSamplesMatch(Refused):
    """None of the samples is in the training set of any of the models."""


class SamplesNotInDataset(Refused):
    """Training samples were named that the dataset does not hold."""


class UnknownRegulation(Refused):
    """No rule is known for that regulation."""


class UnknownScope(Refused):
    """No such scope of an API key."""


class InvalidCursor(Refused):
    """The cursor was not made by this list."""


class InvalidPlace(Refused):
    """The log has no tree of that size, or the tree no such leaf."""


class InvalidTime(Refused):
    """A time has no zone, or lies in the future."""


class KeyRefused(Refused):
    """The API key is unknown, wrong, expired or revoked; which of them is not said."""


class IdempotencyMismatch(Refused):
    """The idempotency key was used before with another body."""


class Conflict(Refused):
    """It cannot be done in the state that the thing is in."""


class AlreadyRegistered(Conflict):
    """The name is taken."""


class IdempotencyInProgress(Conflict):
    """The first request with this idempotency key is still running."""


class TooLate(Conflict):
    """The request or job is beyond the point where that could be done."""


class NotFailed(Conflict):
    """Only a failed job can be retried."""


class ModelBusy(Conflict):
    """A job of the model has not ended; which version is served can not be changed under it."""


class SamplesErased(Conflict):
    """The version knows samples that were erased: it may not be served, or registered."""


class NotAwaiting(Conflict):
    """The job does not wait for approval."""


class VersionRefused(Conflict):
    """An approver has refused the version; its job can not make another one."""


class WebhookDisabled(Conflict):
    """The webhook endpoint is disabled."""


class StaleClaim(LedgerError):
    """The claim's lease is lost or its attempt has moved on; the worker must stop and write nothing."""


class JobCancelled(LedgerError):
    """A caller cancelled the job while it ran; the worker ends it with `cancelled_by_caller` and publishes nothing."""


class IllegalMove(LedgerError):
    """A state change that is not in the table of moves: a fault in this program."""
