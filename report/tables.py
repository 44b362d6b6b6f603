"""The report's tables: every attack, where the time went, how it was done, which weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from report.captions import ATTACKS, strongest
from report.document import Report
from report.evidence import AttackScores, Estimate, Measures
from report.formatting import delay, duration, percent, percent_interval, plural, ratio, ratio_interval, share

E = TypeVar("E", bound=Estimate | None)

WORDS = {"verified": "Verified", "inconclusive": "Inconclusive", "failed": "Failed"}
STAGES = {
    "load": "Loading",
    "unlearn": "Unlearning",
    "audit_membership": "Audit: membership",
    "audit_relearn": "Audit: relearning",
    "report": "Report",
    "publish": "Publishing",
}
STOPPED = {
    "matched": "the forgotten samples looked like held-out ones",
    "budget": "the budget of steps was spent",
    "utility": "accuracy was about to fall below what is allowed",
    "completed": "the method had run to its end",
}
ORIGINS = {"default": "the service's default", "request": "the request", "policy": "the model's policy"}
METHODS = {"ltu": "LTU (Learning to Unlearn)", "ieu": "IEU (Influence Eliminating Unlearning)", "retrain": "retraining"}
"""What the methods are called; one that is not here is told by its name in capitals."""
SETUP = {
    "guides": "training the attacks that guide it",
    "guides_used": "trying those attacks out",
    "neighbour_search": "finding similar samples",
}
THRESHOLDS = {
    "confidence": "Confidence of the intervals that decide",
    "membership_margin": "How far from 0.5 attacks may lie, at most",
    "membership_margin_least": "How far from 0.5 attacks may lie, at least",
    "membership_margin_used": "How far from 0.5, for this many samples",
    "membership_margin_widths": "The same, in half a coin toss's interval",
    "relearn_ratio": "Relearning takes, of the control's time, at least",
    "relearn_excess": "Relearning is damage above, of the control's time",
    "relearn_least": "Fewest samples whose relearning decides",
    "control_steps": "Fewest steps of the control that can tell",
    "no_op_weights": "A change of the weights below this is none",
    "no_op_predictions": "A change of the predictions below this is none",
    "collapse_share": "Advantage over guessing that must be left",
    "utility_drop": "Accuracy lost that warns, points",
}
"""What each threshold says; one that is not here is told by its name."""

ACRONYMS = {"auc", "tpr", "fpr", "ua", "ra", "ta", "mi"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A part of the time, with its share of the longest bar in percent."""

    name: str
    text: str
    share: float
    estimated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackRow:
    """One attack in the table of all of them; a cell is a value and its interval."""

    name: str
    cells: list[tuple[str, str]]


def attacks(report: Report) -> list[AttackRow]:
    """Each attack with its AUC and its balanced accuracy, before and after."""
    return _by_attack(report, lambda scores: (scores.auc, scores.balanced_accuracy), _score)


def rates(report: Report) -> list[AttackRow]:
    """Each attack with its rates at 1 % and 0.1 % false alarms, before and after; none where there are too few held-out samples."""
    return _by_attack(report, lambda scores: (scores.tpr_at_1_fpr, scores.tpr_at_01_fpr), _rate)


def _by_attack(
    report: Report, pick: Callable[[AttackScores], tuple[E, E]], show: Callable[[E], tuple[str, str]]
) -> list[AttackRow]:
    """A row for each attack with what is picked of its scores, each before and after; none where there is nothing to show."""
    rows = []
    for one in report.audit.membership.attacks:
        found = [each for pair in zip(pick(one.original), pick(one.unlearned), strict=True) for each in pair]
        if any(found):
            rows.append(AttackRow(name=ATTACKS[one.name].capitalize(), cells=[show(each) for each in found]))
    return rows


def _score(of: Estimate) -> tuple[str, str]:
    return ratio(of.value), ratio_interval(of)


def _rate(of: Estimate | None) -> tuple[str, str]:
    if of is None:
        return "–", "too few samples"
    return share(of.value), f"{100 * of.low:.1f} to {share(of.high)}"


def stages(report: Report) -> list[Stage]:
    """The stages that are known, then the estimated retraining."""
    timings = report.timings
    rows = [
        (name, seconds, False) for stage, name in STAGES.items() if (seconds := getattr(timings, stage)) is not None
    ]
    if timings.retrain_estimate is not None:
        rows.append(("Retraining (estimated)", timings.retrain_estimate.seconds, True))
    longest = max(seconds for _, seconds, _ in rows) or 1.0
    return [
        Stage(name=name, text=duration(seconds), share=round(100 * seconds / longest, 2), estimated=estimated)
        for name, seconds, estimated in rows
    ]


def attempts(report: Report) -> list[tuple[str, str]]:
    """Every attempt of the job, with how it ended."""
    return [
        (
            f"Attempt {one.attempt}: {method_name(one.method).partition(' (')[0]}",
            f"{WORDS[one.verdict].lower() if one.verdict else 'ended before its audit'}, {duration(one.seconds)}",
        )
        for one in report.method.attempts
    ]


