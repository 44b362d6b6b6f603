"""Reports that look like real ones, drawn from random numbers: test data, never a measurement."""

import hashlib
import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Json = dict[str, Any]
Verdict = Literal["verified", "inconclusive", "failed"]
VERDICTS: tuple[Verdict, ...] = ("verified", "inconclusive", "failed")
Losses = NDArray[np.float64]

# How far, from 0 (still remembered) to 1 (like held-out data), each outcome got.
FORGOTTEN = {"verified": 1.0, "inconclusive": 0.95, "failed": 0.35}
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
    audit = _audit(random, verdict=verdict, forgotten=forgotten, held_out=1334, reference=reference, classes=classes)
    return {
        "schema": "https://expunge.dev/schemas/report/v1",
        "report_id": f"0197f3a2-5b1c-7d40-9c1e-{seed:012d}",
        "created_at": "2026-03-14T09:31:07Z",
        "asked": {
            "requests": 1 if forgotten < 100 else 12,
            "samples": forgotten,
            "samples_previously_forgotten": 40,
            "manifest_sha256": _digest("manifest"),
            "regulation": ["gdpr"] if forgotten < 100 else ["gdpr", "ccpa"],
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
        },
        "method": _method(verdict),
        "timeline": _timeline(forgotten),
        "thresholds": {
            "membership_auc_equivalence": [0.4, 0.6],
            "relearn_ratio_minimum": 0.8,
            "remaining_accuracy_drop_points": 2.0,
            "confidence": 0.95,
            "fixed_at": "2026-03-14T09:30:01Z",
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
            _estimate(ratio, 0.09, 9.0),
        ),
        ("changed", True, "Weights and predictions did change.", None),
        ("utility_kept", True, "Accuracy on the remaining samples fell by less than allowed.", _estimate(0.5, 0.3)),
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


def _audit(
    random: np.random.Generator, *, verdict: Verdict, forgotten: int, held_out: int, reference: bool, classes: int
) -> Json:
    share = FORGOTTEN[verdict]
    remembered, unseen, members = (
        random.gamma(0.35, 0.12, forgotten),
        random.gamma(0.6, 0.9, held_out),
        random.gamma(0.35, 0.12, 2850),
    )
    after = np.where(random.random(forgotten) < share, random.gamma(0.6, 0.9, forgotten), remembered)
    names = ("loss", "confidence", "entropy", "modified_entropy", "margin")
    noise = {name: np.exp(random.normal(0, 0.2, forgotten)) for name in names}
    return {
        "samples": {"forget": forgotten, "remain": 2850, "held_out": held_out, "test": 1000},
        "measures": {
            "original": _measures(0.3, 99.6, 97.4, 1.2, forgotten),
            "unlearned": _measures(0.3 + 2.6 * share, 99.1, 96.9, 11.4, forgotten),
            "reference": _measures(2.8, 99.5, 97.2, 12.1, forgotten) if reference else None,
        },
        "membership": {
            "attacks": [
                {
                    "name": name,
                    "original": _scores(remembered * noise[name], unseen),
                    "unlearned": _scores(after * noise[name], unseen),
                }
                for name in names
            ],
            "roc": {"attack": "loss", "original": _roc(remembered, unseen), "unlearned": _roc(after, unseen)},
            "losses": _losses(remembered, after, unseen, members),
        },
        "relearn": _relearn(share, reference),
        "utility": {
            "per_class": [_class(str(name), random) for name in range(classes)],
            "agreement": 0.981,
            "jensen_shannon": 0.0034,
        },
        "change": {"weight_distance_relative": 0.031, "prediction_change": 0.019, "no_op": False, "collapsed": False},
    }


def _class(name: str, random: np.random.Generator) -> Json:
    original = min(100.0, 98.2 + random.normal(0, 0.9))
    return {
        "class": name,
        "original": round(original, 1),
        "unlearned": round(min(100.0, original - random.gamma(2, 0.3)), 1),
    }


def _estimate(value: float, spread: float, top: float = 1.0) -> Json:
    low, high = max(0.0, value - spread), min(top, value + spread)
    return {"value": round(float(value), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def _measures(ua: float, ra: float, ta: float, mi: float, forgotten: int) -> Json:
    wide = 98.0 / math.sqrt(forgotten + 4) / 2
    return {
        "ua": _estimate(ua, wide, 100),
        "ra": _estimate(ra, 0.3, 100),
        "ta": _estimate(ta, 1.0, 100),
        "mi_salun": _estimate(mi, wide, 100),
        "mi_corrected": _estimate(mi * 3.9, wide, 100),
    }


def _scores(members: Losses, others: Losses) -> Json:
    ranks = np.searchsorted(np.sort(others), members)
    auc = 1 - ranks.mean() / len(others)
    wide = 0.56 / math.sqrt(len(members))
    fpr, tpr = _rates(members, others)
    return {
        "auc": _estimate(auc, wide),
        "balanced_accuracy": _estimate(float(np.max((tpr + 1 - fpr) / 2)), wide),
        "tpr_at_1_fpr": _estimate(float(np.interp(0.01, fpr, tpr)), wide),
        "tpr_at_01_fpr": None,
    }


def _rates(members: Losses, others: Losses) -> tuple[Losses, Losses]:
    cuts = np.quantile(np.concatenate([members, others]), np.linspace(0, 1, 201))
    fpr = np.concatenate([[0.0], [(others < cut).mean() for cut in cuts[1:-1]], [1.0]])
    tpr = np.concatenate([[0.0], [(members < cut).mean() for cut in cuts[1:-1]], [1.0]])
    return fpr, tpr


def _roc(members: Losses, others: Losses) -> Json:
    fpr, tpr = _rates(members, others)
    return {"fpr": [round(float(x), 5) for x in fpr], "tpr": [round(float(y), 5) for y in tpr]}


def _losses(remembered: Losses, after: Losses, unseen: Losses, members: Losses) -> Json:
    bins = np.linspace(0, 3, 31)

    def density(values: Losses) -> list[float]:
        return [round(float(y), 5) for y in np.histogram(np.clip(values, 0, 3), bins, density=True)[0]]

    held_out, remain = density(unseen), density(members)
    return {
        "bins": [round(float(edge), 3) for edge in bins],
        "original": {"forget": density(remembered), "held_out": held_out, "remain": remain},
        "unlearned": {"forget": density(after), "held_out": held_out, "remain": remain},
    }


def _relearn(share: float, reference: bool) -> Json:
    steps = range(61)

    def curve(start: float, rate: float) -> Json:
        return {"steps": list(steps), "loss": [round(0.02 + start * math.exp(-rate * step), 4) for step in steps]}

    curves = {
        "original": curve(0.02, 0.05),
        "unlearned": curve(0.55 * share, 0.061),
        "control": curve(0.6, 0.06),
        "reference": curve(0.57, 0.059) if reference else None,
    }
    delays = {name: one and _delay(one["loss"]) for name, one in curves.items()}
    took = {name: one["steps"] for name, one in delays.items() if one}
    return {
        "relearner": "sgd",
        "learning_rate": 0.01,
        "max_steps": 60,
        "delta": 0.05,
        "curves": curves,
        "delay": delays,
        "ratio_to_control": round(took["unlearned"] / took["control"], 3),
        "normalised": round(took["unlearned"] / took["reference"], 3) if reference else None,
    }


def _delay(losses: list[float]) -> Json:
    return {"steps": next(step for step, loss in enumerate(losses) if loss <= 0.09), "censored": False}
