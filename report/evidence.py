"""The kinds of value that a report is made of, as its JSON Schema and its reader know them."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field, FiniteFloat
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

Count = Annotated[int, Field(ge=0)]
Number = FiniteFloat
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Text = Annotated[str, Field(min_length=1, max_length=10_000)]
Moment = AwareDatetime
VerdictValue = Literal["verified", "inconclusive", "failed"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Estimate:
    """A measured value with its 95 % interval."""

    value: Number
    low: Number
    high: Number


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Samples:
    """How many samples each measure rests on."""

    forget: Count
    remain: Count
    held_out: Count
    test: Count


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Measures:
    """The paper's four measures of one model, in percent 0 to 100."""

    ua: Estimate
    """Error on the forget set."""
    ra: Estimate
    """Accuracy on the remaining set."""
    ta: Estimate
    """Accuracy on the test set."""
    mi_salun: Estimate
    """Share of the forget set that the paper's attack calls non-member."""
    mi_corrected: Estimate
    """The same with stratified members, standardised, over several seeds."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MeasuresByModel:
    """The measures before and after, and of a retrained model where there is one."""

    original: Measures
    unlearned: Measures
    reference: Measures | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AttackScores:
    """How well one attack tells the forget set from held-out data; 0.5 of AUC and balanced accuracy is a coin toss."""

    auc: Estimate
    balanced_accuracy: Estimate
    tpr_at_1_fpr: Estimate | None
    """True positive rate at 1 % false positives; null below 1,000 non-members."""
    tpr_at_01_fpr: Estimate | None
    """True positive rate at 0.1 % false positives; null below 10,000 non-members."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Attack:
    """One membership attack on the model before and after."""

    name: Literal["loss", "confidence", "entropy", "modified_entropy", "margin"]
    original: AttackScores
    unlearned: AttackScores


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RocCurve:
    """Rates of one attack as its threshold moves; both lists are as long as each other."""

    fpr: Annotated[list[Ratio], Field(min_length=2)]
    tpr: Annotated[list[Ratio], Field(min_length=2)]

    def __post_init__(self) -> None:
        _as_long("fpr and tpr", len(self.fpr), len(self.tpr))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Roc:
    """The ROC curves of one attack."""

    attack: Name
    original: RocCurve
    unlearned: RocCurve


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossDensities:
    """A histogram each, as densities over the shared bins."""

    forget: list[NonNegative]
    held_out: list[NonNegative]
    remain: list[NonNegative]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Losses:
    """How the loss is spread over forgotten, held-out and remaining samples; k + 1 edges for k densities."""

    bins: Annotated[list[Number], Field(min_length=2)]
    original: LossDensities
    unlearned: LossDensities

    def __post_init__(self) -> None:
        sides = (self.original, self.unlearned)
        densities = [side for one in sides for side in (one.forget, one.held_out, one.remain)]
        _as_long("bins less one and each density", len(self.bins) - 1, *map(len, densities))
        if any(right <= left for left, right in pairwise(self.bins)):
            raise ValueError("bins must rise")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Membership:
    """Membership inference on the forget set against held-out data."""

    attacks: Annotated[list[Attack], Field(min_length=1)]
    roc: Roc
    losses: Losses


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Curve:
    """Loss against steps of fine-tuning; both lists are as long as each other."""

    steps: Annotated[list[NonNegative], Field(min_length=1)]
    loss: Annotated[list[Number], Field(min_length=1)]

    def __post_init__(self) -> None:
        _as_long("steps and loss", len(self.steps), len(self.loss))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Curves:
    """Relearning curves; the control is held-out data of the same size that no model was trained on."""

    original: Curve
    unlearned: Curve
    control: Curve
    reference: Curve | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Delay:
    """Steps until the loss was back at the original's; censored: it was not back when the probe ended."""

    steps: NonNegative
    censored: bool
    travelled: NonNegative | None = None
    """Distance in weight space from where relearning began to where it was back."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Delays:
    """The relearn delay of each curve."""

    original: Delay
    unlearned: Delay
    control: Delay
    reference: Delay | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Relearn:
    """How fast the forget set is learned again."""

    relearner: Name
    learning_rate: NonNegative
    max_steps: Count
    delta: Number
    """How close, in loss, counts as back."""
    curves: Curves
    delay: Delays
    ratio_to_control: NonNegative | None
    """Delay of the unlearned model over the control's; null where the control's is zero."""
    normalised: Number | None
    """(T - T(original)) / (T(reference) - T(original)); null without a reference."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClassUtility:
    """Test accuracy of one class in percent."""

    label: Annotated[Name, Field(alias="class")]
    original: Number
    unlearned: Number


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Utility:
    """What the model still can do, against the original."""

    per_class: list[ClassUtility]
    agreement: Ratio
    """Share of held-out samples on which both models predict the same."""
    jensen_shannon: NonNegative
    """Mean Jensen-Shannon divergence of their predictions on held-out samples, in nats."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Change:
    """Whether anything happened at all, and whether too much did."""

    weight_distance_relative: NonNegative
    prediction_change: Ratio
    no_op: bool
    collapsed: bool
    largest_class: Ratio | None = None
    """Share of held-out samples that the new model gives to its most frequent class."""
    finite: bool | None = None
    """Whether every weight is a finite number."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Audit:
    """Everything that was measured."""

    samples: Samples
    measures: MeasuresByModel
    membership: Membership
    relearn: Relearn
    utility: Utility
    change: Change


def _as_long(what: str, *lengths: int) -> None:
    if len(set(lengths)) > 1:
        raise ValueError(f"{what} must be as long as each other, not {', '.join(map(str, lengths))}")
