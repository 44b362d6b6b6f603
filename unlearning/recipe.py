"""How a model was trained, so that it can be trained again."""

from dataclasses import dataclass
from typing import Literal

from unlearning.errors import InvalidSpec
from unlearning.readiness_spec import Ready2Unlearn

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """SGD with momentum and a one-cycle learning rate, optionally prepared for unlearning.

    learning_rate: the peak. readiness: Ready2Unlearn's settings, or None for plain training.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: Precision = "auto"
    readiness: Ready2Unlearn | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise InvalidSpec("A recipe needs at least one epoch, a batch of at least one and a learning rate above 0.")
