"""What a report holds: who asked what of which model, how it was done, what was found and what that does not show."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue
from pydantic.dataclasses import dataclass

from service.report.evidence import Audit
from service.report.fields import STRICT, Count, Digest, Moment, Name, Number, Seconds, Text, VerdictValue

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
