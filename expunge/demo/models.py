"""The demo's models: what is trained, and what lies on disk afterwards."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One model to train. without: how many of the two requests it never sees the samples of."""

    seed: int
    without: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """A model on disk. seconds: of its training; for an unlearned one, of the unlearning."""

    path: str
    sha256: str
    seconds: float
