"""How reference predictions are prepared (docs/methods.md §8). All defaults are [ours], chosen on validation seeds."""

from dataclasses import dataclass

from unlearning.specs.rules import require


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferencePlan:
    """How many reference models are trained, and on what.

    folds: K parts of the training and held-out data; each model of a round is trained without one of them. Samples of one subject
        are in one fold, and so are near-copies where `near_copies` asks for it.
    rounds: independent draws of the folds whose predictions the methods aim at.
    audit_rounds: further draws for the audit, which never sees the ones that a method aimed at.
    epochs: of each training, as a share of the recipe's epochs. Preparing costs (rounds + audit_rounds)·(folds − 1)·epochs plain
        trainings.
    near_copies: samples whose inputs have at least this cosine similarity count as one subject; None compares nothing.
    """

    folds: int = 2
    rounds: int = 2
    audit_rounds: int = 2
    epochs: float = 0.5
    near_copies: float | None = None

    def __post_init__(self) -> None:
        require(2 <= self.folds <= 100, "folds", "between 2 and 100", self.folds)
        require(1 <= self.rounds <= 100, "rounds", "between 1 and 100", self.rounds)
        require(1 <= self.audit_rounds <= 100, "audit_rounds", "between 1 and 100", self.audit_rounds)
        require(0 < self.epochs <= 1, "epochs", "above 0 and at most 1", self.epochs)
        require(
            self.near_copies is None or 0 < self.near_copies <= 1,
            "near_copies",
            "above 0 and at most 1, or None",
            self.near_copies,
        )

    @property
    def trainings(self) -> int:
        """How many models are trained."""
        return (self.rounds + self.audit_rounds) * self.folds
