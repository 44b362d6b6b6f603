"""What can go wrong in the library.

UnlearningError
├── InvalidSpec        the caller's: a parameter is unknown, misspelt or out of range
├── MethodRefused      the caller's: the method needs something that this task does not offer
├── InvalidWorkload    the caller's: what the factory returned does not hold together
├── CheckpointUnusable nobody's: the run starts again
└── WeightsError
    ├── WeightsMissing   there is no such file
    └── WeightsDamaged   the file's SHA-256 or its tensors do not fit
"""


class UnlearningError(Exception):
    """Base of all errors that this library raises on purpose."""


class InvalidSpec(UnlearningError):
    """A method's parameters are unknown, misspelt or out of range; `field` names the culprit where there is one."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class MethodRefused(UnlearningError):
    """The method cannot run on this task; the message says what is lacking."""


class InvalidWorkload(UnlearningError):
    """A workload's parts contradict each other."""


class CheckpointUnusable(UnlearningError):
    """A checkpoint is gone, damaged, or not of this run; the message says which, as what follows "because"."""


class WeightsError(UnlearningError):
    """The weights of a model version cannot be used."""


class WeightsMissing(WeightsError):
    """There is no weights file at the recorded place."""


class WeightsDamaged(WeightsError):
    """The weights file does not have the recorded digest, or does not fit the architecture."""
