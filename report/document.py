"""What can be wrong with a report.

ReportError
└── InvalidReport    what is stored is not a report of this schema: ours to fix, never the caller's
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import Field, JsonValue, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from report.canonical import NotCanonical, canonical_json
from report.evidence import STRICT, Audit, Count, Digest, Moment, Name, Number, Seconds, Text, VerdictValue


class ReportError(Exception):
    """Base of the errors of this package."""


class InvalidReport(ReportError):
    """The JSON does not follow the report's schema; `faults` has a line each: JSON pointer, what is wrong."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(f"not a valid report: {len(faults)} faults, the first ones: {'; '.join(faults[:5])}")
        self.faults = faults


SCHEMA_ID = "https://expunge.dev/schemas/report/v1"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Asked:
    """What was asked, in counts and commitments: never a sample's ID."""

    requests: Count
    samples: Count
    samples_previously_forgotten: Count
    manifest_root: Digest
    """The root of the Merkle tree (RFC 6962) over the forgotten samples, each under a salt of its own."""
    regulation: list[Name]
    received_at: Moment | None = None
    """When the first of these requests was received."""
    due_at: Moment | None = None
    """When the first of them is due."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Reference:
    """A version that the operator registered as trained on the remaining samples alone."""

    version: Count
    weights_sha256: Digest


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Model:
    """Which model, and which weights before and after."""

    name: Name
    dataset: Name
    workload: Name
    parameters: Count
    version_before: Count
    version_after: Count
    weights_before_sha256: Digest
    weights_after_sha256: Digest
    reference: Reference | None = None
    """The model that the result was held against, where there was one."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Attempt:
    """One run of one method; the verdict is null where the run ended before its audit."""

    attempt: Count
    method: Name
    verdict: VerdictValue | None
    seconds: Seconds


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Method:
    """How it was done: the published attempt's method and every attempt of the job."""

    kind: Name
    parameters: dict[str, JsonValue]
    origin: Literal["default", "request", "policy"]
    steps: Count
    stopped_because: Literal["matched", "budget", "utility", "completed"]
    attempts: list[Attempt]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TimelineEvent:
    """Something that happened, and when."""

    at: Moment
    kind: Name
    text: Text


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Finding:
    """One check of the verdict; passed is null where the interval can not tell, numbers are where there are none."""

    code: Name
    passed: bool | None
    text: Text
    value: Number | None
    low: Number | None
    high: Number | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Verdict:
    """What it comes to."""

    value: VerdictValue
    sentence: Text
    findings: list[Finding]
    warnings: list[Text]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RetrainEstimate:
    """How long training again without the forget set would take, and how that is known."""

    seconds: Seconds
    source: Text


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Timings:
    """Seconds by stage; report and publish are left out by a report that is written before they end."""

    load: Seconds
    unlearn: Seconds
    audit_membership: Seconds
    audit_relearn: Seconds
    report: Seconds | None = None
    publish: Seconds | None = None
    setup: dict[str, Seconds]
    """Parts of the set-up of the method, contained in `unlearn`."""
    retrain_estimate: RetrainEstimate | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Report:
    """The audit report of one job."""

    schema: Literal["https://expunge.dev/schemas/report/v1"]
    report_id: Name
    created_at: Moment
    asked: Asked
    model: Model
    method: Method
    timeline: list[TimelineEvent]
    thresholds: dict[str, JsonValue]
    """Every number that the verdict used, fixed before the run."""
    verdict: Verdict
    audit: Audit
    timings: Timings
    limits: Annotated[list[Text], Field(min_length=1)]
    """What this report does not show."""


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)


def json_schema() -> dict[str, JsonValue]:
    """The published schema; schema.json beside this file is its text."""
    body = _adapter().json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **body}


@cache
def published_schema() -> bytes:
    """The text of schema.json."""
    return files("report").joinpath("schema.json").read_bytes()


def validate(report: Mapping[str, object]) -> None:
    """Check a report to the letter: unknown fields are faults too. Raises InvalidReport."""
    _read(report, extra="forbid")


def read(report: Mapping[str, object]) -> Report:
    """The report as typed data, for showing it; a later writer's fields are passed over. Raises InvalidReport."""
    return _read(report, extra="ignore")


def _read(report: Mapping[str, object], *, extra: str) -> Report:
    # Through the canonical bytes, so that what is read is what the digest covers and 24.0 is the integer 24.
    try:
        return _adapter().validate_json(canonical_json(report), extra=extra)  # type: ignore[arg-type]  # a literal, passed on
    except NotCanonical as error:
        raise InvalidReport([str(error)]) from error
    except ValidationError as error:
        faults = [f"/{'/'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False)]
        raise InvalidReport(faults) from error


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
