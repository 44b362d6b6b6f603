"""Ready2Unlearn's settings (torch-free)."""

from dataclasses import dataclass
from typing import Literal

from unlearning.errors import InvalidSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready2Unlearn:
    """Prepare a model, while it is trained, for a later ascent (Duan et al., arXiv 2505.10845; objective as in docs/methods.md §2).

    efficiency, retention, resistance: λ1, λ2, λ3. gain: whether efficiency is how many nats a step of ascent adds to the loss
        ("difference") or the logarithm of the factor by which it multiplies it ("ratio"), which a network that knows its data by
        heart still has a slope of [ours]. ascent_rate: α, equal to the later ascent's step.
    ascent_steps: k, simulated ascent steps. relearn_rate: γ of the simulated relearning.
    clip: the most that one meta difference may count, in nats. longest: the longest gradient of the meta terms that is followed, a
        longer one being scaled down to it [ours]; None follows all. warm_up: share of the epochs trained plainly first.
    every: the meta terms join each `every`-th step. order: "second" differentiates through the simulation, "first" does not.
    revocable_share: share of the training data that may be asked to be forgotten, the rest being stable.
    """

    efficiency: float = 0.7
    retention: float = 16.0
    resistance: float = 0.1
    gain: Literal["difference", "ratio"] = "ratio"
    ascent_rate: float = 0.02
    ascent_steps: int = 1
    relearn_rate: float = 0.02
    clip: float = 2.0
    longest: float | None = 2.0
    warm_up: float = 0.3
    every: int = 8
    order: Literal["second", "first"] = "second"
    revocable_share: float = 0.5

    def __post_init__(self) -> None:
        if min(self.efficiency, self.retention, self.resistance) < 0:
            raise InvalidSpec("Ready2Unlearn's weights must be at least 0.")
        if self.gain not in ("difference", "ratio"):
            raise InvalidSpec("Ready2Unlearn's gain must be 'difference' or 'ratio'.")
        if self.longest is not None and self.longest <= 0:
            raise InvalidSpec("Ready2Unlearn's longest must be above 0.")
        if self.every < 1 or self.ascent_steps < 1 or not 0 <= self.warm_up <= 1 or not 0 < self.revocable_share < 1:
            raise InvalidSpec(
                "Ready2Unlearn needs every >= 1, ascent_steps >= 1, warm_up in [0, 1], revocable_share in (0, 1)."
            )
