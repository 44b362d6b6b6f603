"""What leaves with a model: a card for people and an entry for a bill of materials, each with the history of its erasures."""

import json
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from fastapi import APIRouter, Request, Response

from ledger.db import now
from ledger.registry.versions import History, VersionSummary, read_history
from ledger.states import VersionKind
from service.http.authentication import ApiRoute, Reader
from service.http.fields import Name
from service.http.openapi import problems
from service.http.sessions import Ledger

MARKDOWN = "text/markdown; charset=utf-8"
CYCLONEDX = "application/vnd.cyclonedx+json; version=1.6"

router = APIRouter(route_class=ApiRoute, tags=["registry"])


@router.get(
    "/models/{name}/card",
    summary="A model card with the history of erasures",
    response_class=Response,
    responses=problems(401, 403, 404, 422, 503)
    | {200: {"description": "Markdown", "content": {MARKDOWN: {"schema": {"type": "string"}}}}},
)
def get_card(name: Name, caller: Reader, ledger: Ledger) -> Response:
    """The served version: what it was trained on, and what it and its predecessors have forgotten, with the verdicts of the audits.

    Counts, dates and digests. Nothing of a person or a sample.
    """
    history = read_history(ledger, tenant_id=caller.tenant_id, model=name)
    return Response(write_card(history, now(ledger)), media_type=MARKDOWN)


@router.get(
    "/models/{name}/bom",
    summary="A bill of materials with the model",
    response_class=Response,
    responses=problems(401, 403, 404, 422, 503)
    | {200: {"description": "CycloneDX 1.6", "content": {CYCLONEDX: {"schema": {"type": "object"}}}}},
)
def get_bom(name: Name, request: Request, caller: Reader, ledger: Ledger) -> Response:
    """The served version as a machine-learning model of CycloneDX, to be merged into the bill of materials of what contains it."""
    history = read_history(ledger, tenant_id=caller.tenant_id, model=name)
    bom = make_bom(history, now(ledger), address=request.app.state.settings.public_url)
    return Response(json.dumps(bom, indent=2), media_type=CYCLONEDX)


def write_card(history: History, moment: datetime) -> str:
    """Write the card in Markdown, with the metadata block that model hubs read."""
    model, served = history.model, history.lineage[-1]
    erased = [made for made in history.lineage if made.kind is VersionKind.UNLEARNED]
    title = _inline(model.name)
    lines = [
        "---",
        "tags:",
        "- machine-unlearning",
        f"model_name: {json.dumps(model.name)}",
        "---",
        "",
        f"# {title}",
        "",
        f"Version {served.number}, as of {_day(moment)}. SHA-256 of the weights (safetensors): `{served.weights_sha256}`.",
        "",
        f"Trained on {model.training_samples:,} samples of the dataset {_inline(model.dataset)}. "
        f"{model.erased_samples:,} of them have been erased from the model since.",
        "",
        "## Erasures",
        "",
    ]
    if erased:
        lines += [
            "| version | date | made from | samples forgotten | method | verdict of the audit | report | SHA-256 of the report |",
            "|---|---|---|---|---|---|---|---|",
            *(_row(made) for made in erased),
        ]
    else:
        lines.append("None: this version is as it was trained.")
    knowing = [made for made in history.versions if made.knows_erased and made.purged_at is None]
    numbers = ", ".join(str(made.number) for made in knowing)
    lines += [
        "",
        "## Earlier versions",
        "",
        f"Versions whose weights are still stored and which know samples that were erased since: {numbers or 'none'}.",
        "",
        "## What this does not show",
        "",
        "A verdict is what an audit measured on one version: `verified`, `inconclusive` (often because the samples were too few to "
        "decide) or `failed`. It is evidence about the weights and no proof that nothing can be inferred from them. Copies of "
        "earlier versions outside of the service are not counted here.",
        "",
    ]
    return "\n".join(lines)


def _row(made: VersionSummary) -> str:
    cells = (
        made.number,
        _day(made.created_at),
        made.predecessor,
        f"{made.samples:,}",
        made.method,
        made.verdict,
        made.report_id,
        f"`{made.report_sha256}`",
    )
    return f"| {' | '.join(map(str, cells))} |"


def make_bom(history: History, moment: datetime, *, address: str | None) -> dict[str, Any]:
    """Describe the served version in CycloneDX 1.6. address: of the API, for links to the reports; without it there are none."""
    model, served = history.model, history.lineage[-1]
    reference = f"expunge:{model.id}:{served.number}"
    erased = [made for made in history.lineage if made.kind is VersionKind.UNLEARNED]
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": model.name,
        "version": str(served.number),
        "hashes": [{"alg": "SHA-256", "content": served.weights_sha256}],
        "modelCard": {"modelParameters": {"datasets": [{"type": "dataset", "name": model.dataset}]}},
        "properties": [
            {"name": "expunge:training_samples", "value": str(model.training_samples)},
            {"name": "expunge:erased_samples", "value": str(model.erased_samples)},
            *({"name": f"expunge:erasure:{made.number}", "value": _erasure(made)} for made in erased),
        ],
    }
    if address is not None and erased:
        component["externalReferences"] = [
            {
                "type": "attestation",
                "url": f"{address.rstrip('/')}/reports/{made.report_id}",
                "hashes": [{"alg": "SHA-256", "content": made.report_sha256}],
            }
            for made in erased
        ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, reference)}",
        "version": 1,
        "metadata": {
            "timestamp": moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {"components": [{"type": "application", "name": "expunge", "version": version("expunge")}]},
            "component": component,
        },
    }


def _erasure(made: VersionSummary) -> str:
    """Write an erasure as the value of a property: JSON."""
    return json.dumps(
        {
            "at": made.created_at.astimezone(UTC).isoformat(timespec="seconds"),
            "from_version": made.predecessor,
            "samples": made.samples,
            "method": made.method,
            "verdict": made.verdict,
            "report": str(made.report_id),
            "report_sha256": made.report_sha256,
        }
    )


def _day(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d}"


def _inline(name: str) -> str:
    """Write a name so that Markdown shows it as it is."""
    return "".join(f"\\{each}" if each in "\\`*_{}[]<>()#+-!|~&" else each for each in name)
