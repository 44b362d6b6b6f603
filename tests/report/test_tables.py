import dataclasses

import pytest

from report import tables
from report.document import Report, read
from report.formatting import delay, in_a_cell, interval, percent, ratio
from report.tables import key_figures, rates
from tests.report.recorded import recorded, stored
from unlearning.specs.audit import AuditSpec


def aims(report: Report) -> list[str]:
    """The values to compare with, without that of the reference test."""
    return [row.aim for row in key_figures(report) if row.name != "Distance from reference predictions"]


def test_without_a_retrained_model_the_control_and_the_original_are_the_comparison() -> None:
    report = recorded("verified").report
    measures = report.audit.measures
    assert aims(report) == [
        "0.50",
        delay(report.audit.relearn.delay.control),
        percent(100 - measures.unlearned.ta.value),
        percent(measures.original.ra.value),
        percent(measures.original.ta.value),
    ]


def test_a_retrained_model_is_the_comparison_if_there_is_one() -> None:
    report = recorded("retrained").report
    reference, delay_ = report.audit.measures.reference, report.audit.relearn.delay.reference
    assert reference is not None
    assert delay_ is not None
    assert aims(report) == [
        "0.50",
        delay(delay_),
        percent(reference.ua.value),
        percent(reference.ra.value),
        percent(reference.ta.value),
    ]


@pytest.mark.parametrize("known", [True, False])
def test_rates_at_few_false_alarms_have_a_table_only_if_there_are_enough_samples(known: bool) -> None:
    report = stored("verified")
    rate = {"value": 0.02, "low": 0.01, "high": 0.04} if known else None
    for attack in report["audit"]["membership"]["attacks"]:
        for model in ("original", "unlearned"):
            attack[model]["tpr_at_1_fpr"] = rate
    rows = rates(read(report).report)
    assert len(rows) == (len(report["audit"]["membership"]["attacks"]) if known else 0)


def test_the_reference_test_is_a_key_figure_if_there_was_one() -> None:
    report = recorded("verified").report
    check = next(finding for finding in report.verdict.findings if finding.code == "reference_matched")
    assert check.estimate is not None
    rows = key_figures(report)
    assert [row.aim for row in rows if row.after == ratio(check.estimate.value)] == [interval(check.estimate, ratio)]
    assert len(rows) == 1 + len(key_figures(recorded("inconclusive").report))


def test_nearness_to_models_that_never_saw_the_samples_is_a_key_figure_where_it_was_measured() -> None:
    report = stored("verified")
    given = {"value": 1.25, "unseen": 1.5, "low": 0.5, "original": -2.75, "p_value": 0.01, "to_original": False}
    rows = key_figures(read(report).report)
    report["audit"]["reference_test"]["nearness"] = given
    more = key_figures(read(report).report)
    (row,) = (row for row in more if row not in rows)
    assert (row.before, row.after, row.aim) == (ratio(-2.75), ratio(1.25), ratio(1.5))


def test_the_reference_test_s_thresholds_are_listed_only_where_it_was_run() -> None:
    labels = {tables.THRESHOLDS[name] for name in tables.THRESHOLDS if name.startswith("reference_")}
    assert labels <= {label for label, _ in tables.thresholds(recorded("verified").report)}
    assert labels.isdisjoint(label for label, _ in tables.thresholds(recorded("inconclusive").report))


def test_every_setting_of_an_audit_has_words_of_its_own() -> None:
    fields = {field.name for field in dataclasses.fields(AuditSpec)} - {"thresholds"}
    assert fields <= tables.AUDIT_SETTINGS.keys()
    shown = tables.audit_settings(recorded("verified").report)
    assert ("Bootstrap replicates of an interval", "1000") in shown
    assert {label for label, _ in shown} <= set(tables.AUDIT_SETTINGS.values())


def test_a_long_unit_is_named_once_a_row_and_not_after_every_number() -> None:
    report = recorded("retrained").report
    merit = report.audit.merit.model_copy(update={"unit": "hundredths of a nat a token"})
    longer = report.model_copy(update={"audit": report.audit.model_copy(update={"merit": merit})})
    (remaining,) = [row for row in key_figures(longer) if row.name.endswith("on the remaining samples")]
    assert remaining.note == "should be kept; in hundredths of a nat a token"
    assert remaining.after == f"{report.audit.measures.unlearned.ra.value:.1f}"
    assert "nat" not in remaining.before_range + remaining.after_range + remaining.aim
    assert (in_a_cell("%")(4.04), in_a_cell(merit.unit)(4.04)) == (percent(4.04), "4.0")
