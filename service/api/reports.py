"""Audit reports in each form, their signed statements, and proofs of inclusion."""

import json
from typing import Self
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ledger.errors import UnknownReport
from ledger.jobs.jobs import StoredReport, get_report
from ledger.registry.access import Scope
from ledger.sample_ids import sample_digest
from ledger.sample_key import check_sample_key
from ledger.transparency.commitments import prove_inclusion, prove_subject
from report.canonical import canonical_json
from report.document import published_schema, read
from service.http.authentication import ApiRoute, ReportReader, require
from service.http.caching import preferred
from service.http.fields import SampleID, Subject
from service.http.openapi import problems
from service.http.sessions import Ledger


class InclusionAsked(BaseModel):
    """Which sample, or which person, is to be shown; in a body, because IDs are personal data and URLs are logged."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"type": "string"}, other: {"type": "null"}}}
                for name, other in (("sample_id", "subject"), ("subject", "sample_id"))
            ]
        },
    )

    sample_id: SampleID | None = Field(
        default=None, description="The sample's ID, as the dataset has it.", examples=["digit-0017"]
    )
    subject: Subject | None = Field(
        default=None, description="Or the person, as in the request that asked for the erasure.", examples=["user-4711"]
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.sample_id is None) == (self.subject is None):
            raise PydanticCustomError("inclusion", "Name either sample_id or subject", {"field": "sample_id"})
        return self


class SubjectInclusionBody(BaseModel):
    """A proof that one person is among those who asked by name for what a report is about, to be handed to this person.

    The commitment is SHA-256(opening, subject), the leaf SHA-256(0x00, salt, commitment); the path leads to the root of `people` in
    the signed statement (RFC 6962).
    """

    type: str = Field(examples=["https://expunge.dev/proofs/subject-inclusion/v1"])
    report_id: str
    subject: str
    opening: str = Field(description="32 bytes, hex; of this person alone.")
    salt: str = Field(description="32 bytes, hex; of this leaf alone.")
    leaf_index: int
    tree_size: int = Field(description="How many people the report is about.")
    path: list[str] = Field(description="SHA-256 hex, from the leaf to the root.")


class InclusionBody(BaseModel):
    """A proof that one sample is among those that a report is about, to be handed to the person; it shows no other sample.

    The leaf is SHA-256(0x00, salt, dataset, 0x00, sample_id); the path leads to the root in the signed statement (RFC 6962).
    """

    type: str = Field(examples=["https://expunge.dev/proofs/inclusion/v1"])
    report_id: str
    dataset: str
    sample_id: str
    salt: str = Field(description="32 bytes, hex; of this leaf alone.")
    leaf_index: int
    tree_size: int = Field(description="How many samples the report is about.")
    path: list[str] = Field(description="SHA-256 hex, from the leaf to the root.")


router = APIRouter(route_class=ApiRoute, tags=["reports"])

JSON, HTML, PDF, ENVELOPE = "application/json", "text/html", "application/pdf", "application/vnd.dsse.envelope.v1+json"
SCHEMA = "application/schema+json"

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
"""The page contains its style and its pictures, has no script and loads nothing."""

_RESPONSES = problems(401, 403, 404, 422, 503)
_FORMS = {JSON: {"schema": {"type": "object"}}, HTML: {}, PDF: {}}


@router.get(
    "/reports/schema",
    summary="The JSON Schema of reports",
    response_class=Response,
    responses=problems(422)
    | {200: {"description": "JSON Schema 2020-12", "content": {SCHEMA: {"schema": {"type": "object"}}}}},
)
def get_schema() -> Response:
    """What every report's JSON follows; its `$id` is the `schema` that a report names. Needs no key."""
    return Response(published_schema(), media_type=SCHEMA)


@router.get(
    "/reports/{report_id:uuid}",
    summary="An audit report",
    response_class=Response,
    responses=_RESPONSES | {200: {"description": "The report", "content": _FORMS}},
)
def get_one_report(report_id: UUID, request: Request, caller: ReportReader, ledger: Ledger) -> Response:
    """The report as `Accept` wants it: JSON (the default), HTML or PDF.

    The JSON is canonical (RFC 8785): the SHA-256 of these bytes is the ETag, and the digest on the page and in the PDF.
    """
    form = preferred(request.headers.get("accept", ""), (JSON, HTML, PDF))
    return answer_report(get_report(ledger, tenant_id=caller.tenant_id, report_id=report_id), form)