def method(report: Report) -> list[tuple[str, str]]:
    """The method, why it stopped, how far it moved the model and what its set-up took."""
    relearn, change = report.audit.relearn, report.audit.change
    return [
        ("Method", method_name(report.method.kind)),
        ("Chosen by", ORIGINS[report.method.origin]),
        ("Stopped because", f"{STOPPED[report.method.stopped_because]}, after {plural(report.method.steps, 'step')}"),
        ("Weights moved by", f"{share(change.weight_distance_relative)} of their norm"),
        ("Predictions changed", f"{share(change.prediction_change)}"),
        (
            "Relearning attack",
            f"{relearn.relearner.upper()}, step size {relearn.learning_rate:g}, {relearn.max_steps} steps at most",
        ),
        *(
            (f"Set-up: {SETUP.get(name) or _words(name)}", duration(took))
            for name, took in report.timings.setup.items()
        ),
    ]


def method_name(kind: str) -> str:
    """A method as a reader knows it."""
    return METHODS.get(kind, kind.upper())


def identity(report: Report) -> list[tuple[str, str]]:
    """The digests of the weights and of the list of forgotten samples."""
    model, reference = report.model, report.model.reference
    rows = [
        (f"Weights before, version {model.version_before}", model.weights_before_sha256),
        (f"Weights after, version {model.version_after}", model.weights_after_sha256),
    ]
    if reference is not None:
        rows.append((f"Retrained without them, version {reference.version}", reference.weights_sha256))
    return [*rows, ("Manifest of forgotten samples, root", report.asked.manifest_root)]


def thresholds(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """The numbers that the verdict used, in words, in the order of THRESHOLDS."""
    named = {name: value for name, value in values.items() if not isinstance(value, dict)}
    order = [name for name in THRESHOLDS if name in named] + [name for name in named if name not in THRESHOLDS]
    return [(THRESHOLDS.get(name) or _words(name), _plain(named[name])) for name in order]


def settings(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Thresholds or parameters, as words with their values; groups are for `groups`."""
    return [(_words(name), _plain(value)) for name, value in values.items() if not isinstance(value, dict)]


def groups(values: Mapping[str, object]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The groups among them, each with its heading."""
    return [(_words(name), settings(value)) for name, value in values.items() if isinstance(value, dict)]


def _words(name: str) -> str:
    words = [word.upper() if word in ACRONYMS else word for word in name.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def _plain(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if value == 0 or abs(value) >= 1e-4 else f"{value:.10f}".rstrip("0")
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, dict):
        return ", ".join(f"{_words(key)} {_plain(item)}" for key, item in value.items())
    return str(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFigure:
    """A row of the table: values as text, intervals as text or empty, and what the value after is to be held against."""

    name: str
    note: str
    before: str
    before_range: str
    after: str
    after_range: str
    aim: str
    aim_note: str


def key_figures(report: Report) -> list[KeyFigure]:
    """Membership, relearning, error on the forgotten samples, and the accuracy kept."""
    return [_membership(report), _relearning(report), _forgotten(report), _remaining(report), _test(report)]


def _membership(report: Report) -> KeyFigure:
    (before_name, before), (after_name, after) = strongest(report)
    attacks = plural(len(report.audit.membership.attacks), "attack")
    names = before_name if before_name == after_name else f"{before_name} before, {after_name} after"
    return KeyFigure(
        name="Membership attack, AUC",
        note=f"the strongest of {attacks}: {names}",
        before=ratio(before.auc.value),
        before_range=ratio_interval(before.auc),
        after=ratio(after.auc.value),
        after_range=ratio_interval(after.auc),
        aim="0.50",
        aim_note="a coin toss",
    )


def _relearning(report: Report) -> KeyFigure:
    delays = report.audit.relearn.delay
    held_against = delays.reference or delays.control
    return KeyFigure(
        name="Relearning delay",
        note="steps until the forgotten samples are known again",
        before=delay(delays.original),
        before_range="",
        after=delay(delays.unlearned),
        after_range="",
        aim=delay(held_against),
        aim_note="data never learned" if delays.reference is None else "retrained without them",
    )


def _forgotten(report: Report) -> KeyFigure:
    error_elsewhere = 100 - report.audit.measures.unlearned.ta.value
    name, note = "Error on the forgotten samples", "should be like data never seen"
    return _measure(
        report, lambda m: m.ua, name=name, note=note, aim=percent(error_elsewhere), aim_note="error on test data"
    )


def _remaining(report: Report) -> KeyFigure:
    return _measure(report, lambda m: m.ra, name="Accuracy on the remaining samples", note="should be kept")


def _test(report: Report) -> KeyFigure:
    return _measure(report, lambda m: m.ta, name="Accuracy on test data", note="should be kept")


def _measure(
    report: Report,
    pick: Callable[[Measures], Estimate],
    *,
    name: str,
    note: str,
    aim: str = "",
    aim_note: str = "as before",
) -> KeyFigure:
    measures = report.audit.measures
    before, after = pick(measures.original), pick(measures.unlearned)
    if measures.reference is not None:
        aim, aim_note = percent(pick(measures.reference).value), "retrained without them"
    return KeyFigure(
        name=name,
        note=note,
        before=percent(before.value),
        before_range=percent_interval(before),
        after=percent(after.value),
        after_range=percent_interval(after),
        aim=aim or percent(before.value),
        aim_note=aim_note,
    )
