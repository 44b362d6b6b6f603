"""The findings of an audit, as frozen values; why an exact result may not pass it; and its limits: what it does not show."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from unlearning.audit.comparison import Change, ClassAccuracy, Comparison
from unlearning.audit.extraction import Extraction
from unlearning.audit.generation import Generated, Sheet
from unlearning.audit.measures import Measures
from unlearning.audit.membership import Attack, Pairing, RocCurve, auc_half_width, membership_power
from unlearning.audit.nearness import Nearness
from unlearning.audit.reference_test import LEAST_PAIRS, LEAST_PEOPLE, ReferenceTest
from unlearning.audit.relearning import Relearning
from unlearning.audit.verdict import LEAST_POWER, Verdict
from unlearning.data.near_copies import Copies, find_copies
from unlearning.data.objectives import Merit
from unlearning.data.samples import SampleSet
from unlearning.specs.audit import AuditSpec, Thresholds

_UNUSUAL = 0.1
"""A complement that exceeds that on test data by more than this, in hundreds of points, is unusual [ours]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Roc:
    """The ROC curves of one attack, before and after."""

    attack: str
    original: RocCurve
    unlearned: RocCurve


@dataclass(frozen=True, kw_only=True, slots=True)
class Histograms:
    """Loss densities by set ("forget", "held_out", "remain"), before and after. bins: k + 1 edges, nats, for k densities."""

    bins: tuple[float, ...]
    original: Mapping[str, tuple[float, ...]]
    unlearned: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Membership:
    """What the membership attacks found.

    original, unlearned: the attacks by name on each model. The one named "spread" is on the distance from the held-out median:
    it detects forgetting that made some samples too good and others too bad. "features" is on the layer before the output, where
    there is one. "reference" is on texts, where a model or predictions are known that never saw them. roc, losses: for plotting.
    matched: whether the held-out samples were weighted to the forget set's class mix. unmatched: forgotten samples left out
    because no held-out sample has their class. compared: forgotten samples that were compared. margin: how far from 0.5 the
    attacks may lie.
    """

    original: Mapping[str, Attack]
    unlearned: Mapping[str, Attack]
    roc: Roc
    losses: Histograms
    matched: bool
    unmatched: int
    compared: int
    margin: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Utility:
    """What the model can still do. agreement: the share of D_v on which both models decide alike; None if they decide nothing.

    per_class: accuracy on D_t; empty without classes. jensen_shannon: mean divergence of the predictions on D_v, nats. drop: points
    of merit lost beyond what less data and chance explain (`unlearning.audit.comparison.utility_drop`).
    """

    per_class: tuple[ClassAccuracy, ...]
    agreement: float | None
    jensen_shannon: float
    drop: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Everything that an audit measured, and its verdict.

    merit: what utility means here. samples: how many each set has. measures: by model ("original", "unlearned", and "reference" if
    there is one). reference_tests: by model, or empty without reference predictions. power_by_size: of the reference test, by the
    number of samples; empty without reference predictions. nearness: of the new model to models that never saw the samples; None
    without reference predictions, and where near-copies of all samples remain.
    relearnings: by relearner; the first is the report's. comparison: with the reference, if there is one. limits: what the
    audit does not show. extraction: by model, what it gives away; empty for a model that writes no text. generation: by
    model, figures of what an image generator generates; empty for other models. privacy_leakage: PrivLeak by Min-K%, by model,
    percent; empty for a model that writes no text, and without a retrained one. sheet: samples of what is generated for the
    operator alone, never part of the report. seconds: by phase.
    """

    spec: AuditSpec
    merit: Merit
    samples: Mapping[str, int]
    measures: Mapping[str, Measures]
    membership: Membership
    reference_tests: Mapping[str, ReferenceTest]
    power_by_size: Mapping[int, float]
    relearnings: tuple[Relearning, ...]
    utility: Utility
    change: Change
    comparison: Comparison | None
    verdict: Verdict
    limits: tuple[str, ...]
    extraction: Mapping[str, Extraction] = field(default_factory=dict)
    generation: Mapping[str, Generated] = field(default_factory=dict)
    privacy_leakage: Mapping[str, float] = field(default_factory=dict)
    nearness: Nearness | None = None
    sheet: Sheet | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


def likely_causes(
    findings: Findings, *, forget: SampleSet, remain: SampleSet, held_out: SampleSet, copies: Copies | None = None
) -> tuple[str, ...]:
    """Name likely causes why a model that never saw the forget set fails to be verified, as sentences with counts.

    findings: the audit of that model. copies: the forgotten samples' near-copies among the remaining ones; None to search for them,
    which reads the whole remaining set, as it does if none were compared. Empty for a verified verdict.

    The audit asks whether the forgotten samples look like held-out data. For samples that are not typical the answer may be no even
    for a model that never saw them. Then retraining is still exact, and the reader of the report should know what to check.
    """
    if findings.verdict.value == "verified":
        return ()
    found = copies if copies and copies.compared else find_copies(forget, remain, held_out=held_out)
    causes = []
    if count := int(found.found.sum()):
        causes.append(
            f"{count:,} of {found.compared:,} compared forgotten samples have a near-copy among the remaining samples, so any "
            "model trained on these knows them. If the copies belong to the same people, erase them too."
        )
    merit, measures = findings.merit, findings.measures["unlearned"]
    wrong, usual = measures.ua, merit.bounds[1] - measures.ta.value
    if wrong.low > usual + 100 * _UNUSUAL:
        causes.append(
            f"For a model that never saw the forgotten samples the {merit.complement} on them is {wrong.value:.0f} {merit.unit}, "
            f"and {usual:.0f} {merit.unit} on test data: their targets are odd or wrong, or the samples are unlike the rest."
        )
    if findings.verdict.reason == "too_few_samples":
        causes.append("There are too few forgotten samples for any method to be verified on.")
    if not causes:
        causes.append(
            "Neither near-copies among the remaining samples nor odd targets were found. Held-out data of another kind than the "
            "training data have the same effect, and so has chance: a few audits in a hundred."
        )
    return tuple(causes)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scope:
    """What an audit's limits depend on.

    retrained: whether it compared with a retrained model. reference_test: on the new model; None without it. erased_since: how many
    samples were erased earlier on which the reference models were trained. aimed, compared: whether the method aimed at what these
    predict, and whether the audit read it. frozen: the share of the model's parameters that training leaves as they are. distinct:
    how many of the forgotten samples differ from one another (default: all).
    """

    forget: SampleSet
    pairing: Pairing
    thresholds: Thresholds
    retrained: bool = False
    reference_test: ReferenceTest | None = None
    erased_since: int = 0
    aimed: bool = False
    compared: bool = False
    frozen: float = 0.0
    distinct: int | None = None


def limits(scope: Scope) -> tuple[str, ...]:
    """List the general limits of every audit, then those of this model and forget set."""
    left_out = "reference models (LiRA, U-LiRA, RMIA)"
    if scope.reference_test is not None:
        left_out = "shadow models that unlearn by the same method (U-LiRA)"
    found = [
        "It does not show that no trace is left. It shows whether the influence was below the stated thresholds under the stated "
        "attacks.",
        f"Attacks with {left_out} were not run. They judge each sample by itself and can recognise samples that these attacks "
        "miss.",
        "The figures describe the forgotten samples as a set. The samples of one person among them may still be "
        "recognisable.",
        "It covers this model version only, and no copies, backups, earlier versions, logs, or models trained on its outputs.",
        "The held-out set stands for data never seen. It must come from the same source as the training data.",
    ]
    if scope.retrained:
        found.append(
            "The operator states that the retrained model never saw the forgotten samples. The audit cannot check this."
        )
    return (*found, *_limits_of_training(scope), *_limits_of_people(scope), *_limits_of_sizes(scope))


def _limits_of_training(scope: Scope) -> Iterator[str]:
    """Say what else the model, or the reference models, may have learned from."""
    results = [name for name, follows in (("the result", scope.aimed), ("the audit", scope.compared)) if follows]
    if scope.erased_since and results:
        yield (
            f"Reference models were trained on samples that were erased from this model later: {scope.erased_since:,}. What they "
            f"predict may follow these samples, and so may {' and '.join(results)}. The operator can prepare the references anew "
            "(`expunge references`); then models that never saw the erased samples take their place."
        )
    if scope.frozen:
        yield (
            f"Training leaves {max(1, round(100 * scope.frozen))} % of the model's parameters as they are, and so did the method. "
            "If they ever learned from the forgotten samples, they still know them, and the audit may not find it."
        )


def _limits_of_people(scope: Scope) -> Iterator[str]:
    """Say which tests take the samples of one person for independent."""
    people = sum(count > 1 for count in Counter(scope.forget.subjects or ()).values())
    if not people:
        return
    several = f"{people:,} people have" if people > 1 else "One person has"
    pairs = 0 if scope.reference_test is None else scope.reference_test.pairs
    who, why = "The tests take these", ""
    if pairs:
        roughly = (
            f", but knows it only roughly, from {pairs:,} pairs of held-out samples" if pairs < LEAST_PAIRS else ""
        )
        who = f"The reference test reckons with how much alike these are{roughly}. Relearning and the attacks take them"
    elif scope.reference_test is not None:
        why = f", because fewer than {LEAST_PEOPLE} people have several held-out samples"
    yield (
        f"{several} several forgotten samples. {who} for independent of one another{why}. If what is particular to a person moves "
        "all of that person's samples together, intervals are too narrow, and a model that never saw the samples fails more often "
        "than stated."
    )


def _limits_of_sizes(scope: Scope) -> Iterator[str]:
    """Say what so many samples can show."""
    if scope.distinct is not None and scope.distinct < len(scope.forget):
        yield (
            f"Of the {len(scope.forget):,} forgotten samples {scope.distinct:,} differ; relearning takes these alone. The other "
            "tests take equal samples for independent of one another, so their intervals are too narrow."
        )
    pairing, thresholds, forgotten = scope.pairing, scope.thresholds, f"With {len(scope.forget):,} forgotten samples"
    width = auc_half_width(len(pairing.forget), pairing.effective, confidence=thresholds.confidence)
    if width > thresholds.membership_margin:
        yield (
            f"{forgotten}, an AUC is known to within ± {width:.2f} at best. An effect within ± {thresholds.membership_margin:g} "
            "can be neither shown nor excluded, whatever the method, retraining included."
        )
    elif (power := membership_power(pairing, thresholds)) < LEAST_POWER:
        yield (
            f"{forgotten}, membership attacks decide on a model that never saw them in at most {100 * power:.0f} % of audits, "
            "whatever the method, retraining included."
        )
    if pairing.effective < 1000:
        yield (
            f"There are {pairing.effective:.0f} comparable held-out samples. Rates at 1 % and 0.1 % false positives need 1,000 and "
            "10,000."
        )
    if pairing.matched:
        yield "Held-out samples were weighted to the class mix of the forget set."
    if pairing.unmatched:
        yield (
            f"{pairing.unmatched:,} forgotten samples were left out of the membership attacks, because no held-out sample has "
            "their class."
        )
