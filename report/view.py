"""Everything that the page and the print show, as text and pictures, so that both say the same."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from report import captions as answers
from report import figures as membership
from report import figures as relearning
from report import figures as utility
from report import tables
from report.canonical import report_sha256
from report.document import Report, read
from report.drawing import Panel
from report.formatting import day, duration, moment, percent, plural, ratio
from report.tables import KeyFigure, key_figures

OUTCOMES = {True: ("passed", "Passed"), False: ("failed", "Not passed"), None: ("unknown", "Cannot tell")}


Said = list[tuple[str, bool]]
"""A sentence in parts, each with whether it stands in brackets: figures, which are shown so that one can read past them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One finding of the verdict."""

    tone: str
    word: str
    said: Said
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """A question, its answer in words with numbers, and the pictures that show it."""

    name: str
    question: str
    answer: str
    panels: list[Panel]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The report, ready to be shown; `facts` and the other tables are names with their values."""

    report: Report
    sha256: str
    title: str
    word: str
    tone: str
    created: str
    sentence: Said
    summary: list[str]
    key_figures: list[KeyFigure]
    basis: str
    checks: list[Check]
    evidence: list[Evidence]
    attacks: list[tables.AttackRow]
    rates: list[tables.AttackRow]
    time_answer: str
    stages: list[tables.Stage]
    timeline: list[tuple[str, str]]
    attempts: list[tuple[str, str]]
    method: list[tuple[str, str]]
    thresholds: list[tuple[str, str]]
    groups: list[tuple[str, list[tuple[str, str]]]]
    model: str
    identity: list[tuple[str, str]]


def view(report_json: Mapping[str, object]) -> View:
    """What to show of a report. Raises InvalidReport."""
    report = read(report_json)
    return View(
        report=report,
        sha256=report_sha256(report_json),
        title=f"{tables.WORDS[report.verdict.value]}: {plural(report.asked.samples, 'sample')} unlearned from {report.model.name}",
        word=tables.WORDS[report.verdict.value],
        tone=report.verdict.value,
        created=moment(report.created_at),
        sentence=_said(report.verdict.sentence),
        summary=_summary(report),
        key_figures=key_figures(report),
        basis=answers.basis(report),
        checks=_checks(report),
        evidence=_evidence(report),
        attacks=tables.attacks(report),
        rates=tables.rates(report),
        time_answer=answers.time(report),
        stages=tables.stages(report),
        timeline=[(moment(event.at), event.text) for event in report.timeline],
        attempts=tables.attempts(report),
        method=tables.method(report),
        thresholds=tables.thresholds(report.thresholds),
        groups=_groups(report),
        model=_model(report),
        identity=tables.identity(report),
    )


def _summary(report: Report) -> list[str]:
    asked, model = report.asked, report.model
    law = " and ".join(name.upper() for name in asked.regulation)
    rows = [
        f"{plural(asked.samples, 'sample')} from {plural(asked.requests, 'request')}"
        + (f" under {law}" if law else ""),
        f"{model.name}, version {model.version_before} to {model.version_after}",
        f"by {tables.method_name(report.method.kind)} in {duration(report.timings.unlearn)}",
    ]
    if asked.received_at is not None and asked.due_at is not None:
        each = "the first of them " if asked.requests > 1 else ""
        rows.insert(1, f"{each}received {day(asked.received_at)}, due {day(asked.due_at)}")
    if asked.samples_previously_forgotten:
        rows.append(f"{plural(asked.samples_previously_forgotten, 'sample')} forgotten earlier stayed out")
    return rows


def _groups(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    method, audit = report.method.parameters, report.thresholds
    named = [("Parameters", tables.settings(method)), *tables.groups(method)]
    named += [(f"Audit: {name.lower()}", rows) for name, rows in tables.groups(audit)]
    return [(name, rows) for name, rows in named if rows]


def _model(report: Report) -> str:
    model = report.model
    return (
        f"Model {model.name} has {plural(model.parameters, 'parameter')}, was trained on {model.dataset} "
        f"and is built by {model.workload}."
    )


def _checks(report: Report) -> list[Check]:
    rows = []
    for finding in report.verdict.findings:
        tone, word = OUTCOMES[finding.passed]
        show = percent if finding.code.startswith("utility_") else ratio
        value = "" if finding.value is None else show(finding.value)
        if value and finding.low is not None and finding.high is not None:
            value += f" ({show(finding.low)} to {show(finding.high)})"
        text = finding.text[:1].upper() + finding.text[1:].rstrip(".") + "."
        rows.append(Check(tone=tone, word=word, said=_said(text), value=value))
    return rows


def _said(sentence: str) -> Said:
    return [(part, part.startswith("(")) for part in re.split(r"(\([^()]*\))", sentence) if part]


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
