"""The measured half of a report that looks like a real one, drawn from random numbers: test data, never a measurement."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Json = dict[str, Any]
Losses = NDArray[np.float64]

# How far, from 0 (still remembered) to 1 (like held-out data), each outcome got.
FORGOTTEN = {"verified": 1.0, "inconclusive": 0.95, "failed": 0.35}


def sample_audit(
    random: np.random.Generator, *, verdict: str, forgotten: int, held_out: int, reference: bool, classes: int
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


def estimate(value: float, spread: float, top: float = 1.0) -> Json:
    low, high = max(0.0, value - spread), min(top, value + spread)
    return {"value": round(float(value), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def _measures(ua: float, ra: float, ta: float, mi: float, forgotten: int) -> Json:
    wide = 98.0 / math.sqrt(forgotten + 4) / 2
    return {
        "ua": estimate(ua, wide, 100),
        "ra": estimate(ra, 0.3, 100),
        "ta": estimate(ta, 1.0, 100),
        "mi_salun": estimate(mi, wide, 100),
        "mi_corrected": estimate(mi * 3.9, wide, 100),
    }


def _scores(members: Losses, others: Losses) -> Json:
    ranks = np.searchsorted(np.sort(others), members)
    auc = 1 - ranks.mean() / len(others)
    wide = 0.56 / math.sqrt(len(members))
    fpr, tpr = _rates(members, others)
    return {
        "auc": estimate(auc, wide),
        "balanced_accuracy": estimate(float(np.max((tpr + 1 - fpr) / 2)), wide),
        "tpr_at_1_fpr": estimate(float(np.interp(0.01, fpr, tpr)), wide),
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
