"""The settings of the calibrated stop."""

from dataclasses import dataclass

from unlearning.specs.rules import require


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """When an iterative method has done enough, judged on held-out data because no retrained model exists (docs/methods.md §4).

    check_every: steps between two checks (IEU's own default: 8).
    tolerance: the forget set counts as matched when the root mean square of the standardised differences between its
        statistics and the held-out set's is at most this many standard errors.
    allowed_drop: accuracy, in points, that the remaining and the held-out data may lose, of the latter beyond what a model that
        learnt from so much less would lack; a state that lost more is not kept while there is another.
    relearn_share: the least share of the control's relearning steps that the forget set must need before the run may end
        early; 0 turns the probe off.
    """

    check_every: int = 4
    tolerance: float = 1.0
    allowed_drop: float = 1.5
    relearn_share: float = 0.4

    def __post_init__(self) -> None:
        require(self.check_every >= 1, "check_every", "at least 1", self.check_every)
        require(self.tolerance > 0, "tolerance", "above 0", self.tolerance)
        require(self.allowed_drop >= 0, "allowed_drop", "at least 0 points", self.allowed_drop)
        require(0 <= self.relearn_share <= 1, "relearn_share", "between 0 and 1", self.relearn_share)
