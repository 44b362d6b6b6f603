"""The few numbers that carry the verdict, before and after."""

from collections.abc import Callable
from dataclasses import dataclass

from service.report.answers import strongest
from service.report.document import Report
from service.report.evidence import Estimate, Measures
from service.report.numbers import delay, percent, percent_interval, plural, ratio, ratio_interval


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
