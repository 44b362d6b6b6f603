"""The audit report as one typed document: its sections, its canonical JSON, and its JSON Schema."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field, JsonValue, ValidationError

from report.canonical import NotCanonical, canonical_json
from report.evidence import Audit, Count, Digest, Estimate, Moment, Name, Number, Seconds, Section, Text, VerdictValue

SCHEMA_ID: Final = "https://expunge.dev/schemas/report/v1"

S = TypeVar("S", bound=Section)


class InvalidReport(Exception):
    """The content does not follow the report's schema. `faults` has a line for each fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(f"not a valid report: {len(faults)} faults, the first ones: {'; '.join(faults[:5])}")
        self.faults = faults


class Asked(Section):
    """What was asked, in counts and commitments: never a sample's ID."""

    requests: Count
    samples: Count
    subjects: Count | None = None
    """How many people the requests name whose samples are among these; left out if no request names a person."""
    samples_previously_forgotten: Count
    manifest_root: Digest
    """Root of the Merkle tree (RFC 6962) over the forgotten samples, each with its own salt."""
    subjects_root: Digest | None = None
    """The same over these people; left out if no request names a person."""
    regulation: tuple[Name, ...]
    received_at: Moment | None = None
    """When the first of these requests was received."""
    due_at: Moment | None = None
    """When the first of them is due."""


class Reference(Section):
    """A version that the operator registered as trained on the remaining samples only."""

    version: Count
    weights_sha256: Digest


class Model(Section):
    """The model, and its weights before and after."""

    name: Name
    dataset: Name
    workload: Name
    parameters: Count
    version_before: Count
    version_after: Count
    weights_before_sha256: Digest
    weights_after_sha256: Digest
    reference: Reference | None = None
    """The retrained model with which the result was compared, if there was one."""


class Attempt(Section):
    """One run of one method. The verdict is null if the run ended before its audit."""

    attempt: Count
    method: Name
    verdict: VerdictValue | None
    seconds: Seconds


class Origin(StrEnum):
    """Who chose the method."""

    REQUEST = "request"
    POLICY = "policy"


class StopReason(StrEnum):
    """Why the method stopped."""

    MATCHED = "matched"
    """The forgotten samples looked like held-out ones."""
    BUDGET = "budget"
    """It had taken all its steps."""
    UTILITY = "utility"
    """Accuracy was about to fall below what is allowed."""
    COMPLETED = "completed"
    """The method ran to its end; it has no stopping criterion."""


class Method(Section):
    """The method of the published attempt, and every attempt of the job."""

    kind: Name
    parameters: dict[str, JsonValue]
    origin: Origin
    steps: Count
    stopped_because: StopReason
    attempts: tuple[Attempt, ...]


class TimelineEvent(Section):
    """An event of the job, and its time."""

    at: Moment
    kind: Name
    text: Text


class Finding(Section):
    """One check of the verdict. `passed` is null if the check cannot decide; the numbers are null if there are none.

    `low` and `high` are the ends of the value's interval; of the reference test (codes with `reference`), the range of models that
    never saw the samples.
    """

    code: Name
    passed: bool | None
    text: Text
    value: Number | None
    low: Number | None
    high: Number | None

    @property
    def estimate(self) -> Estimate | None:
        """The three numbers, if it has them."""
        if self.value is None or self.low is None or self.high is None:
            return None
        return Estimate(value=self.value, low=self.low, high=self.high)


class InconclusiveReason(StrEnum):
    """Why a verdict is inconclusive."""

    TOO_FEW_SAMPLES = "too_few_samples"
    """On so few samples, a model that never saw them would hardly be verified either."""
    NO_POWER = "no_power"
    """The attacks do not recognise the samples on the original model either."""
    OPEN = "open"
    """An interval spans its threshold, or two tests disagree: another method, or more data, may decide."""


