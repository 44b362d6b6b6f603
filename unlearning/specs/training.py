"""Recipes: how a model was trained, so that it can be trained again."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from unlearning.errors import InvalidSpec
from unlearning.specs.rules import AtLeastOne, InnerShare, NotNegative, NotNegativeCount, Positive, Share, check_ranges

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready2Unlearn:
    """Prepare a model in training for later gradient ascent (Duan et al., arXiv 2505.10845; objective [ours], docs/methods.md §2).

    efficiency, retention, resistance: λ1, λ2, λ3. ascent_rate: α, equal to the later ascent's learning rate. ascent_steps: k, the
        number of simulated ascent steps. relearn_rate: γ of the simulated relearning.
    gain: what efficiency measures: how many nats a step of ascent adds to the loss ("difference"), or the logarithm of the
        factor by which it multiplies the loss ("ratio"). The ratio still has a gradient on a network that has memorised its data
        [ours].
    clip: the largest value of one meta difference, nats. longest: the largest norm of the meta terms' gradient, a longer one being
        scaled down to it [ours]; None for no limit. warm_up: share of the steps that are trained plainly first.
    every: the meta terms are added in each `every`-th step. order: "second" differentiates through the simulation, "first" does
        not.
    revocable_share: share of the training data that may later be asked to be forgotten.
    unit: what a simulated request names: single samples, or all samples of some people ("subject"), as where one person's many
        texts are to be forgotten together. The training set's subjects must then be known.
    """

    efficiency: NotNegative = 0.7
    retention: NotNegative = 16.0
    resistance: NotNegative = 0.1
    gain: Literal["difference", "ratio"] = "ratio"
    ascent_rate: Positive = 0.02
    ascent_steps: AtLeastOne = 1
    relearn_rate: Positive = 0.02
    clip: Positive = 2.0
    longest: Positive | None = 2.0
    warm_up: Share = 0.3
    every: AtLeastOne = 8
    order: Literal["second", "first"] = "second"
    revocable_share: InnerShare = 0.5
    unit: Literal["sample", "subject"] = "sample"

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reweighting:
    """Learn less from revocable samples: multiply their losses by `weight`. The simplest preparation, for comparison [ours].

    revocable_share: as in Ready2Unlearn; the split is the same.
    """

    weight: Share = 0.5
    revocable_share: InnerShare = 0.5

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class DPSGD:
    """Train with differential privacy (Abadi et al., CCS 2016), to compare Ready2Unlearn with; needs the extra `privacy` (Opacus).

    noise: σ, the noise multiplier. clip: C, the largest norm of a single sample's gradient. delta: δ of the ε that is accounted.
    Batches are Poisson samples with `batch_size` samples on average. Models with batch norm are refused.
    """

    noise: Positive = 1.0
    clip: Positive = 1.0
    delta: InnerShare = 1e-5

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """Vary the images of each training batch, where the batch lies: by random crops and by mirroring (He et al., CVPR 2016).

    padding: pixels of zeros around an image, from which a crop of its own size is cut; 0 for no crops. mirror: whether half of the
    images are mirrored.
    """

    padding: NotNegativeCount = 4
    mirror: bool = True

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Train by SGD with momentum and a one-cycle learning rate, optionally with a preparation for unlearning.

    learning_rate: the peak. readiness, reweighting, privacy: at most one of the three; none for plain training.
    augmentation: of images, in training alone; methods and audits see the images as they are. compiler: a backend of torch.compile,
        such as "inductor", for batches of the whole size; None does not compile, which is faster for short trainings.
    """

    epochs: AtLeastOne
    batch_size: AtLeastOne = 64
    learning_rate: Positive = 0.05
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: NotNegative = 5e-4
    precision: Precision = "auto"
    augmentation: Augmentation | None = None
    compiler: str | None = None
    readiness: Ready2Unlearn | None = None
    reweighting: Reweighting | None = None
    privacy: DPSGD | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if sum(chosen is not None for chosen in (self.readiness, self.reweighting, self.privacy)) > 1:
            raise InvalidSpec("A recipe has one of readiness, reweighting and privacy at most.")
        if self.privacy is not None and (self.augmentation or self.compiler):
            raise InvalidSpec("DP-SGD trains without augmentation and without a compiler.")
