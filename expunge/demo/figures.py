"""The demo's figures: what was measured of each model, and what follows from it."""

from dataclasses import dataclass

ORIGINAL = "original"
"""The name of the model that is measured as the one from which the relearner is fixed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """One model on one request's forget set. ua, ra, ta, mi: percent. membership_auc: 0 to 1, of the loss.

    delay: relearning steps; None where there was nothing to relearn. censored: the steps ran out before.
    """

    ua: float
    ra: float
    ta: float
    mi: float
    membership_auc: float
    delay: int | None
    censored: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model of the table. seconds: of its training, or of its unlearning."""

    label: str
    figures: Figures
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One request's part of the table. again: a second retrained model, which differs from `retrained` by its seed only."""

    title: str
    original: Row
    unlearned: Row
    retrained: Row
    again: Row | None = None

    @property
    def rows(self) -> list[Row]:
        """The models, in the order they are shown in."""
        return [self.original, self.unlearned, self.retrained, *([self.again] if self.again else [])]


def average_gap(one: Row, other: Row) -> float:
    """The mean absolute difference of UA, RA, TA and MI in points, as the papers print it."""
    a, b = one.figures, other.figures
    return (abs(a.ua - b.ua) + abs(a.ra - b.ra) + abs(a.ta - b.ta) + abs(a.mi - b.mi)) / 4
