"""How a model was trained, so that it can be trained again."""

from dataclasses import dataclass
from typing import Literal

from unlearning.errors import InvalidSpec

Precision = Literal["auto", "float32", "bfloat16"]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Reweighting:
    """Learn less from what may be asked to be forgotten: its losses count `weight` times those of the rest, which keep theirs.

    The simplest preparation, to compare Ready2Unlearn with [ours]. revocable_share: as Ready2Unlearn's, and the same split.
    """

    weight: float = 0.5
    revocable_share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or not 0 < self.revocable_share < 1:
            raise InvalidSpec("Reweighting needs a weight in [0, 1] and a revocable_share in (0, 1).")


@dataclass(frozen=True, kw_only=True, slots=True)
class DPSGD:
    """Train with differential privacy (Abadi et al., CCS 2016), to compare Ready2Unlearn with; needs the extra `privacy` (Opacus).

    noise: σ, the noise multiplier. clip: C, the longest gradient of a single sample. delta: δ of the ε that is accounted.
    Batches are Poisson samples of `batch_size` in the mean. Models with batch norm are refused.
    """

    noise: float = 1.0
    clip: float = 1.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        if self.noise <= 0 or self.clip <= 0 or not 0 < self.delta < 1:
            raise InvalidSpec("DP-SGD needs noise and clip above 0 and delta in (0, 1).")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """SGD with momentum and a one-cycle learning rate, optionally prepared for unlearning.

    learning_rate: the peak. readiness: Ready2Unlearn's settings, or None for plain training. reweighting, privacy: what it is
    compared with; one of the three at most.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: Precision = "auto"
    readiness: Ready2Unlearn | None = None
    reweighting: Reweighting | None = None
    privacy: DPSGD | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise InvalidSpec("A recipe needs at least one epoch, a batch of at least one and a learning rate above 0.")
        if sum(chosen is not None for chosen in (self.readiness, self.reweighting, self.privacy)) > 1:
            raise InvalidSpec("A recipe has one of readiness, reweighting and privacy at most.")
