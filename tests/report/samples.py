"""Reports that look like real ones, drawn from random numbers: test data, never a measurement."""

import hashlib
from typing import Literal

import numpy as np

from tests.report.sample_audit import Json, estimate, sample_audit

Verdict = Literal["verified", "inconclusive", "failed"]
VERDICTS: tuple[Verdict, ...] = ("verified", "inconclusive", "failed")

SENTENCES = {
    "verified": "The influence of the {n} on the model was reduced below the thresholds fixed before the run, under the "
    "{k} membership attacks and the relearning attack listed here, while its accuracy on other data was kept.",
    "inconclusive": "The attacks found no trace of the {n}, but with this few samples the intervals are too wide to "
    "tell a small remaining influence from none.",
    "failed": "The {n} can still be told from data the model never saw, so the new weights were not published.",
}


def sample_report(
    *, verdict: Verdict = "verified", forgotten: int = 150, reference: bool = False, classes: int = 10, seed: int = 0
) -> Json:
    """A whole report with that verdict on that many forgotten samples."""
    random = np.random.default_rng(seed)
    audit = sample_audit(
        random, verdict=verdict, forgotten=forgotten, held_out=1334, reference=reference, classes=classes
    )
    return {
        "schema": "https://expunge.dev/schemas/report/v1",
        "report_id": f"0197f3a2-5b1c-7d40-9c1e-{seed:012d}",
        "created_at": "2026-03-14T09:31:07Z",
        "asked": {
            "requests": 1 if forgotten < 100 else 12,
            "samples": forgotten,
            "samples_previously_forgotten": 40,
            "manifest_root": _digest("manifest"),
            "regulation": ["gdpr"] if forgotten < 100 else ["gdpr", "ccpa"],
            "received_at": "2026-03-02T16:20:00Z",
            "due_at": "2026-04-02T16:20:00Z",
        },
        "model": {
            "name": "sample-digits",
            "dataset": "sample-mnist",
            "workload": "examples.digits:workload",
            "parameters": 421_642,
            "version_before": 1,
            "version_after": 2,
            "weights_before_sha256": _digest("before"),
            "weights_after_sha256": _digest("after"),
            "reference": {"version": 3, "weights_sha256": _digest("retrained")} if reference else None,
        },
        "method": _method(verdict),
        "timeline": _timeline(forgotten),
        "thresholds": {
            "membership_margin": 0.1,
            "relearn_ratio_minimum": 0.8,
            "remaining_accuracy_drop_points": 2.0,
            "confidence": 0.9,
            "settings": {"confidence": 0.95, "replicates": 1000, "relearners": ["sgd", "adam"], "relearn_limit": 3.0},
        },
        "verdict": _verdict(verdict, forgotten, audit),
        "audit": audit,
        "timings": {
            "load": 0.84,
            "unlearn": 4.37,
            "audit_membership": 2.91,
            "audit_relearn": 3.64,
            "report": 0.12,
            "publish": 0.05,
            "setup": {"membership_models": 1.22, "neighbours": 0.31},
            "retrain_estimate": {"seconds": 61.4, "source": "recorded training time × remaining share"},
        },
        "limits": [
            "It does not show that no other attack could find a trace: only the attacks listed here were run.",
            "It does not cover copies of the model, its predictions or its training data that left the service before.",
            f"With {forgotten} forgotten samples, effects smaller than the widths of the intervals can not be seen.",
            "It speaks of the weights with the SHA-256 above and of no others.",
        ],
    }


def _digest(word: str) -> str:
    return hashlib.sha256(f"sample {word}".encode()).hexdigest()


def _method(verdict: Verdict) -> Json:
    attempts = [{"attempt": 1, "method": "ltu", "verdict": verdict, "seconds": 4.37}]
    if verdict == "failed":
        attempts += [{"attempt": 2, "method": "ieu", "verdict": None, "seconds": 1.02}]
    return {
        "kind": "ltu",
        "parameters": {
            "meta_step": 0.01,
            "learning_rate": 0.002,
            "remaining_share": 0.3,
            "second_order": True,
            "epochs": None,
        },
        "origin": "policy",
        "steps": 24,
        "stopped_because": "budget" if verdict == "failed" else "matched",
        "attempts": attempts,
    }


def _timeline(forgotten: int) -> list[Json]:
    rows = [
        ("2026-03-02T16:20:00Z", "asked", "The first person asked to be erased."),
        ("2026-03-14T09:14:30Z", "request.received", f"A request was received; {forgotten} samples matched."),
        ("2026-03-14T09:30:00Z", "job.frozen", "The list of samples was frozen at the cut-off."),
        ("2026-03-14T09:30:02Z", "job.claimed", "Attempt 1 started with method ltu."),
        ("2026-03-14T09:30:59Z", "job.verifying", "The audit started."),
        ("2026-03-14T09:31:07Z", "job.audited", "The audit ended."),
    ]
    return [{"at": at, "kind": kind, "text": text} for at, kind, text in rows]


def _verdict(verdict: Verdict, forgotten: int, audit: Json) -> Json:
    passed = {"verified": True, "inconclusive": None, "failed": False}[verdict]
    attacks, ratio = audit["membership"]["attacks"], audit["relearn"]["ratio_to_control"]
    plural = "1 forgotten sample" if forgotten == 1 else f"{forgotten:,} forgotten samples"
    findings: list[tuple[str, bool | None, str, Json | None]] = [
        (
            "control_remembers",
            True,
            "The same attacks do find the samples in the original model.",
            attacks[0]["original"]["auc"],
        ),
        (
            "membership_matched",
            passed,
            "Attacks tell the forgotten samples from held-out ones no better, and no worse, than a coin toss.",
            attacks[0]["unlearned"]["auc"],
        ),
        (
            "relearn_delay",
            passed,
            "They take about as long to learn again as data never seen.",
            estimate(ratio, 0.09, 9.0),
        ),
        ("changed", True, "Weights and predictions did change.", None),
        ("utility_kept", True, "Accuracy on the remaining samples fell by less than allowed.", estimate(0.5, 0.3)),
    ]
    return {
        "value": verdict,
        "sentence": SENTENCES[verdict].format(n=plural, k=5),
        "findings": [
            {"code": code, "passed": ok, "text": text} | (numbers or {"value": None, "low": None, "high": None})
            for code, ok, text, numbers in findings
        ],
        "warnings": ["Fewer than 30 samples were forgotten: the intervals are wide."] if forgotten < 30 else [],
    }
