"""The tables of the report: key figures, attacks, times, the method, thresholds, and the digests of the weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from report.attacks import attack_name
from report.captions import KNOWLEDGE, strongest
from report.document import Origin, Report, StopReason
from report.evidence import AttackScores, Estimate, Measures, Nearness, VerdictValue
from report.formatting import (
    SHORT_UNIT,
    delay,
    duration,
    in_a_cell,
    interval,
    plural,
    ratio,
    sentence,
    share,
)
from verifier.method_names import short_method

E = TypeVar("E", bound=Estimate | None)

VERDICTS = {
    VerdictValue.VERIFIED: "Verified",
    VerdictValue.INCONCLUSIVE: "Inconclusive",
    VerdictValue.FAILED: "Failed",
}
STAGES = {
    "load": "Loading",
    "unlearn": "Unlearning",
    "audit_membership": "Audit: membership",
    "audit_relearn": "Audit: relearning",
}
STOPPED = {
    StopReason.MATCHED: "the forgotten samples looked like held-out ones",
    StopReason.BUDGET: "the budget of steps was spent",
    StopReason.UTILITY: "the {merit} was about to fall below what is allowed",
    StopReason.COMPLETED: "the method had run to its end",
}
ORIGINS = {Origin.REQUEST: "the request", Origin.POLICY: "the model's policy"}
METHODS = {
    "ltu": "LTU (Learning to Unlearn)",
    "ieu": "IEU (Influence Eliminating Unlearning)",
    "matching": "reference matching",
    "ct": "CT (convolution transpose)",
    "retrain": "retraining",
    "rewind": "retraining from an earlier slice",
    "drop_adapter": "dropping an adapter",
    "certified": "certified unlearning",
}
"""The long names of methods. One that is not here has its short one."""
SETUP = {
    "guides": "training the guide attacks",
    "neighbour_search": "finding similar samples",
}
THRESHOLDS = {
    "confidence": "Confidence of the intervals that decide",
    "membership_margin": "Widest margin around an AUC of 0.5",
    "membership_margin_least": "Narrowest margin around an AUC of 0.5",
    "membership_margin_used": "Margin for this many samples",
    "membership_margin_widths": "Margin, in half widths of a coin toss's interval",
    "relearn_ratio": "Least relearning time, in times of the control's",
    "relearn_excess": "Relearning time that is a sign of damage, in times of the control's",
    "relearn_least": "Fewest relearned samples judged by an interval",
    "control_steps": "Fewest steps of the control on which relearning decides",
    "no_op_weights": "Change of the weights below which nothing was done",
    "no_op_predictions": "Change of the predictions below which nothing was done",
    "reference_level": "Share of models that never saw the samples and may fail the reference test",
    "reference_margin": "Tolerance of the reference test, as a share of the way from unseen to seen",
    "reference_power": "Probability of a verdict at which a number of samples counts as enough",
    "reference_spread": "Spread of the forgotten samples that the reference test allows, in times of unseen data's",
    "collapse_share": "Share of the advantage over guessing that must be left",
    "utility_drop": "Loss of {merit} that raises a warning, points",
}
"""The labels of thresholds, with the merit's name to be filled in. One that is not here is shown by its name."""

AUDIT_SETTINGS = {
    "confidence": "Confidence of the intervals",
    "replicates": "Bootstrap replicates of an interval",
    "remain_samples": "Most remaining samples that the audit evaluates",
    "membership_samples": "Most samples of a set that the attacks use",
    "vector_seeds": "Repetitions of the support-vector attack",
    "vector_samples": "Most samples of a set that this attack and the probe of features use",
    "extraction_samples": "Most samples of a set from which extraction is measured",
    "generated_samples": "Samples generated of the forgotten samples' classes, and as many of the others",
    "relearners": "Optimisers that relearn; each can fail a model, and without a reference test the first must pass",
    "relearn_samples": "Most samples of a set that is relearned",
    "relearn_batch": "Samples in a step of relearning",
    "relearn_steps": "About how many steps the original model needs to learn a control set",
    "relearn_delta": "Loss above the original's that counts as relearned, as a share of the gap to held-out data",
    "relearn_limit": "Longest relearning, in times of the control's",
    "relearn_orders": "Repetitions of relearning, each in another order",
    "relearn_parts": "Most parts of the forget set that the first optimiser learns, each by itself",
    "relearn_parts_more": "The same of each other optimiser",
    "relearn_controls": "Control sets of the first optimiser",
    "relearn_controls_more": "Control sets of each other optimiser",
    "batch_size": "Most samples in a forward pass",
}
"""The labels of an audit's settings. One that is not here is shown by its name."""

