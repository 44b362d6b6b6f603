import hashlib
import json
from copy import deepcopy

import jsonschema_rs
import pytest
from pydantic import ValidationError

from report.document import InvalidReport, Report, json_schema, published_schema, read, write
from tests.report.recorded import NAMES, Json, stored

PUBLISHED = json.loads(published_schema())


@pytest.fixture
def report() -> Json:
    return stored("verified")


def test_the_published_schema_is_the_one_that_the_code_reads_by() -> None:
    assert json_schema() == PUBLISHED, "write it anew: python -m report.document > report/schema.json"


def test_the_published_schema_is_itself_valid() -> None:
    jsonschema_rs.meta.validate(PUBLISHED)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_worker_writes_follows_the_published_schema(name: str) -> None:
    jsonschema_rs.validator_for(PUBLISHED).validate(stored(name))


def test_a_later_versions_field_is_ignored_when_read_and_kept_in_the_content(report: Json) -> None:
    report["audit"]["samples"]["unheard_of"] = 1
    assert not jsonschema_rs.validator_for(PUBLISHED).is_valid(report)
    document = read(report)
    assert document.report.audit.samples.forget == report["audit"]["samples"]["forget"]
    assert json.loads(document.content) == report


def test_a_report_with_an_unknown_field_cannot_be_built(report: Json) -> None:
    built = read(report).report
    with pytest.raises(ValidationError):
        Report(**dict(built), unheard_of=1)


def test_a_report_cannot_be_changed(report: Json) -> None:
    with pytest.raises(ValidationError):
        read(report).report.report_id = "another"  # type: ignore[misc]  # it is frozen


def test_what_was_read_is_written_with_the_same_bytes(report: Json) -> None:
    once = write(read(report).report)
    assert once == read(report)


def test_the_digest_covers_the_canonical_bytes_whatever_the_order_of_keys(report: Json) -> None:
    document = read(report)
    assert document.sha256 == hashlib.sha256(document.content).hexdigest()
    assert read(dict(reversed(report.items()))).sha256 == document.sha256
    report["audit"]["samples"]["forget"] += 1
    assert read(report).sha256 != document.sha256


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
