"""What an audit runs and what its verdict demands: torch-free, fixed before the run, printed in every report.

All numbers are this project's own choice ([ours] in docs/methods.md).
"""

import dataclasses
from dataclasses import dataclass, field

from unlearning.errors import InvalidSpec
from unlearning.specs.rules import require


def _require(condition: bool, name: str, rule: str, value: object) -> None:
    if not condition:
        raise InvalidSpec(f"{name} is {value!r}; it must be {rule}.", field=name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """Every number that decides a verdict.

    confidence: of the intervals that decide. 0.9 is two one-sided tests at 5 % each, the usual test of equivalence.
    membership_margin: an attack's AUC and balanced accuracy must lie within 0.5 ± a margin, from both sides; this is the widest.
    membership_margin_least: the narrowest. In between it is `membership_margin_widths` times the half interval that an AUC of
        0.5 has on as many samples, so that a set never learned passes about 98 times in 100 and larger sets are judged harder.
    relearn_ratio: the least share of the control's relearning steps that the forget set must need.
    relearn_excess: more than this many times the control's steps is a warning (damage also delays relearning).
    relearn_least: with fewer relearned samples the delay decides nothing: five samples drawn at random may all be easy, and are
        then known to a model that never saw them.
    control_steps: the control must need this many steps, or the delay cannot be told from its own graininess.
    no_op_weights, no_op_predictions: a relative weight distance, or a mean total variation of the predictions, below
        these means that nothing was done.
    collapse_share: the least share of the original's advantage over chance that must be left on the remaining set.
    utility_drop: accuracy, in points, that the remaining or test data may lose before the report warns.
    """

    confidence: float = 0.9
    membership_margin: float = 0.1
    membership_margin_least: float = 0.05
    membership_margin_widths: float = 2.4
    relearn_ratio: float = 1 / 3
    relearn_excess: float = 2.0
    relearn_least: int = 30
    control_steps: int = 8
    no_op_weights: float = 1e-5
    no_op_predictions: float = 1e-3
    collapse_share: float = 0.5
    utility_drop: float = 2.0

    def __post_init__(self) -> None:
        _require(0.5 < self.confidence < 1, "confidence", "between 0.5 and 1", self.confidence)
        _require(0 < self.membership_margin < 0.5, "membership_margin", "between 0 and 0.5", self.membership_margin)
        _require(
            0 < self.membership_margin_least <= self.membership_margin,
            "membership_margin_least",
            "above 0 and at most membership_margin",
            self.membership_margin_least,
        )
        _require(
            self.membership_margin_widths > 1, "membership_margin_widths", "above 1", self.membership_margin_widths
        )
        _require(0 < self.relearn_ratio < 1, "relearn_ratio", "between 0 and 1", self.relearn_ratio)
        _require(self.relearn_excess > 1, "relearn_excess", "above 1", self.relearn_excess)
        _require(self.relearn_least >= 1, "relearn_least", "at least 1", self.relearn_least)
        _require(self.control_steps >= 1, "control_steps", "at least 1", self.control_steps)
        _require(self.no_op_weights >= 0, "no_op_weights", "at least 0", self.no_op_weights)
        _require(self.no_op_predictions >= 0, "no_op_predictions", "at least 0", self.no_op_predictions)
        _require(0 <= self.collapse_share <= 1, "collapse_share", "between 0 and 1", self.collapse_share)
        _require(self.utility_drop >= 0, "utility_drop", "at least 0 points", self.utility_drop)


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditSpec:
    """What to run, and how much of it.

    confidence: of the intervals that are printed. replicates: bootstrap replicates.
    batch_size: most samples a forward pass; a processor gets fewer (`unlearning.inference`).
    membership_samples: most samples of a set that the threshold attacks look at (drawn at random where there are more).
    vector_seeds: repetitions of the corrected support-vector attack. vector_samples: most members it is trained on.
    relearners: optimisers that relearn; the first fills the report's curves and must pass, the others must not fail.
    relearn_batch: samples a relearning step. relearn_samples: most samples relearnt.
    relearn_steps: the learning rate is calibrated so that the original learns a control set in about this many steps.
    relearn_delta: δ as a share of the original's loss gap between held-out and forget set; relearnt means a loss of at
        most L_f(θ_o) + δ.
    relearn_limit: T_max, as a multiple of the calibrated control's steps.
    relearn_orders: repetitions on the forget set, each in its own order. relearn_controls: control sets drawn from D_v for the
        first relearner. relearn_controls_more: for the others, which can fail a model but need not settle the matter.
    """

    thresholds: Thresholds = field(default_factory=Thresholds)
    confidence: float = 0.95
    replicates: int = 1000
    batch_size: int = 1024
    membership_samples: int = 5000
    vector_seeds: int = 3
    vector_samples: int = 2000
    relearners: tuple[str, ...] = ("sgd", "adam")
    relearn_batch: int = 32
    relearn_samples: int = 256
    relearn_steps: int = 20
    relearn_delta: float = 0.1
    relearn_limit: float = 3.0
    relearn_orders: int = 1
    relearn_controls: int = 6
    relearn_controls_more: int = 3

    def __post_init__(self) -> None:
        _require(0.5 < self.confidence < 1, "confidence", "between 0.5 and 1", self.confidence)
        _require(self.replicates >= 100, "replicates", "at least 100", self.replicates)
        for name in ("batch_size", "membership_samples", "vector_seeds", "vector_samples", "relearn_batch"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _require(
            len(self.relearners) > 0 and set(self.relearners) <= {"sgd", "adam"},
            "relearners",
            "one or both of 'sgd' and 'adam'",
            self.relearners,
        )
        _require(self.relearn_samples >= 2, "relearn_samples", "at least 2", self.relearn_samples)
        _require(self.relearn_steps >= 4, "relearn_steps", "at least 4", self.relearn_steps)
        _require(0 < self.relearn_delta < 1, "relearn_delta", "between 0 and 1", self.relearn_delta)
        _require(self.relearn_limit > 1, "relearn_limit", "above 1", self.relearn_limit)
        _require(self.relearn_orders >= 1, "relearn_orders", "at least 1", self.relearn_orders)
        for name in ("relearn_controls", "relearn_controls_more"):
            _require(getattr(self, name) >= 3, name, "at least 3", getattr(self, name))

    def controls(self, kind: str) -> int:
        """How many control sets the relearner has."""
        return self.relearn_controls if kind == self.relearners[0] else self.relearn_controls_more

    def to_json(self) -> dict[str, object]:
        """The report's `thresholds`: the verdict's numbers flat on top, the settings of the run beside them."""
        settings = {k: v for k, v in dataclasses.asdict(self).items() if k != "thresholds"}
        settings["relearners"] = list(self.relearners)
        return {**dataclasses.asdict(self.thresholds), "settings": settings}


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceSpec:
    """shadows: models trained and unlearned for LiRA, U-LiRA and RMIA, an even number; at least 64 for each sample's own spread.

    repeats: originals unlearned and models retrained for KLoM and the forgetting score, an even number; 0 leaves both out.
    gamma, offline_a: RMIA's γ and a. audit: replicates and confidence of the intervals.
    """

    shadows: int = 64
    repeats: int = 16
    gamma: float = 2.0
    offline_a: float = 0.3
    audit: AuditSpec = field(default_factory=AuditSpec)

    def __post_init__(self) -> None:
        require(self.shadows >= 4 and self.shadows % 2 == 0, "shadows", "even and at least 4", self.shadows)
        require(
            self.repeats == 0 or (self.repeats >= 4 and self.repeats % 2 == 0),
            "repeats",
            "0, or even and at least 4",
            self.repeats,
        )
        require(self.gamma >= 1, "gamma", "at least 1", self.gamma)
        require(0 <= self.offline_a <= 1, "offline_a", "between 0 and 1", self.offline_a)