ACRONYMS = {"auc", "tpr", "fpr", "ua", "ra", "ta", "mi"}


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFigure:
    """A row of the key figures, as text. aim: the value that the one after is compared with. An interval may be empty."""

    name: str
    note: str
    before: str
    before_range: str
    after: str
    after_range: str
    aim: str
    aim_note: str


def verdict(report: Report) -> str:
    """Name the result: its verdict, and of an exact result that the audit did not verify both."""
    named = VERDICTS[report.verdict.value]
    if report.exactness is None or report.verdict.value == VerdictValue.VERIFIED:
        return named
    return f"Exact by construction, audit {named.lower()}"


def key_figures(report: Report) -> list[KeyFigure]:
    """List membership, the reference test if there was one, relearning, answers to questions if some were asked, and the merit."""
    merit = report.audit.merit
    short_on_test = in_a_cell(merit.unit)(merit.best - report.audit.measures.unlearned.ta.value)
    name = sentence(merit.name)
    return [
        _membership(report),
        *_reference_test(report),
        _relearning(report),
        *_knowledge(report),
        _measure(
            report,
            lambda measures: measures.ua,
            name=f"{sentence(merit.complement)} on the forgotten samples",
            note="should be like data never seen",
            aim=short_on_test,
            aim_note=f"{merit.complement} on test data",
        ),
        _measure(report, lambda measures: measures.ra, name=f"{name} on the remaining samples", note="should be kept"),
        _measure(report, lambda measures: measures.ta, name=f"{name} on test data", note="should be kept"),
    ]


def _membership(report: Report) -> KeyFigure:
    (before_name, before), (after_name, after) = strongest(report)
    attacks = plural(len(report.audit.membership.attacks), "attack")
    names = before_name if before_name == after_name else f"{before_name} before, {after_name} after"
    return KeyFigure(
        name="Membership attack, AUC",
        note=f"the strongest of {attacks}: {names}",
        before=ratio(before.auc.value),
        before_range=interval(before.auc, ratio),
        after=ratio(after.auc.value),
        after_range=interval(after.auc, ratio),
        aim="0.50",
        aim_note="a coin toss",
    )


def _reference_test(report: Report) -> list[KeyFigure]:
    tests = report.audit.reference_test
    if tests is None:
        return []
    after = tests.unlearned
    return [
        KeyFigure(
            name="Distance from reference predictions",
            note=f"in {tests.unit}; above the range: still known",
            before=ratio(tests.original.known),
            before_range="",
            after=ratio(after.known),
            after_range="",
            aim=interval(Estimate(value=after.known, low=after.low, high=after.high), ratio),
            aim_note="models that never saw them",
        ),
        *([] if tests.nearness is None else [_nearness(tests.nearness, tests.unit)]),
    ]


def _nearness(near: Nearness, unit: str) -> KeyFigure:
    return KeyFigure(
        name="Nearer to models that never saw them",
        note=f"in {unit}; below 0: nearer to the original",
        before=ratio(near.original),
        before_range="",
        after=ratio(near.value),
        after_range="",
        aim=ratio(near.unseen),
        aim_note="models that never saw them",
    )


def _relearning(report: Report) -> KeyFigure:
    delays = report.audit.relearn.delay
    return KeyFigure(
        name="Relearning delay",
        note="steps until the forgotten samples are known again",
        before=delay(delays.original),
        before_range="",
        after=delay(delays.unlearned),
        after_range="",
        aim=delay(delays.reference or delays.control),
        aim_note="data never learned" if delays.reference is None else "retrained without them",
    )