class Verdict(Section):
    """The result of the audit."""

    value: VerdictValue
    reason: InconclusiveReason | None = None
    """Of an inconclusive verdict."""
    sentence: Text
    findings: tuple[Finding, ...]
    warnings: tuple[Text, ...]


class Exactness(Section):
    """Why the result is exact by construction, whatever its audit found."""

    statement: Text
    causes: tuple[Text, ...]
    """What may have kept the audit from verifying an exact result; empty for a verified one."""


class Certificate(Section):
    """A proof, under assumptions, that the new weights are hard to tell from weights that never knew the forget set."""

    epsilon: Number
    delta: Number
    noise: Number
    """Standard deviation of the noise that each step added, in the units of the outputs."""
    statement: Text
    assumptions: tuple[Text, ...]


class RetrainEstimate(Section):
    """How long retraining without the forget set would take, and where the estimate comes from."""

    seconds: Seconds
    source: Text


class Timings(Section):
    """Seconds of the stages that are over when the report is written."""

    load: Seconds
    unlearn: Seconds
    audit_membership: Seconds
    audit_relearn: Seconds
    setup: dict[str, Seconds]
    """Parts of the method's set-up, included in `unlearn`."""
    retrain_estimate: RetrainEstimate | None


class Report(Section):
    """The audit report of one job."""

    schema_id: Annotated[Literal["https://expunge.dev/schemas/report/v1"], Field(alias="schema")]
    report_id: Name
    created_at: Moment
    asked: Asked
    model: Model
    method: Method
    timeline: tuple[TimelineEvent, ...]
    thresholds: dict[str, JsonValue]
    """Every threshold of the verdict, fixed before the run, and the settings of the audit."""
    verdict: Verdict
    exactness: Exactness | None = None
    """Null for a method that approximates retraining."""
    certificate: Certificate | None = None
    """Null for a method that certifies nothing."""
    audit: Audit
    timings: Timings
    limits: Annotated[tuple[Text, ...], Field(min_length=1)]
    """What this report does not show."""


@dataclass(frozen=True, slots=True)
class Document:
    """A report with its canonical JSON (RFC 8785): the bytes that are stored, served, hashed and signed.

    The bytes are kept beside the typed report, because a later version may have written fields that this one does not know.
    """

    report: Report
    content: bytes

    @property
    def sha256(self) -> str:
        """SHA-256 of the content, as hex."""
        return hashlib.sha256(self.content).hexdigest()


def write(report: Report) -> Document:
    """Serialise a report. Optional fields that were not given are left out. Raises InvalidReport."""
    return Document(report, _canonical(report.model_dump(mode="json", exclude_unset=True)))


def read(stored: Mapping[str, object]) -> Document:
    """Read a report from its JSON, in any key order. Ignores unknown fields. Raises InvalidReport."""
    content = _canonical(stored)
    return Document(_parse(Report, content), content)


def read_audit(stored: object) -> Audit:
    """Read a report's `audit` from its JSON. Ignores unknown fields. Raises InvalidReport."""
    return _parse(Audit, json.dumps(stored).encode())


def _canonical(content: object) -> bytes:
    try:
        return canonical_json(content)
    except NotCanonical as error:
        raise InvalidReport([str(error)]) from error


def _parse(kind: type[S], content: bytes) -> S:
    try:
        return kind.model_validate_json(content, extra="ignore")
    except ValidationError as error:
        raise InvalidReport(faults(error)) from error


def faults(error: ValidationError) -> list[str]:
    """Describe what is wrong, a line for each fault: the section and JSON pointer, then the rule. Quotes no value."""
    return [
        f"{error.title}/{'/'.join(map(str, fault['loc']))}: {fault['msg']}"
        for fault in error.errors(include_input=False)
    ]


def json_schema() -> dict[str, JsonValue]:
    """Generate the JSON Schema 2020-12 of reports; schema.json holds its text."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **Report.model_json_schema(),
    }


@cache
def published_schema() -> bytes:
    """Read schema.json."""
    return files("report").joinpath("schema.json").read_bytes()


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
