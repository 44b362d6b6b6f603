"""How much of tier 2 to run (torch-free)."""

from dataclasses import dataclass, field

from unlearning.audit.spec import AuditSpec
from unlearning.specs.rules import require


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