@router.get(
    "/reports/{report_id:uuid}.html",
    summary="An audit report as a page",
    response_class=Response,
    responses=_RESPONSES | {200: {"description": "The report", "content": {HTML: {}}}},
)
def get_page(report_id: UUID, caller: ReportReader, ledger: Ledger) -> Response:
    """One self-contained page with the curves and histograms as pictures, to be read or printed."""
    return answer_report(get_report(ledger, tenant_id=caller.tenant_id, report_id=report_id), HTML)


@router.get(
    "/reports/{report_id:uuid}.pdf",
    summary="An audit report as a PDF",
    response_class=Response,
    responses=_RESPONSES | {200: {"description": "The report", "content": {PDF: {}}}},
)
def get_pdf(report_id: UUID, caller: ReportReader, ledger: Ledger) -> Response:
    """The same for the file: a tagged PDF with the canonical JSON attached."""
    return answer_report(get_report(ledger, tenant_id=caller.tenant_id, report_id=report_id), PDF)


@router.get(
    "/reports/{report_id:uuid}/statement",
    summary="The signed statement of a report",
    response_class=Response,
    responses=_RESPONSES
    | {200: {"description": "A DSSE envelope", "content": {ENVELOPE: {"schema": {"type": "object"}}}}},
)
def get_statement(report_id: UUID, caller: ReportReader, ledger: Ledger) -> Response:
    """A DSSE envelope around an in-toto Statement about the new weights.

    `expunge verify` checks it offline with the keys of GET /keys. 404 if the operator does not have results signed.
    """
    return answer_report(get_report(ledger, tenant_id=caller.tenant_id, report_id=report_id), ENVELOPE)


@router.post(
    "/reports/{report_id:uuid}/inclusion",
    summary="Show one sample or one person to be among those forgotten",
    responses=problems(400, 401, 403, 404, 413, 415, 422, 503),
)
def post_inclusion(
    report_id: UUID, asked: InclusionAsked, request: Request, caller: ReportReader, ledger: Ledger
) -> InclusionBody | SubjectInclusionBody:
    """A proof that the sample, or the person, is among those that the report and its signed statement commit to.

    Hand it to the person with the statement: `expunge verify` checks both offline. Needs `requests:read` too, because the answer
    tells who was erased. 404 if this report's job did not erase the sample, or if no request of it names the person; the words are
    the same for whoever is not known.
    """
    require(caller, Scope.REQUESTS_READ)
    key = request.app.state.settings.sample_key_bytes
    check_sample_key(ledger, key)
    report = get_report(ledger, tenant_id=caller.tenant_id, report_id=report_id)
    if asked.subject is not None:
        shown = prove_subject(ledger, tenant_id=caller.tenant_id, report_id=report_id, subject=asked.subject, key=key)
        return SubjectInclusionBody.model_validate(shown.to_json())
    dataset, sample_id = read(report.body).report.model.dataset, asked.sample_id or ""
    proof = prove_inclusion(
        ledger,
        tenant_id=caller.tenant_id,
        report_id=report_id,
        dataset=dataset,
        sample_id=sample_id,
        digest=sample_digest(key, dataset, sample_id),
        key=key,
    )
    return InclusionBody.model_validate(proof.to_json())


def answer_report(report: StoredReport, form: str) -> Response:
    """Answer with a report in the form of this media type. Raises UnknownReport for the statement of an unsigned report."""
    headers = {"Vary": "Accept", "Cache-Control": "private, no-cache"}
    match form:
        case "text/html":
            from report.html import render_html

            policy = {"Content-Security-Policy": PAGE_POLICY}
            return Response(render_html(read(report.body)), headers=headers | policy, media_type=HTML)
        case "application/pdf":
            from report.pdf import render_pdf

            name = f'inline; filename="report-{report.id}.pdf"'
            return Response(
                render_pdf(read(report.body)), headers=headers | {"Content-Disposition": name}, media_type=PDF
            )
        case "application/vnd.dsse.envelope.v1+json":
            if report.statement is None:
                raise UnknownReport(f"the report {report.id} was published without a signed statement")
            name = f'inline; filename="statement-{report.id}.json"'
            return Response(
                json.dumps(report.statement), headers=headers | {"Content-Disposition": name}, media_type=ENVELOPE
            )
        case _:
            tag = {"ETag": f'"{report.sha256}"'}
            return Response(canonical_json(report.body), headers=headers | tag, media_type=JSON)
