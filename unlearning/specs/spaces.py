"""Search spaces: the parameters of each method that a tuning may vary, and their ranges (all [ours])."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from unlearning.errors import InvalidSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """A range from `low` to `high`, evenly spread on a linear or a logarithmic scale; `whole` rounds to whole numbers."""

    low: float
    high: float
    scale: Literal["log", "linear"] = "log"
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.scale == "log" and self.low <= 0):
            raise InvalidSpec(
                f"A range from {self.low} to {self.high} is empty or, on a log scale, does not begin above 0."
            )

    def at(self, share: float) -> float | int:
        """Return the value below which `share`, 0 to 1, of the range lies."""
        linear = self.low + share * (self.high - self.low)
        value = self.low * (self.high / self.low) ** share if self.scale == "log" else linear
        return round(value) if self.whole else float(value)


Space = Mapping[str, Range]
"""Ranges by the name of a spec's field."""

_RATE = Range(low=0.001, high=0.1)
_EPOCHS = Range(low=2, high=15, whole=True)
_ADAM_RATE = Range(low=1e-4, high=3e-3)
_FORGET_EPOCHS = Range(low=2, high=40, whole=True)

SPACES: dict[str, Space] = {
    "ltu": {
        "learning_rate": Range(low=0.02, high=0.2),
        "inner_rate": Range(low=0.002, high=0.2),
        "forgetting_weight": Range(low=0.2, high=5),
        "scramble_weight": Range(low=0.02, high=0.5),
        "overshoot": Range(low=0, high=2, scale="linear"),
    },
    "ieu": {
        "learning_rate": Range(low=0.01, high=0.2),
        "ascent": Range(low=0.2, high=5),
        "noise": Range(low=0.005, high=0.2),
        "decay": Range(low=0.001, high=1),
    },
    "matching": {"learning_rate": Range(low=0.01, high=0.2), "steps": Range(low=30, high=480, whole=True)},
    "gradient_ascent": {"learning_rate": Range(low=0.0003, high=0.03), "steps": Range(low=10, high=300, whole=True)},
    "retrain": {},
    "rewind": {},
    "drop_adapter": {},
    "certified": {"decay": Range(low=0.001, high=0.1)},
    "fine_tune": {"learning_rate": _RATE, "epochs": _EPOCHS},
    "neggrad_plus": {
        "learning_rate": _RATE,
        "epochs": _EPOCHS,
        "remain_weight": Range(low=0.8, high=1, scale="linear"),
    },
    "grad_diff": {"learning_rate": _ADAM_RATE, "epochs": _FORGET_EPOCHS, "forget_weight": Range(low=0.1, high=1)},
    "npo": {"learning_rate": _ADAM_RATE, "epochs": _FORGET_EPOCHS, "beta": Range(low=0.02, high=1)},
    "sim_npo": {"learning_rate": _ADAM_RATE, "epochs": _FORGET_EPOCHS, "beta": Range(low=0.5, high=5)},
    "rmu": {
        "learning_rate": _ADAM_RATE,
        "epochs": _FORGET_EPOCHS,
        "steering": Range(low=0.5, high=8),
        "remain_weight": Range(low=1, high=300),
    },
    "random_labels": {"learning_rate": _RATE, "epochs": _EPOCHS},
    "amnesiac_relabel": {"learning_rate": _RATE, "epochs": _EPOCHS},
    "fisher_noise": {"noise": Range(low=1e-5, high=0.03)},
    "ssd": {"selection": Range(low=0.5, high=100), "dampening": Range(low=0.1, high=5)},
    "bad_teacher": {"learning_rate": Range(low=1e-5, high=0.01), "epochs": Range(low=1, high=5, whole=True)},
    "salun": {"learning_rate": _RATE, "epochs": _EPOCHS, "saliency": Range(low=0.1, high=1, scale="linear")},
    "msg": {"learning_rate": _RATE, "epochs": _EPOCHS, "redrawn": Range(low=0.05, high=0.6, scale="linear")},
    "ct": {"learning_rate": _RATE, "epochs": _EPOCHS},
}
