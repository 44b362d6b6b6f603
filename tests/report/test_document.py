import json
from copy import deepcopy

import jsonschema_rs
import pytest

from report.document import InvalidReport, json_schema, published_schema, read, validate
from tests.report.sample_audit import Json
from tests.report.samples import VERDICTS, Verdict, sample_report

PUBLISHED = json.loads(published_schema())


@pytest.fixture
def report() -> Json:
    return sample_report()


def test_the_published_schema_is_the_one_that_the_code_reads_by() -> None:
    assert json_schema() == PUBLISHED, "write it anew: python -m report.document > service/report/schema.json"


def test_the_published_schema_is_itself_valid() -> None:
    jsonschema_rs.meta.validate(PUBLISHED)


@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize("forgotten", [1, 10, 100, 1000])
@pytest.mark.parametrize("reference", [False, True])
def test_reports_of_every_size_and_verdict_follow_the_published_schema(
    verdict: Verdict, forgotten: int, reference: bool
) -> None:
    report = sample_report(verdict=verdict, forgotten=forgotten, reference=reference)
    jsonschema_rs.validator_for(PUBLISHED).validate(report)
    validate(report)


def test_an_unknown_field_is_a_fault_to_validate_and_passed_over_when_read(report: Json) -> None:
    report["audit"]["samples"]["unheard_of"] = 1
    with pytest.raises(InvalidReport) as caught:
        validate(report)
    assert caught.value.faults[0].startswith("/audit/samples/unheard_of: ")
    assert not jsonschema_rs.validator_for(PUBLISHED).is_valid(report)
    assert read(report).audit.samples.forget == 150


def test_a_missing_field_is_named_by_its_pointer(report: Json) -> None:
    del report["verdict"]["sentence"]
    with pytest.raises(InvalidReport, match="/verdict/sentence: "):
        read(report)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_lacks_is_refused(report: Json, number: float) -> None:
    report["audit"]["relearn"]["ratio_to_control"] = number
    with pytest.raises(InvalidReport):
        read(report)


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        (("audit", "membership", "roc", "original", "tpr"), [0.0, 0.5, 1.0]),
        (("audit", "relearn", "curves", "control", "loss"), [0.1]),
        (("audit", "membership", "losses", "unlearned", "forget"), [1.0]),
        (("audit", "membership", "losses", "bins"), [0.0] * 31),
    ],
)
def test_lists_that_do_not_fit_each_other_are_refused(
    report: Json, pointer: tuple[str, ...], value: list[float]
) -> None:
    inner = report
    for key in pointer[:-1]:
        inner = inner[key]
    inner[pointer[-1]] = value
    with pytest.raises(InvalidReport, match="/".join(pointer[:3])):
        read(report)


def test_reading_leaves_the_report_as_it_was(report: Json) -> None:
    before = deepcopy(report)
    read(report)
    assert report == before
