"""Parameters of the methods that a job may run, and of their calibrated stop.

Defaults are [ours] (docs/methods.md): no source we have gives the papers' constants.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

from annotated_types import Ge, Gt, Le

from unlearning.specs.rules import (
    MAX_COUNT,
    AtLeastOne,
    Count,
    LearningRate,
    NotNegative,
    NotNegativeCount,
    Passes,
    Positive,
    PositiveShare,
    Share,
    check_ranges,
    require,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """When an iterative method stops, judged on held-out data because no retrained model exists (docs/methods.md §4) [ours].

    check_every: steps between two checks (IEU's default: 8).
    tolerance: the forget set counts as matched if the root mean square of the standardised differences between its statistics
        and the held-out set's is at most this many standard errors.
    allowed_drop: points of merit that remaining and held-out data may lose; held-out data may also lose what a model trained on
        so much less data is expected to lose. A state that lost more is left in the model only if there is no other.
    relearn_share: the least share of the control's relearning steps that the forget set must need before the run may end early;
        0 turns the probe off.
    """

    check_every: AtLeastOne = 4
    tolerance: Positive = 1.0
    allowed_drop: NotNegative = 1.5
    relearn_share: Share = 0.4

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class LTU:
    """Learning to Unlearn (Huang, Foo, Liu, ECCV 2024, arXiv 2407.10494): two meta-learned gradients, harmonised.

    steps: iterations. The learning rate falls to zero over the last half, and the best state by the calibrated stop is used.
    passes: how often each forget sample is used at least. If `steps` are too few for that, steps and repair steps are scaled up
        (`scale_schedule`).
    rehearsals: most plain steps on remaining data after each iteration; their number is scaled by the share of the allowed drop
        that is used up.
    repair_steps: most plain steps on remaining data after the last iteration, while more than half of the allowed drop is used up.
    learning_rate: β, the step of the meta-update by SGD; Adam, for language models and image generators, takes a fiftieth of it.
    inner_rate: α, the step of the meta-tune.
    batch_size: forget samples a step. query_size: remaining samples in each of the three query sets.
    remain_share: ρ, the share of the remaining set that the method may use (|D̂_r| = ρ|D_r|). remain_least: the least number of
        samples that it uses, because a share of a small set is too little.
    clip: largest norm of each meta-gradient; a longer one is scaled down to it before the two are combined.
    forgetting_weight, scramble_weight: weights of the forgetting feedback and of the random-label support loss. In both each sample
        counts by its forget weight, because neither loss has a floor of its own.
    overshoot: the share by which the first half of the run aims beyond the losses of held-out data. A set that is forgotten more
        deeply is relearned more slowly; the second half aims at those losses themselves.
    attackers: K, the number of guide attacks: at least one for the support set and one for the query set. guide: what
        they learn from: the model's answers to remaining and to held-out samples ("populations"), or with reference predictions
        what models that saw a remaining sample, and others that did not, say of it ("pairs").
    order: differentiate through the inner step ("second", as in the paper) or stop there ("first").
    forgetting, remembering, meta, combine: the paper's ablations.
    """

    kind: Literal["ltu"] = "ltu"
    steps: Count = 40
    passes: Passes = 5.0
    rehearsals: NotNegativeCount = 3
    repair_steps: NotNegativeCount = 120
    learning_rate: LearningRate = 0.1
    inner_rate: Positive = 0.002
    clip: Positive = 1.0
    batch_size: Count = 64
    query_size: AtLeastOne = 64
    remain_share: PositiveShare = 0.3
    remain_least: AtLeastOne = 3000
    forgetting_weight: NotNegative = 1.0
    scramble_weight: NotNegative = 0.1
    overshoot: Annotated[float, Ge(0), Le(10)] = 0.5
    attackers: Annotated[int, Ge(2)] = 3
    guide: Literal["populations", "pairs"] = "populations"
    order: Literal["second", "first"] = "second"
    forgetting: bool = True
    remembering: bool = True
    meta: bool = True
    combine: Literal["harmonise", "sum", "alternate"] = "harmonise"
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        check_ranges(self)
        require(self.forgetting or self.remembering, "forgetting", "true where remembering is false", self.forgetting)


@dataclass(frozen=True, kw_only=True, slots=True)
class IEU:
    """Influence Eliminating Unlearning (Tran, Woo, arXiv 2604.09391): bounded ascent, weight decay, noise, then repair.

    steps: most steps of the eliminating phase.
    repair_steps: steps of the last phase, on remaining data. In the first three eighths of them the ascent continues on forget
        samples that are being relearned. Up to as many again follow while more than half of the allowed drop is used up.
    passes: how often each forget sample is used at least in the eliminating phase. If `steps` are too few for that, both phases are
        scaled up (`scale_schedule`).
    learning_rate: η of SGD, or of Muon with reference predictions; where Adam takes the steps (`optimiser_for`), its rate is a
        fiftieth of it. clip: largest norm of a gradient. ascent: γ, the weight of the bounded ascent on the forget set.
    decay: λ of W ← (1 − ηλ)W. noise: σ, the noise a step in units of each weight tensor's standard deviation.
    batch_size: samples a step, of the forget set and of the remaining set each.
    stop: checks after every eighth step by default, because a step costs little beside a check.
    """

    kind: Literal["ieu"] = "ieu"
    steps: Count = 60
    repair_steps: NotNegativeCount = 160
    passes: Passes = 5.0
    learning_rate: LearningRate = 0.05
    clip: Positive = 1.0
    ascent: NotNegative = 0.5
    decay: NotNegative = 0.01
    noise: NotNegative = 0.05
    batch_size: Count = 64
    stop: Stop = field(default_factory=lambda: Stop(check_every=8))

    def __post_init__(self) -> None:
        check_ranges(self)
        require(
            0 <= self.decay * self.learning_rate < 1,
            "decay",
            "such that learning_rate * decay is in [0, 1)",
            self.decay,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """Match reference predictions (after Georgiev et al., ICLR 2025, arXiv 2410.23232; docs/methods.md §8 [ours]).

    steps: the learning rate falls to zero over the last half of them, for classifiers over the last three tenths. passes: how
    often each forget sample is used at least; if `steps` are too few for that, they are scaled up (`scale_schedule`).
    learning_rate: η of Muon; for image generators Adam takes a fiftieth of it. temperature: T, at which half of the divergence is
    taken; 1 compares plain predictions alone. clip: largest norm of the gradient.
    batch_size: most forget samples a step. As many remaining samples come to them; for classifiers a quarter more, or 16, and still
    more where fewer samples are forgotten, so that all steps have equally many samples.
    """

    kind: Literal["matching"] = "matching"
    steps: Count = 40
    passes: Passes = 3.4
    learning_rate: LearningRate = 0.05
    temperature: Annotated[float, Ge(1), Le(100)] = 2.0
    clip: Positive = 1.0
    batch_size: Count = 32

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientAscent:
    """Plain gradient ascent on the forget set's loss: the simplest baseline, and the method that Ready2Unlearn prepares for."""

    kind: Literal["gradient_ascent"] = "gradient_ascent"
    steps: Count = 60
    learning_rate: LearningRate = 0.005
    batch_size: Count = 64
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class CT:
    """Convolution transpose (Cadet et al., 2024): transpose the kernels of convolutions, then train on the remaining set.

    epochs: of the remaining set. learning_rate: of the first epoch; it falls by half a cosine. The schedule is fixed: no calibrated
    stop ends it.
    """

    kind: Literal["ct"] = "ct"
    epochs: Count = 8
    learning_rate: LearningRate = 0.06
    batch_size: Count = 64

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrain:
    """Train the architecture anew on the remaining set as the model was trained: exact and slow."""

    kind: Literal["retrain"] = "retrain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewind:
    """Go back to the weights before the first slice with a forgotten sample, and train the slices from there on again: exact.

    max_share: refuse where more than this share of the whole training would have to be repeated.
    """

    kind: Literal["rewind"] = "rewind"
    max_share: PositiveShare = 1.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class DropAdapter:
    """Reset the adapters that learned from the forgotten samples, and from nothing else, to untrained weights: exact."""

    kind: Literal["drop_adapter"] = "drop_adapter"


@dataclass(frozen=True, kw_only=True, slots=True)
class Certified:
    """Train the head of frozen features on, with noise that certifies (ε, δ) (after Koloskova et al., ICML 2025).

    epsilon, delta: of the certificate; smaller is stronger.
    radius: the greatest norm of the head's weights, less the guess that uses no input; a larger head is scaled down to it.
    noise: standard deviation of a step's noise. Its unit and that of `radius` is 1/√curvature (`Objective.curvature`).
    decay: λ, the weight of the head's squared norm, in units of the curvature.
    steps: most steps. As many are taken as the noise needs; if these are too few for it, the noise is larger.
    """

    kind: Literal["certified"] = "certified"
    epsilon: Annotated[float, Gt(0), Le(100)] = 1.0
    delta: Annotated[float, Ge(1e-30), Le(0.01)] = 1e-5
    radius: Annotated[float, Gt(0), Le(1e6)] = 100.0
    noise: Annotated[float, Ge(1e-6), Le(1e6)] = 1e-3
    decay: Annotated[float, Ge(1e-6), Le(1)] = 0.01
    steps: Count = 20_000

    def __post_init__(self) -> None:
        check_ranges(self)


S = TypeVar("S", LTU, IEU, Matching)


def scale_schedule(spec: S, *, forget: int) -> S:
    """Scale the schedule up if `steps` batches use each forget sample fewer than `passes` times on average.

    forget: the number of forget samples. Steps and repair steps grow in proportion, to at most a million steps. 40 steps use each
    sample of half a training set once or twice, which is too few to forget it.
    """
    factor = min(max(1.0, spec.passes * forget / (spec.steps * spec.batch_size)), MAX_COUNT / spec.steps)
    scaled = {name: round(factor * getattr(spec, name)) for name in ("steps", "repair_steps") if hasattr(spec, name)}
    return dataclasses.replace(spec, **scaled, passes=0.0)
