"""The measured part of a report, and the kinds of value that all parts are made of."""

from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, PlainSerializer, model_validator

from report.attacks import AttackName

Count = Annotated[int, Field(ge=0)]
Number = FiniteFloat
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Text = Annotated[str, Field(min_length=1, max_length=10_000)]
Moment = Annotated[AwareDatetime, PlainSerializer(datetime.isoformat, return_type=str, when_used="json")]


class VerdictValue(StrEnum):
    """What an audit concludes."""

    VERIFIED = "verified"
    """Every deciding check passed."""
    INCONCLUSIVE = "inconclusive"
    """No deciding check failed, but not all of them passed."""
    FAILED = "failed"
    """A deciding check failed."""


class Section(BaseModel):
    """A part of a report: frozen, strict about types and names, its fields described by their docstrings."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class Estimate(Section):
    """A measured value with its interval, of the confidence in `thresholds.settings`; 95 % in reports without it."""

    value: Number
    low: Number
    high: Number


class Merit(Section):
    """What utility means for this model: the measures of the remaining and the test set are in it. Higher is better."""

    name: Name
    """Such as "accuracy", "F1 score" or "explained variance"."""
    complement: Name
    """What is missing to the best value, such as "error"."""
    unit: Name
    best: Number
    """The best value; the complement is this less the merit."""


ACCURACY = Merit(name="accuracy", complement="error", unit="%", best=100.0)
"""The merit of reports that name none."""


class Samples(Section):
    """How many samples each set has."""

    forget: Count
    remain: Count
    held_out: Count
    test: Count


class Measures(Section):
    """The papers' four measures of one model: UA, RA and TA in the unit of the audit's merit (accuracy: percent), MI in percent."""

    ua: Estimate
    """Error on the forget set, or another merit's complement."""
    ra: Estimate
    """Accuracy on the remaining set, or another merit."""
    ta: Estimate
    """Accuracy on the test set, or another merit."""
    mi_salun: Estimate
    """Share of the forget set that the papers' attack calls non-member."""
    mi_corrected: Estimate
    """The same with stratified members, standardised, over several seeds."""


class MeasuresByModel(Section):
    """The measures before and after, and of a retrained model if there is one."""

    original: Measures
    unlearned: Measures
    reference: Measures | None


class AttackScores(Section):
    """How well one attack tells the forget set from held-out data. An AUC or balanced accuracy of 0.5 is chance."""

    auc: Estimate
    balanced_accuracy: Estimate
    tpr_at_1_fpr: Estimate | None
    """True positive rate at 1 % false positives; null below 1,000 non-members."""
    tpr_at_01_fpr: Estimate | None
    """True positive rate at 0.1 % false positives; null below 10,000 non-members."""


class Attack(Section):
    """One membership attack on the model before and after."""

    name: Annotated[AttackName | Name, Field(union_mode="left_to_right")]
    original: AttackScores
    unlearned: AttackScores