def _knowledge(report: Report) -> list[KeyFigure]:
    found = next((one for one in report.audit.extraction if one.name == KNOWLEDGE), None)
    if found is None:
        return []
    before, after, retrained = found.original.forget, found.unlearned.forget, found.reference
    return [
        KeyFigure(
            name="Questions answered",
            note="about the forgotten samples, in other words than theirs",
            before=share(before.value),
            before_range=interval(before, share),
            after=share(after.value),
            after_range=interval(after, share),
            aim=share((found.unlearned.held_out if retrained is None else retrained.forget).value),
            aim_note="data never seen" if retrained is None else "retrained without them",
        )
    ]


def _measure(
    report: Report,
    pick: Callable[[Measures], Estimate],
    *,
    name: str,
    note: str,
    aim: str = "",
    aim_note: str = "as before",
) -> KeyFigure:
    measures, unit = report.audit.measures, report.audit.merit.unit
    show = in_a_cell(unit)
    before, after = pick(measures.original), pick(measures.unlearned)
    if measures.reference is not None:
        aim, aim_note = show(pick(measures.reference).value), "retrained without them"
    return KeyFigure(
        name=name,
        note=note if len(unit) <= SHORT_UNIT else f"{note}; in {unit}",
        before=show(before.value),
        before_range=interval(before, show),
        after=show(after.value),
        after_range=interval(after, show),
        aim=aim or show(before.value),
        aim_note=aim_note,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackRow:
    """A row of the attacks; a cell is a value and its interval."""

    name: str
    cells: list[tuple[str, str]]


def attacks(report: Report) -> list[AttackRow]:
    """List each attack with its AUC and its balanced accuracy, before and after."""
    return _by_attack(report, lambda scores: (scores.auc, scores.balanced_accuracy), _score)


def rates(report: Report) -> list[AttackRow]:
    """List each attack with its rates at 1 % and 0.1 % false alarms, before and after; empty below 1,000 held-out samples."""
    return _by_attack(report, lambda scores: (scores.tpr_at_1_fpr, scores.tpr_at_01_fpr), _rate)


def _by_attack(
    report: Report, pick: Callable[[AttackScores], tuple[E, E]], show: Callable[[E], tuple[str, str]]
) -> list[AttackRow]:
    """List each attack with two of its scores, each before and after. Leave out an attack that has none of them."""
    rows = []
    for one in report.audit.membership.attacks:
        found = [each for pair in zip(pick(one.original), pick(one.unlearned), strict=True) for each in pair]
        if any(found):
            rows.append(AttackRow(name=sentence(attack_name(one.name)), cells=[show(each) for each in found]))
    return rows


def _score(of: Estimate) -> tuple[str, str]:
    return ratio(of.value), interval(of, ratio)


def _rate(of: Estimate | None) -> tuple[str, str]:
    return ("–", "too few samples") if of is None else (share(of.value), interval(of, share))


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A part of the time, with its share of the longest bar in percent."""

    name: str
    text: str
    share: float
    estimated: bool


def stages(report: Report) -> list[Stage]:
    """List the stages, then the estimated retraining."""
    timings = report.timings
    rows = [(name, getattr(timings, stage), False) for stage, name in STAGES.items()]
    if timings.retrain_estimate is not None:
        rows.append(("Retraining (estimated)", timings.retrain_estimate.seconds, True))
    longest = max(seconds for _, seconds, _ in rows) or 1.0
    return [
        Stage(name=name, text=duration(seconds), share=round(100 * seconds / longest, 2), estimated=estimated)
        for name, seconds, estimated in rows
    ]


def attempts(report: Report) -> list[tuple[str, str]]:
    """List every attempt of the job, with how it ended."""
    return [
        (
            f"Attempt {one.attempt}: {method_name(one.method).partition(' (')[0]}",
            f"{VERDICTS[one.verdict].lower() if one.verdict else 'ended before its audit'}, {duration(one.seconds)}",
        )
        for one in report.method.attempts
    ]


def method(report: Report) -> list[tuple[str, str]]:
    """Describe the method, why it stopped, how far it moved the model, and the time of its set-up."""
    relearn, change = report.audit.relearn, report.audit.change
    stopped = STOPPED[report.method.stopped_because].format(merit=report.audit.merit.name)
    return [
        ("Method", method_name(report.method.kind)),
        ("Chosen by", ORIGINS[report.method.origin]),
        ("Stopped because", f"{stopped}, after {plural(report.method.steps, 'step')}"),
        ("Weights moved by", f"{share(change.weight_distance_relative)} of their norm"),
        ("Predictions changed", f"{share(change.prediction_change)}"),
        (
            "Relearning attack",
            f"{relearn.relearner.upper()}, step size {relearn.learning_rate:g}, {relearn.max_steps} steps at most",
        ),
        *(
            (f"Set-up: {SETUP.get(name) or label(name)}", duration(took))
            for name, took in report.timings.setup.items()
            # In earlier reports this is the number of guide attacks, not seconds.
            if name != "guides_used"
        ),
    ]


def method_name(kind: str) -> str:
    """Give a method's name."""
    return METHODS.get(kind) or short_method(kind)


def identity(report: Report) -> list[tuple[str, str]]:
    """List the digests of the weights, and the commitment to the forgotten samples."""
    model, reference = report.model, report.model.reference
    rows = [
        (f"Weights before, version {model.version_before}", model.weights_before_sha256),
        (f"Weights after, version {model.version_after}", model.weights_after_sha256),
    ]
    if reference is not None:
        rows.append((f"Retrained without them, version {reference.version}", reference.weights_sha256))
    rows.append(("Commitment to the forgotten samples, Merkle root", report.asked.manifest_root))
    if report.asked.subjects_root is not None:
        rows.append(("Commitment to the people who asked by name, Merkle root", report.asked.subjects_root))
    return rows


def thresholds(report: Report) -> list[tuple[str, str]]:
    """List the thresholds of the verdict with their labels, in the order of THRESHOLDS; the reference test's only if it was run."""
    tested = report.audit.reference_test is not None
    named = {
        name: value
        for name, value in report.thresholds.items()
        if not isinstance(value, dict) and (tested or not name.startswith("reference_"))
    }
    return _labelled(named, {name: words.format(merit=report.audit.merit.name) for name, words in THRESHOLDS.items()})


def audit_settings(report: Report) -> list[tuple[str, str]]:
    """List the audit's settings with their labels, in the order of AUDIT_SETTINGS."""
    given = report.thresholds.get("settings")
    return _labelled(given if isinstance(given, dict) else {}, AUDIT_SETTINGS)


def _labelled(values: Mapping[str, object], labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """List values in the order of their labels. Those without one come last, with their names in words."""
    order = [name for name in labels if name in values] + [name for name in values if name not in labels]
    return [(labels.get(name, label(name)), text(values[name])) for name in order]


def settings(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """List parameters with their labels, without those that are groups."""
    return [(label(name), text(value)) for name, value in values.items() if not isinstance(value, dict)]


def groups(values: Mapping[str, object]) -> list[tuple[str, list[tuple[str, str]]]]:
    """List the groups among them, each with its heading."""
    return [(label(name), settings(value)) for name, value in values.items() if isinstance(value, dict)]


def label(name: str) -> str:
    """Turn a field's name into words: remaining_auc → Remaining AUC."""
    words = [word.upper() if word in ACRONYMS else word for word in name.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def text(value: object) -> str:
    """Print a JSON value."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}" if value == 0 or abs(value) >= 1e-4 else f"{value:.10f}".rstrip("0")
        case list():
            return ", ".join(map(text, value))
        case dict():
            return ", ".join(f"{label(key)} {text(item)}" for key, item in value.items())
    return str(value)
