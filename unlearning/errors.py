"""Errors of the library.

UnlearningError
├── InvalidSpec        the caller's: a parameter is unknown, misspelt or out of range
├── MethodRefused      the caller's: the method or audit needs something that this task does not offer
├── NotFinite          the method's: it left weights or a loss that are no finite numbers
├── TrainerFault       the operator's: the workload's own training function did not train the model that it was given
├── InvalidWorkload    the operator's: the parts of a workload contradict each other
│   └── UnsupportedWorkload   a kind of model, data or labels that is not supported; the message says what is, and what to do
├── CheckpointUnusable nobody's: the run starts again from the beginning
├── ReferencesUnusable the operator's: the job goes on without reference predictions
└── WeightsError
    ├── WeightsMissing   the file does not exist
    ├── WeightsDamaged   the file's SHA-256 is another, or it is no whole file of weights
    └── WeightsMisfit    the file is as recorded, and its tensors do not fit the network that `build` returns
"""


class UnlearningError(Exception):
    """Base of all errors that this library raises on purpose."""


class InvalidSpec(UnlearningError):
    """A parameter is unknown, misspelt or out of range; `field` is its name if the error is about one parameter."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class MethodRefused(UnlearningError):
    """The method or audit cannot run on this task; the message says what is missing."""


class NotFinite(UnlearningError):
    """A method left weights, outputs or a loss that are not finite numbers."""


class TrainerFault(UnlearningError):
    """A workload's own training function did not train the model that it was given. The message says what to do."""


class InvalidWorkload(UnlearningError):
    """A workload's parts contradict each other."""


class UnsupportedWorkload(InvalidWorkload):
    """A kind of model, data or labels that is not supported. The message says what is supported, and what to do."""


class CheckpointUnusable(UnlearningError):
    """A training checkpoint is missing, damaged or of another run; the message is a clause that completes "because …"."""


class ReferencesUnusable(UnlearningError):
    """Reference predictions are missing, damaged or of another model; the message is a clause that completes "because …"."""


class WeightsError(UnlearningError):
    """The weights of a model version cannot be used."""


class WeightsMissing(WeightsError):
    """The weights file does not exist at the recorded path."""


class WeightsDamaged(WeightsError):
    """The weights file does not have the recorded digest, or is no whole file of weights."""


class WeightsMisfit(WeightsError):
    """The weights file is as recorded, and does not fit the network that the workload builds."""
