"""Parameters of an audit: what it runs and the thresholds of its verdict, fixed before the run and printed in every report.

All defaults are [ours] (docs/methods.md).
"""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Lt, MultipleOf

from unlearning.specs.rules import (
    AboveOne,
    AtLeastOne,
    BelowHalf,
    Confidence,
    InnerShare,
    NotNegative,
    Share,
    check_ranges,
    require,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """Every number that decides a verdict.

    confidence: of the intervals that decide. 0.9 means two one-sided tests at 5 % each, the usual test of equivalence.
    membership_margin: largest margin. An attack's AUC and balanced accuracy must lie within 0.5 ± a margin, on both sides.
    membership_margin_least: smallest margin. In between, the margin is `membership_margin_widths` times half the interval that
        an AUC of 0.5 has on as many samples. So a set that was never learned passes about 98 times in 100, and larger sets get a
        narrower margin.
    relearn_ratio: least share of the control's relearning steps that the forget set must need.
    relearn_excess: more than this many times the control's steps causes a warning, because damage also delays relearning.
    relearn_least: with fewer relearned samples the delay has no interval, because five random samples may all be easy. It is then
        compared with many control sets: fewer than one in twenty may be learned so much slower that the ratio is `relearn_ratio`.
    control_steps: least number of steps that the control must need; a shorter delay is too coarse, as it is counted in whole steps.
    no_op_weights, no_op_predictions: a relative weight distance, or a mean total variation of the predictions, below these means
        that nothing was done.
    collapse_share: least share of the original's advantage over chance, in merit, that must be left on the remaining set.
    reference_level: the share of models that never saw the forget set which the reference test may fail, and of models that know
        all of it which it may pass.
    reference_margin: what the reference test tolerates, as a share of the way from unseen to seen. reference_spread: the ratio of
        the spread around the references to that of held-out data which it tolerates.
    reference_power: the least probability of a verdict at which a number of samples counts as enough; 0.8 is usual for a planned
        test.
    utility_drop: points of merit (accuracy) that remaining or test data may lose before the report warns.
    """

    confidence: Confidence = 0.9
    membership_margin: BelowHalf = 0.1
    membership_margin_least: BelowHalf = 0.05
    membership_margin_widths: AboveOne = 2.4
    relearn_ratio: InnerShare = 1 / 3
    relearn_excess: AboveOne = 2.0
    relearn_least: AtLeastOne = 30
    control_steps: AtLeastOne = 8
    no_op_weights: NotNegative = 1e-5
    no_op_predictions: NotNegative = 1e-3
    collapse_share: Share = 0.5
    reference_level: BelowHalf = 0.05
    reference_margin: Annotated[float, Ge(0), Lt(1)] = 0.1
    reference_spread: Annotated[float, Ge(1)] = 1.5
    reference_power: InnerShare = 0.8
    utility_drop: NotNegative = 2.0

    def __post_init__(self) -> None:
        check_ranges(self)
        require(
            0 < self.membership_margin_least <= self.membership_margin,
            "membership_margin_least",
            "above 0 and at most membership_margin",
            self.membership_margin_least,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditSpec:
    """What an audit runs, and how much of it.

    confidence: of the intervals that are printed. It is that of the intervals that decide, so a report shows one of each.
    replicates: bootstrap replicates.
    batch_size: most samples a forward pass; a CPU gets fewer (`unlearning.hardware`).
    remain_samples: most samples of D_r that the audit evaluates, drawn at random from larger sets: a pass over all of D_r through
        two models may take longer than the method.
    membership_samples: most samples of a set that the threshold attacks use, drawn at random from larger sets.
    vector_seeds: repetitions of the corrected support-vector attack. vector_samples: most members it is trained on, and most
        remaining samples that the probe of features is fitted to.
    extraction_samples: most samples of a set from which a generating model's extraction is measured.
    generated_samples: samples that a model generates of the forgotten samples' classes, and as many of the others.
    relearners: optimisers that relearn. The first fills the report's curves and must pass; the others must not fail.
    relearn_batch: samples a relearning step. relearn_samples: most samples of a set that is relearned.
    relearn_steps: the learning rate is calibrated so that the original learns a control set in about this many steps.
    relearn_delta: δ as a share of the original's loss gap between held-out and forget set. A set is relearned once its loss is
        at most L_f(θ_o) + δ.
    relearn_limit: T_max, as a multiple of the steps in which the original learned the control. Lower ones cut off controls of
        models that learn slowly, whatever they know.
    relearn_parts: most parts of the forget set that the first relearner learns, each by itself. Which samples a set has moves its
        delay far more than their order does, so several parts tell more than one. relearn_controls: control sets drawn from D_v
        for it. relearn_parts_more, relearn_controls_more: for each other relearner, which can fail a model but need not pass it.
    """

    thresholds: Thresholds = field(default_factory=Thresholds)
    confidence: Confidence = 0.9
    replicates: Annotated[int, Ge(100)] = 1000
    batch_size: AtLeastOne = 1024
    remain_samples: AtLeastOne = 10_000
    membership_samples: AtLeastOne = 5000
    vector_seeds: AtLeastOne = 3
    vector_samples: AtLeastOne = 2000
    extraction_samples: AtLeastOne = 64
    generated_samples: AtLeastOne = 200
    relearners: tuple[str, ...] = ("sgd", "adam")
    relearn_batch: AtLeastOne = 32
    relearn_samples: Annotated[int, Ge(2)] = 96
    relearn_steps: Annotated[int, Ge(4)] = 20
    relearn_delta: InnerShare = 0.1
    relearn_limit: AboveOne = 6.0
    relearn_parts: AtLeastOne = 4
    relearn_parts_more: AtLeastOne = 2
    relearn_controls: Annotated[int, Ge(3)] = 6
    relearn_controls_more: Annotated[int, Ge(3)] = 3

    def __post_init__(self) -> None:
        check_ranges(self)
        require(
            len(self.relearners) > 0 and set(self.relearners) <= {"sgd", "adam"},
            "relearners",
            "one or both of 'sgd' and 'adam'",
            self.relearners,
        )

    @classmethod
    def with_references(cls) -> "AuditSpec":
        """Return the spec for an audit with reference predictions, in which the reference test decides.

        The other tests are then shorter. Relearning can fail a model but need not pass it, so one relearner and 28 samples, which
        the ranks among many control sets decide about, are enough. The support-vector attack and the probe of features decide
        nothing.
        """
        return cls(
            replicates=400,
            remain_samples=2000,
            relearners=("sgd",),
            relearn_controls=3,
            relearn_samples=28,
            vector_seeds=1,
            vector_samples=500,
        )

    def parts(self, kind: str, *, forgotten: int) -> int:
        """Return how many parts of so many forgotten samples the relearner `kind` learns: of half of `relearn_samples` or more."""
        most = self.relearn_parts if kind == self.relearners[0] else self.relearn_parts_more
        least = max(self.thresholds.relearn_least, self.relearn_samples / 2)
        return 1 if self.are_few(forgotten) else max(1, min(most, int(forgotten / least)))

    def are_few(self, forgotten: int) -> bool:
        """Return whether so few samples are relearned that the ranks among many control sets decide, and not an interval."""
        return min(forgotten, self.relearn_samples) < self.thresholds.relearn_least

    def controls(self, kind: str) -> int:
        """Return how many control sets the relearner `kind` has."""
        return self.relearn_controls if kind == self.relearners[0] else self.relearn_controls_more


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceSpec:
    """What an audit with reference models runs, and how much of it.

    shadows: models trained and unlearned for LiRA, U-LiRA and RMIA, an even number; with 64 or more each sample has its own spread.
    repeats: originals unlearned and models retrained for KLoM and the forgetting score, an even number; 0 leaves both out.
    gamma, offline_a: RMIA's γ and a; the defaults are the paper's for CIFAR-10 [paper]. audit: replicates and confidence of the
        intervals.
    """

    shadows: Annotated[int, Ge(4), MultipleOf(2)] = 64
    repeats: int = 16
    gamma: Annotated[float, Ge(1)] = 2.0
    offline_a: Share = 0.3
    audit: AuditSpec = field(default_factory=AuditSpec)

    def __post_init__(self) -> None:
        check_ranges(self)
        require(
            self.repeats == 0 or (self.repeats >= 4 and self.repeats % 2 == 0),
            "repeats",
            "0, or even and at least 4",
            self.repeats,
        )
