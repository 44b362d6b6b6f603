"""The errors of the ledger, by who has to act.

The caller: Refused with its children; NotFound and Conflict are two kinds of it. The operator: WrongSampleKey and LogForked.
The worker: StaleClaim and JobCancelled. We: IllegalMove.
"""


class LedgerError(Exception):
    """Base of all errors that the ledger raises."""


class Refused(LedgerError):
    """The caller asked for what cannot be done. Nothing was written."""


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
    """The log has no such entry or checkpoint, or the entry's content was erased."""


class UnknownKey(NotFound):
    """No API key, or no signing key, of that id."""


class UnknownUpload(NotFound):
    """No upload of that id, or it has expired."""


class UnknownWebhook(NotFound):
    """No webhook endpoint of that id."""


class UnknownDelivery(NotFound):
    """No delivery of that id at that endpoint."""


class EmptyUpload(Refused):
    """The uploaded list holds no sample."""


class NoSamplesMatch(Refused):
    """None of the samples is in the training set of any of the models."""


class MethodUnsuitable(Refused):
    """The request names a method that needs what a model does not have."""


class SamplesNotInDataset(Refused):
    """Samples were named that the dataset does not hold."""


class UnknownRegulation(Refused):
    """No rule is known for that regulation."""


class UnknownScope(Refused):
    """No such scope of an API key."""


class InvalidName(Refused):
    """No address could hold a dataset or a model of that name."""


class InvalidCursor(Refused):
    """The cursor was not made by this list."""


class InvalidPlace(Refused):
    """The log has no tree of that size, or the tree no such leaf."""


class InvalidTime(Refused):
    """A time has no zone or is in the future."""


class MessageExpired(Refused):
    """A message of a connected system was sent too long ago, or later than now: somebody may have kept it back."""


class KeyRefused(Refused):
    """The API key is unknown, wrong, expired or revoked. The message does not say which."""


class IdempotencyMismatch(Refused):
    """The idempotency key was used before with another body."""


class Conflict(Refused):
    """It is not possible in the current state."""


class AlreadyRegistered(Conflict):
    """The name is taken."""


class IdempotencyInProgress(Conflict):
    """The first request with this idempotency key is still running."""


class TooLate(Conflict):
    """The request or job can no longer be cancelled or extended."""


class NotFailed(Conflict):
    """Only a failed job can be retried."""


class NoSubjects(Conflict):
    """No data set of the tenant knows whose samples it has, so nobody can say whether a person is in one."""


class ModelBusy(Conflict):
    """A job of the model is running or awaits approval, so its served version cannot be changed."""


class ErasedMeanwhile(Conflict):
    """Samples of the model were erased that its new reference predictions still have rows of."""


class SamplesErased(Conflict):
    """The version knows samples that were erased, so it cannot be served or registered."""


class NotAwaiting(Conflict):
    """The job does not await approval."""


class VersionRefused(Conflict):
    """The version was refused or purged and cannot be served, and its job cannot make another."""


class MessageRepeated(Conflict):
    """A message of a connected system has come before: it was recorded, or somebody replays it."""


class WebhookDisabled(Conflict):
    """The webhook endpoint is disabled."""


class CallbackAddress(Conflict):
    """The endpoint is an address that requests named for status callbacks: it stays as they named it, and has no secret."""


class WrongSampleKey(LedgerError):
    """The ledger is hashed under another sample key than this process has. It can match nothing and must write nothing."""


class StaleClaim(LedgerError):
    """The claim's lease has expired or its attempt has ended. The worker must stop and write nothing."""


class LogForked(LedgerError):
    """The log has shrunk or changed since it was signed last, as after a restore from a backup. It is not signed any more."""


class JobCancelled(LedgerError):
    """The job was cancelled while it ran. The worker ends it with `cancelled_by_caller` and publishes nothing."""


class IllegalMove(LedgerError):
    """A move between states that is not in the table of moves: a bug in this program."""