class RocCurve(Section):
    """The rates of one attack at each threshold; both lists have the same length."""

    fpr: Annotated[tuple[Ratio, ...], Field(min_length=2)]
    tpr: Annotated[tuple[Ratio, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        _require_one_length("fpr and tpr", len(self.fpr), len(self.tpr))
        return self


class Roc(Section):
    """The ROC curves of one attack."""

    attack: Name
    original: RocCurve
    unlearned: RocCurve


class LossDensities(Section):
    """A histogram for each set, as densities over the shared bins."""

    forget: tuple[NonNegative, ...]
    held_out: tuple[NonNegative, ...]
    remain: tuple[NonNegative, ...]


class Losses(Section):
    """How the loss is spread over forgotten, held-out and remaining samples: k + 1 bin edges for k densities."""

    bins: Annotated[tuple[Number, ...], Field(min_length=2)]
    original: LossDensities
    unlearned: LossDensities

    @model_validator(mode="after")
    def _fits_the_bins(self) -> Self:
        models = (self.original, self.unlearned)
        lengths = [len(densities) for one in models for densities in (one.forget, one.held_out, one.remain)]
        _require_one_length("bins less one and each density", len(self.bins) - 1, *lengths)
        if any(right <= left for left, right in pairwise(self.bins)):
            raise ValueError("bins must rise")
        return self


class Membership(Section):
    """Membership inference on the forget set against held-out data."""

    attacks: Annotated[tuple[Attack, ...], Field(min_length=1)]
    roc: Roc
    losses: Losses


class Curve(Section):
    """Loss against steps of fine-tuning; both lists have the same length."""

    steps: Annotated[tuple[NonNegative, ...], Field(min_length=1)]
    loss: Annotated[tuple[Number, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        _require_one_length("steps and loss", len(self.steps), len(self.loss))
        return self


class Curves(Section):
    """Relearning curves. The control is held-out data of the same size, on which no model was trained."""

    original: Curve
    unlearned: Curve
    control: Curve
    reference: Curve | None


class Delay(Section):
    """Steps until the loss was back at the original's. Censored: it was not back at the last step."""

    steps: NonNegative
    censored: bool
    travelled: NonNegative | None = None
    """Distance in weight space from the start of relearning to the step at which the loss was back."""


class Delays(Section):
    """The relearn delay of each curve."""

    original: Delay
    unlearned: Delay
    control: Delay
    reference: Delay | None


class Relearn(Section):
    """How fast the forget set is learned again."""

    relearner: Name
    learning_rate: NonNegative
    max_steps: Count
    delta: Number
    """How close to the original's loss counts as back, in nats."""
    curves: Curves
    delay: Delays
    ratio_to_control: NonNegative | None
    """Delay of the unlearned model over the control's; null if it could not be measured."""
    normalised: Number | None
    """(T - T(original)) / (T(reference) - T(original)); null without a reference."""


class ClassUtility(Section):
    """Test accuracy of one class, in percent."""

    label: Annotated[Name, Field(alias="class")]
    original: Number
    unlearned: Number


class Utility(Section):
    """What the model can still do, compared with the original."""

    per_class: tuple[ClassUtility, ...]
    """Empty for a model without classes."""
    agreement: Ratio | None
    """Share of held-out samples, or of their labels, for which both models predict the same; null for predicted numbers."""
    jensen_shannon: NonNegative
    """Mean Jensen-Shannon divergence of their predictions on held-out samples, in nats."""


class Change(Section):
    """Whether the model was changed at all, and whether it was damaged."""

    weight_distance_relative: NonNegative
    """Norm of the difference of the weights over the norm of the original weights."""
    prediction_change: Ratio
    """Mean total variation distance of the predictions."""
    no_op: bool
    """Weights or predictions hardly moved."""
    collapsed: bool
    """A number is not finite, or too little is left of the merit over guessing."""
    largest_class: Ratio | None = None
    """Share of held-out samples that the new model gives to its most frequent class; null for a model that predicts numbers."""
    finite: bool | None = None
    """Whether every weight is a finite number."""


class ReferenceTest(Section):
    """The reference test on one model: how it answers the forgotten samples, beside models that did and did not see them."""

    known: Number
    """Mean distance of the samples' signals from their references, in `unit`. Above 0: still known."""
    low: Number
    high: Number
    """The range of `known` of models that never saw the samples."""
    if_seen: Number
    """The value that 95 % of models which know all of the samples exceed."""
    spread: NonNegative
    """Spread of those distances, in times that of data never seen."""
    max_spread: NonNegative
    """The largest spread that passes."""
    power: Ratio
    """The probability that a model which never saw the samples passes."""
    passed: bool | None
    """Null if the test cannot decide."""


class Nearness(Section):
    """How much nearer the new model's answers are to those of models that never saw the forgotten samples than to the original's.

    A mean over the samples of the distance from the one less that from the other; below 0 they are nearer to the original's.
    """

    value: Number
    unseen: Number
    """The mean of models that never saw the samples."""
    low: Number
    """The value that 95 % of those models exceed."""
    original: Number
    """The value of the original."""
    p_value: Ratio
    """The probability of so large a value if each sample were as near to the one as to the other, by a sign-flip test."""
    to_original: bool
    """Whether the value is below 0 and at most one in twenty models that never saw the samples is as low: not verified then."""


class ReferenceTests(Section):
    """The reference test before and after, and of a retrained model if there is one."""

    unit: Name = "nats"
    """Of the tests' distances; nats in a report that names none."""
    original: ReferenceTest
    unlearned: ReferenceTest
    reference: ReferenceTest | None
    power_by_size: dict[str, Ratio]
    """The probability that a model which never saw so many typical samples passes, by their number."""
    samples_needed: Count | None
    """The least of those numbers at which it is at least the threshold `reference_power`; null if none is."""
    nearness: Nearness | None = None
    """In `unit`; missing from a report of an older version, and where near-copies of all samples remain."""


class ExtractedShares(Section):
    """How much of a sample one model gives away, as a mean share of 0 to 1."""

    forget: Estimate
    held_out: Estimate
    """Of data that no model saw: what can be guessed."""
    remain: Estimate | None = None
    """Of "knowledge" alone; left out of other measures."""


class Extraction(Section):
    """One measure of what can be extracted from a model that generates, such as a language model. No text is part of a report."""

    name: Name
    """Such as "exact_memorisation", "extraction_strength", "greedy_extraction", "sampled_extraction" or "knowledge"."""
    original: ExtractedShares
    unlearned: ExtractedShares
    reference: ExtractedShares | None


class PrivacyLeakage(Section):
    """PrivLeak (Shi et al., 2025): the complement of an attack's AUC beside a retrained model's, as a relative change in percent.

    0: as the retrained model. -100: the attack knows every forgotten sample. Above 0: they are less known than data never seen.
    """

    attack: Name
    original: Number
    unlearned: Number


class GenerationMeasure(Section):
    """One measure of what an image generator generates. No picture is part of a report."""

    name: Name
    """A share of 0 to 1 ("forgotten_class", "other_classes", "regeneration", "regeneration_unseen"), or "frechet_distance"."""
    original: Estimate
    unlearned: Estimate
    reference: Estimate | None


class Audit(Section):
    """Everything that was measured."""

    samples: Samples
    merit: Merit = ACCURACY
    """What the measures are in; a report that names none is in accuracy."""
    measures: MeasuresByModel
    membership: Membership
    relearn: Relearn
    utility: Utility
    change: Change
    reference_test: ReferenceTests | None = None
    """Null without reference predictions."""
    extraction: tuple[Extraction, ...] = ()
    """Left out for a model that writes no text."""
    privacy_leakage: PrivacyLeakage | None = None
    """Left out for a model that writes no text, and without a retrained model."""
    generation: tuple[GenerationMeasure, ...] = ()
    """Left out for a model that is no image generator."""


def _require_one_length(what: str, *lengths: int) -> None:
    if len(set(lengths)) > 1:
        raise ValueError(f"{what} must have the same length, not {', '.join(map(str, lengths))}")
