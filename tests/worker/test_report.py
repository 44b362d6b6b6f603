"""The findings of a real audit as sections of the report."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import torch
from pydantic import ValidationError

from ledger import resources
from report.evidence import Audit
from tests.worker import digits
from unlearning.audit.audit import audit
from unlearning.audit.findings import Findings
from unlearning.audit.intervals import Interval
from unlearning.data.workload import split_held_out
from unlearning.specs.audit import AuditSpec
from unlearning.steps import run_to_completion
from unlearning.training.loop import fresh, train
from worker import report

SPEC = AuditSpec(replicates=100, vector_seeds=1, relearners=("sgd",), relearn_controls=3, relearn_steps=8)


@pytest.fixture(scope="module")
def findings() -> Findings:
    """Of a model audited against itself, with another that was never trained as the retrained one."""
    workload = digits.workload()
    original, untrained = (fresh(workload.build, seed=seed) for seed in (0, 1))
    run_to_completion(train(original, workload.train, workload.recipe, objective=workload.objective, seed=0))
    return run_to_completion(
        audit(
            original=original,
            unlearned=original,
            reference=untrained,
            forget=workload.train.take(torch.arange(40)),
            remain=workload.train.take(torch.arange(40, len(workload.train))),
            held_out=split_held_out(workload.held_out).audit,
            test=workload.test,
            objective=workload.objective,
            spec=SPEC,
        )
    )


def test_the_report_has_what_was_measured(findings: Findings) -> None:
    section = report.audit(findings)
    assert section.samples.forget == 40
    assert section.measures.unlearned.ta.value == findings.measures["unlearned"].ta.value
    assert section.measures.reference is not None
    assert [attack.name for attack in section.membership.attacks] == [
        "loss", "confidence", "entropy", "modified_entropy", "margin", "features",
    ]  # fmt: skip
    assert section.membership.attacks[0].unlearned.auc.value == findings.membership.unlearned["loss"].auc.value
    assert section.relearn.curves.reference is not None
    assert section.relearn.curves.original.loss == findings.relearnings[0].original.losses
    assert section.change.no_op
    assert [row.label for row in section.utility.per_class] == [str(label) for label in range(10)]


def test_many_requests_that_join_one_after_the_other_are_counted_and_all_else_stands_in_the_timeline() -> None:
    at = datetime(2026, 11, 29, tzinfo=UTC)
    kinds = ["job.opened", *["job.joined"] * 1200, "job.closed", *["job.joined"] * 3, "job.started"]
    events = [
        resources.Event(id=number, at=at + timedelta(seconds=number), kind=kind, text=f"Event {number}.", data={})
        for number, kind in enumerate(kinds)
    ]
    written = [(event.kind, event.at, event.text) for event in report.timeline(events)]
    assert [kind for kind, _, _ in written] == [
        "job.opened", "job.joined", "job.joined", "job.closed", *["job.joined"] * 3, "job.started",
    ]  # fmt: skip
    assert written[2][1] == at + timedelta(seconds=1200)
    assert "1,199 more requests" in written[2][2]


def test_delays_on_several_parts_are_typical_ones_of_both_models(findings: Findings) -> None:
    found = findings.relearnings[0]
    parts = tuple(replace(found.unlearned[0], delay=steps) for steps in (4, 4, 32))

    delay = report.relearn(replace(found, unlearned=parts, references=parts)).delay

    assert delay.reference is not None
    assert delay.reference.steps == delay.unlearned.steps == pytest.approx(8.2, abs=0.1)


def test_the_verdict_keeps_each_check_with_its_numbers(findings: Findings) -> None:
    section = report.verdict(findings.verdict)
    assert section.value == "failed"
    assert [check.code for check in section.findings] == [check.code for check in findings.verdict.findings]
    for check, found in zip(section.findings, findings.verdict.findings, strict=True):
        assert (check.estimate is None) == (found.interval is None)


def test_the_thresholds_are_those_of_the_spec_and_the_margin_used(findings: Findings) -> None:
    printed = report.thresholds(findings)
    assert printed["membership_margin"] == SPEC.thresholds.membership_margin
    assert printed["membership_margin_used"] == findings.membership.margin
    assert isinstance(printed["settings"], dict)
    assert printed["settings"]["relearners"] == ["sgd"]


def test_a_number_that_json_lacks_makes_no_report(findings: Findings) -> None:
    broken = replace(findings.measures["unlearned"], ua=Interval(float("nan"), 0.0, 0.0))
    with pytest.raises(ValidationError):
        report.audit(replace(findings, measures={**findings.measures, "unlearned": broken}))


def test_what_is_built_reads_back_as_it_was(findings: Findings) -> None:
    section = report.audit(findings)
    assert Audit.model_validate_json(section.model_dump_json(exclude_unset=True)) == section
