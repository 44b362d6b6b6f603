"""Everything that the page and the print show, as text and pictures, so that both say the same."""

from collections.abc import Mapping
from dataclasses import dataclass

from service.report import answers
from service.report.digest import report_sha256
from service.report.document import Report
from service.report.evidence import Estimate
from service.report.figures import membership, relearning, utility
from service.report.figures.canvas import Panel
from service.report.key_figures import KeyFigure, key_figures
from service.report.numbers import duration, moment, plural, ratio, ratio_interval, share
from service.report.schema import read

WORDS = {"verified": "Verified", "inconclusive": "Inconclusive", "failed": "Failed"}
STAGES = {
    "load": "Loading",
    "unlearn": "Unlearning",
    "audit_membership": "Audit: membership",
    "audit_relearn": "Audit: relearning",
    "report": "Report",
    "publish": "Publishing",
}
OUTCOMES = {True: ("passed", "Passed"), False: ("failed", "Not passed"), None: ("unknown", "Cannot tell")}
STOPPED = {
    "matched": "the forgotten samples looked like held-out ones",
    "budget": "the budget of steps was spent",
    "utility": "accuracy was about to fall below what is allowed",
    "completed": "the method had run to its end",
}
ORIGINS = {"default": "the service's default", "request": "chosen in the request", "policy": "the model's policy"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One finding of the verdict."""

    tone: str
    word: str
    text: str
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """A question, its answer in words with numbers, and the pictures that show it."""

    name: str
    question: str
    answer: str
    panels: list[Panel]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A part of the time, with its share of the longest bar in percent."""

    name: str
    text: str
    share: float
    estimated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackRow:
    """One attack in the table of all of them."""

    name: str
    cells: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The report, ready to be shown; `facts` and the other tables are names with their values."""

    report: Report
    sha256: str
    title: str
    word: str
    tone: str
    created: str
    summary: list[str]
    key_figures: list[KeyFigure]
    basis: str
    checks: list[Check]
    evidence: list[Evidence]
    attacks: list[AttackRow]
    time_answer: str
    stages: list[Stage]
    timeline: list[tuple[str, str]]
    attempts: list[tuple[str, str]]
    method: list[tuple[str, str]]
    thresholds: list[tuple[str, str]]
    parameters: list[tuple[str, str]]
    identity: list[tuple[str, str]]


def view(report_json: Mapping[str, object]) -> View:
    """What to show of a report. Raises InvalidReport."""
    report = read(report_json)
    return View(
        report=report,
        sha256=report_sha256(report_json),
        title=f"{WORDS[report.verdict.value]}: {plural(report.asked.samples, 'sample')} unlearned from {report.model.name}",
        word=WORDS[report.verdict.value],
        tone=report.verdict.value,
        created=moment(report.created_at),
        summary=_summary(report),
        key_figures=key_figures(report),
        basis=answers.basis(report),
        checks=_checks(report),
        evidence=_evidence(report),
        attacks=_attacks(report),
        time_answer=answers.time(report),
        stages=_stages(report),
        timeline=[(moment(event.at), event.text) for event in report.timeline],
        attempts=_attempts(report),
        method=_method(report),
        thresholds=[(_words(name), _plain(value)) for name, value in report.thresholds.items()],
        parameters=[(_words(name), _plain(value)) for name, value in report.method.parameters.items()],
        identity=_identity(report),
    )


def _summary(report: Report) -> list[str]:
    asked, model = report.asked, report.model
    law = " and ".join(name.upper() for name in asked.regulation)
    rows = [
        f"{plural(asked.samples, 'sample')} from {plural(asked.requests, 'request')}"
        + (f" under {law}" if law else ""),
        f"{model.name}, version {model.version_before} to {model.version_after}",
        f"method {report.method.kind.upper()}, {duration(report.timings.unlearn)}",
    ]
    if asked.samples_previously_forgotten:
        rows.append(f"{plural(asked.samples_previously_forgotten, 'sample')} forgotten earlier stayed out")
    return rows


def _checks(report: Report) -> list[Check]:
    rows = []
    for finding in report.verdict.findings:
        tone, word = OUTCOMES[finding.passed]
        value = "" if finding.value is None else ratio(finding.value)
        if value and finding.low is not None and finding.high is not None:
            value += f" ({ratio(finding.low)} to {ratio(finding.high)})"
        rows.append(Check(tone=tone, word=word, text=finding.text, value=value))
    return rows


def _evidence(report: Report) -> list[Evidence]:
    kept = utility.utility(report)
    return [
        Evidence(
            name="losses",
            question="Does the model treat the forgotten samples like data it never saw?",
            answer=answers.losses(report),
            panels=membership.losses(report),
        ),
        Evidence(
            name="membership",
            question="Can an attacker tell that they were once trained on?",
            answer=answers.membership(report),
            panels=membership.roc(report),
        ),
        Evidence(
            name="relearning",
            question="How quickly does it come back?",
            answer=answers.relearning(report),
            panels=[relearning.relearning(report)],
        ),
        Evidence(
            name="utility",
            question="What did it cost the model?",
            answer=answers.utility(report),
            panels=[] if kept is None else [kept],
        ),
    ]


def _attacks(report: Report) -> list[AttackRow]:
    def cell(before: Estimate | None, after: Estimate | None) -> list[str]:
        return [f"{share(one.value)}" if one is not None else "too few" for one in (before, after)]

    return [
        AttackRow(
            name=answers.ATTACKS[one.name].capitalize(),
            cells=[
                f"{ratio(one.original.auc.value)} ({ratio_interval(one.original.auc)})",
                f"{ratio(one.unlearned.auc.value)} ({ratio_interval(one.unlearned.auc)})",
                *cell(one.original.tpr_at_1_fpr, one.unlearned.tpr_at_1_fpr),
            ],
        )
        for one in report.audit.membership.attacks
    ]


def _stages(report: Report) -> list[Stage]:
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


def _attempts(report: Report) -> list[tuple[str, str]]:
    return [
        (
            f"Attempt {one.attempt}: {one.method.upper()}",
            f"{WORDS[one.verdict].lower() if one.verdict else 'ended before its audit'}, {duration(one.seconds)}",
        )
        for one in report.method.attempts
    ]


def _method(report: Report) -> list[tuple[str, str]]:
    relearn, change = report.audit.relearn, report.audit.change
    return [
        ("Method", report.method.kind.upper()),
        ("Chosen by", ORIGINS[report.method.origin]),
        ("Stopped because", f"{STOPPED[report.method.stopped_because]}, after {plural(report.method.steps, 'step')}"),
        ("Weights moved by", f"{share(change.weight_distance_relative)} of their norm"),
        ("Predictions changed", f"{share(change.prediction_change)}"),
        (
            "Relearning attack",
            f"{relearn.relearner.upper()}, step size {relearn.learning_rate:g}, {relearn.max_steps} steps at most",
        ),
        *((f"Set-up: {_words(name).lower()}", duration(seconds)) for name, seconds in report.timings.setup.items()),
    ]


def _identity(report: Report) -> list[tuple[str, str]]:
    model = report.model
    return [
        (f"Weights before, version {model.version_before}", model.weights_before_sha256),
        (f"Weights after, version {model.version_after}", model.weights_after_sha256),
        ("List of forgotten samples", report.asked.manifest_sha256),
    ]


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _plain(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return " to ".join(map(_plain, value)) if len(value) == 2 else ", ".join(map(_plain, value))
    if isinstance(value, dict):
        return ", ".join(f"{_words(key).lower()} {_plain(item)}" for key, item in value.items())
    return str(value)
