"""Everything that the page and the PDF show, as text and pictures, so that both show the same."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from report import captions, figures, tables
from report.document import Document, Finding, Report
from report.evidence import Merit, VerdictValue
from report.figures import Panel
from report.formatting import day, duration, in_a_cell, interval, moment, plural, ratio

OUTCOMES = {True: ("passed", "Passed"), False: ("failed", "Not passed"), None: ("unknown", "Cannot tell")}
"""The tone and the label of a check, by whether it passed."""

REFERENCE_TEST = (
    "negative_control_reference",
    "reference_matched",
    "nearer_to_retrained",
    "positive_control_reference",
)
"""The codes of the reference test's findings."""

MAX_DRAWN = 16
"""Reports whose panels are kept: who opens a page often opens the PDF next. One takes less than half a megabyte."""

Parts = list[tuple[str, bool]]
"""A sentence in parts, each with whether it is in brackets; those hold figures and are shown in grey."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One finding of the verdict."""

    tone: str
    label: str
    text: Parts
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """A question, its answer in a caption, and the panels that show it."""

    name: str
    question: str
    caption: str
    panels: list[Panel]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A report, ready to be shown. Tables without a type of their own are names with values."""

    report: Report
    sha256: str
    title: str
    verdict: str
    tone: str
    created: str
    sentence: Parts
    exactness: list[str]
    certificate: list[str]
    summary: list[str]
    key_figures: list[tables.KeyFigure]
    basis: str
    deciding: str
    checks: list[Check]
    evidence: list[Evidence]
    attacks: list[tables.AttackRow]
    rates: list[tables.AttackRow]
    time: str
    stages: list[tables.Stage]
    timeline: list[tuple[str, str]]
    attempts: list[tuple[str, str]]
    method: list[tuple[str, str]]
    thresholds: list[tuple[str, str]]
    groups: list[tuple[str, list[tuple[str, str]]]]
    model: str
    identity: list[tuple[str, str]]


def view(document: Document) -> View:
    """Prepare a report to be shown."""
    report = document.report
    verdict = tables.verdict(report)
    unexpected = report.exactness is not None and report.verdict.value != VerdictValue.VERIFIED
    return View(
        report=report,
        sha256=document.sha256,
        title=f"{verdict}: {plural(report.asked.samples, 'sample')} unlearned from {report.model.name}",
        verdict=verdict,
        # An exact result that its audit could not verify is no failure, and no success either.
        tone=VerdictValue.INCONCLUSIVE if unexpected else report.verdict.value,
        created=moment(report.created_at),
        sentence=_parts(report.verdict.sentence),
        exactness=_exactness(report),
        certificate=_certificate(report),
        summary=_summary(report),
        key_figures=tables.key_figures(report),
        basis=captions.basis(report),
        deciding=captions.deciding(report),
        checks=[_check(finding, report.audit.merit) for finding in report.verdict.findings],
        evidence=_evidence(report),
        attacks=tables.attacks(report),
        rates=tables.rates(report),
        time=captions.time(report),
        stages=tables.stages(report),
        timeline=[(moment(event.at), event.text) for event in report.timeline],
        attempts=tables.attempts(report),
        method=tables.method(report),
        thresholds=tables.thresholds(report),
        groups=_groups(report),
        model=_model(report),
        identity=tables.identity(report),
    )


def _exactness(report: Report) -> list[str]:
    """Say why the result is exact, then what may have kept the audit from verifying it."""
    found = report.exactness
    return [] if found is None else [found.statement, *found.causes]


def _certificate(report: Report) -> list[str]:
    """Say what is certified, then what it rests on."""
    found = report.certificate
    return [] if found is None else [found.statement, *found.assumptions]


def _summary(report: Report) -> list[str]:
    asked, model = report.asked, report.model
    law = " and ".join(name.upper() for name in asked.regulation)
    people = f", naming {plural(asked.subjects, 'subject')}" if asked.subjects else ""
    rows = [
        f"{plural(asked.samples, 'sample')} from {plural(asked.requests, 'request')}"
        + (f" under {law}" if law else "")
        + people,
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
    method = report.method.parameters
    named = [("Parameters", tables.settings(method)), *tables.groups(method), ("Audit", tables.audit_settings(report))]
    return [(name, rows) for name, rows in named if rows]


def _model(report: Report) -> str:
    model = report.model
    return (
        f"Model {model.name} has {plural(model.parameters, 'parameter')}. It was trained on {model.dataset} and is built by "
        f"{model.workload}."
    )


def _check(finding: Finding, merit: Merit) -> Check:
    tone, label = OUTCOMES[finding.passed]
    show = in_a_cell(merit.unit) if finding.code.startswith("utility_") else ratio
    value = "" if finding.value is None else show(finding.value)
    if finding.estimate is not None:
        # The reference test's range is not the value's interval, but where models lie that never saw the samples.
        unseen = " if never seen" if finding.code in REFERENCE_TEST else ""
        value += f" ({interval(finding.estimate, show)}{unseen})"
    text = finding.text[:1].upper() + finding.text[1:].rstrip(".") + "."
    return Check(tone=tone, label=label, text=_parts(text), value=value)


def _parts(sentence: str) -> Parts:
    return [(part, part.startswith("(")) for part in re.split(r"(\([^()]*\))", sentence) if part]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What the panels of a report show. report: its pictures are those of all reports with the same audit and thresholds."""

    audit: str
    thresholds: str
    report: Report = field(compare=False)


EVIDENCE: tuple[tuple[str, str, Callable[[Report], str], Callable[[Report], list[Panel]]], ...] = (
    (
        "references",
        "Does it answer each of them like a model that never saw it?",
        captions.references,
        figures.references,
    ),
    (
        "losses",
        "Does the model treat the forgotten samples like data it never saw?",
        captions.losses,
        figures.losses,
    ),
    ("membership", "Can an attacker tell that they were once trained on?", captions.membership, figures.roc),
    ("extraction", "How much of them can be drawn out of it?", captions.extraction, figures.extraction),
    ("generation", "What does it still generate?", captions.generation, figures.generation),
    ("relearning", "How quickly does the model learn them again?", captions.relearning, figures.relearning),
    ("utility", "What did it cost the model?", captions.utility, figures.utility),
)
"""The evidence in its order: its name, its question, and what writes its caption and draws its panels."""


@lru_cache(maxsize=MAX_DRAWN)
def _panels(of: _Drawn) -> dict[str, list[Panel]]:
    """Draw all panels, by the name of the evidence: drawing takes nearly all of the time that a page does."""
    return {name: draw(of.report) for name, _, _, draw in EVIDENCE}


def _evidence(report: Report) -> list[Evidence]:
    """List what has a caption: what was not measured has none."""
    panels = _panels(_Drawn(report.audit.model_dump_json(), str(sorted(report.thresholds.items())), report))
    every = [
        Evidence(name=name, question=question, caption=caption(report), panels=panels[name])
        for name, question, caption, _ in EVIDENCE
    ]
    return [one for one in every if one.caption]
