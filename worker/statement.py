"""The statement that a worker signs about its result: an in-toto Statement, as verifier/statement.py reads it."""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ledger.canonical import canonical_json
from verifier.statement import PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE
from worker.signing import Signer

CONTROLS = ("negative_control", "positive_control")
"""How the codes of the findings begin that say whether the audit's tests can tell anything at all."""


def sign_statement(report: Mapping[str, Any], *, report_sha256: str, signer: Signer) -> dict[str, Any]:
    """Sign what a report says: a DSSE envelope around the canonical JSON of the statement."""
    return signer.envelope(PAYLOAD_TYPE, canonical_json(make_statement(report, report_sha256=report_sha256)))


def make_statement(report: Mapping[str, Any], *, report_sha256: str) -> dict[str, Any]:
    """Say about the new weights what their report says, short and without anything about a single sample."""
    asked, model, method = report["asked"], report["model"], report["method"]
    verdict, reference = report["verdict"], model["reference"]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [weights(model, number=model["version_after"], sha256=model["weights_after_sha256"])],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "report": {"id": report["report_id"], "sha256": report_sha256, "schema": report["schema"]},
            "model": {name: model[name] for name in ("name", "dataset", "workload", "version_before", "version_after")},
            "before": [weights(model, number=model["version_before"], sha256=model["weights_before_sha256"])],
            "reference": [weights(model, number=reference["version"], sha256=reference["weights_sha256"])]
            if reference
            else [],
            "manifest": {"root": asked["manifest_root"], "samples": asked["samples"], "hash": "rfc6962-sha256"},
            "requests": asked["requests"],
            "method": {name: method[name] for name in ("kind", "parameters", "origin", "steps", "stopped_because")},
            "code": {"name": "expunge", "version": version("expunge"), "sha256": code_sha256()},
            "controls": [finding for finding in verdict["findings"] if finding["code"].startswith(CONTROLS)],
            "thresholds": report["thresholds"],
            "verdict": {"value": verdict["value"], "sentence": verdict["sentence"]},
            "clock": {"signed_at": report["created_at"], "source": "the ledger's database"},
            "limits": report["limits"],
        },
    }


def weights(model: Mapping[str, Any], *, number: int, sha256: str) -> dict[str, Any]:
    """Name weights as in-toto does: a name, and digests."""
    return {"name": f"{model['name']}/versions/{number}", "digest": {"sha256": sha256}}


@cache
def code_sha256() -> str:
    """SHA-256, hex, over the Python files that made the result: the names and contents of `unlearning` and `worker`, sorted."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for package in ("unlearning", "worker") for path in (root / package).rglob("*.py")):
        content = path.read_bytes()
        digest.update(b"%b %d\n" % (path.relative_to(root).as_posix().encode(), len(content)) + content)
    return digest.hexdigest()
