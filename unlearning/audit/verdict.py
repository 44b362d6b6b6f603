"""The verdict: what the intervals allow to be said, and no more.

A finding passes where its whole interval lies on the right side, fails where its whole interval lies on the wrong side, and
otherwise says nothing (None). `failed` as soon as one deciding finding fails, `verified` only where all of them pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unlearning.audit.change import Change
from unlearning.audit.delay import Relearning
from unlearning.audit.intervals import Interval
from unlearning.audit.membership import Attack
from unlearning.audit.spec import Thresholds

NAMES = {
    "auc": "AUC",
    "balanced_accuracy": "balanced accuracy",
    "modified_entropy": "modified entropy",
    "spread": "distance from the held-out median",
    "sgd": "SGD",
    "adam": "Adam",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One check. passed: None where the interval does not tell. deciding: whether the verdict hangs on it."""

    code: str
    passed: bool | None
    text: str
    interval: Interval | None = None
    deciding: bool = True

    def to_json(self) -> dict[str, object]:
        """The finding's part of the report."""
        numbers = self.interval.to_json() if self.interval else {"value": None, "low": None, "high": None}
        return {"code": self.code, "passed": self.passed, "text": self.text, **numbers}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """value: "verified", "inconclusive" or "failed". sentence: for a reader without statistics; claims what was measured."""

    value: str
    sentence: str
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The report's `verdict`."""
        return {
            "value": self.value,
            "sentence": self.sentence,
            "findings": [finding.to_json() for finding in self.findings],
            "warnings": list(self.warnings),
        }


def judge(findings: Sequence[Finding], *, forgotten: int, thresholds: Thresholds) -> Verdict:
    """The verdict that follows from the findings; what does not decide can only warn."""
    deciding = [finding for finding in findings if finding.deciding]
    failing = [finding.text for finding in deciding if finding.passed is False]
    open_ = [finding.text for finding in deciding if finding.passed is None]
    samples = f"{forgotten:,} forgotten sample{'' if forgotten == 1 else 's'}"
    if failing:
        value, sentence = "failed", f"The audit of the {samples} failed: {_listed(failing)}."
    elif open_ or not any(finding.code.startswith("relearn_delay") for finding in deciding):
        open_ = open_ or ["no relearning was measured"]
        value = "inconclusive"
        sentence = (
            f"The audit can neither confirm nor rule out that the model still knows the {samples}: {_listed(open_)}."
        )
    else:
        value = "verified"
        passed = [finding.text for finding in deciding if finding.code.startswith(("membership", "relearn"))]
        sentence = (
            f"Within the thresholds fixed beforehand and at {thresholds.confidence:.0%} confidence, the tests that were run "
            f"found the {samples} to be like data that the model never saw: {_listed(passed)}."
        )
    warnings = tuple(f.text[0].upper() + f.text[1:] + "." for f in findings if not f.deciding and f.passed is not True)
    return Verdict(value=value, sentence=sentence, findings=tuple(findings), warnings=warnings)


def membership_findings(
    original: Mapping[str, Attack],
    unlearned: Mapping[str, Attack],
    *,
    reference: Mapping[str, Attack] | None,
    thresholds: Thresholds,
) -> list[Finding]:
    """The negative control, the test itself, and the positive control where there is a retrained model.

    A statistic is sensitive where it tells the original's forget set from held-out data, with its whole interval outside the
    margin. Every sensitive one must lie inside the margin afterwards; where none is, all must. None may lie wholly outside.
    """
    margins = {"auc": thresholds.auc_margin, "balanced_accuracy": thresholds.accuracy_margin}
    sensitive = [key for key, found in _statistics(original) if _outside(found, margins[key[1]])]
    asked = [(key, found) for key, found in _statistics(unlearned) if not sensitive or key in sensitive]
    stray = [(key, found) for key, found in _statistics(unlearned) if _outside(found, margins[key[1]])]
    clumsy = reference is not None and any(_outside(f, margins[key[1]]) for key, f in _statistics(reference))

    strongest = max(_statistics(original), key=lambda row: _excess(row[1]) / margins[row[0][1]])
    control = Finding(
        code="negative_control_membership",
        passed=True if sensitive else None,
        text=f"on the original model the strongest membership attack ({_named(strongest)}) "
        + ("recognises the forget set, as it must" if sensitive else "does not recognise the forget set, so that membership "
           "attacks have no power here and the verdict rests on relearning"),
        interval=strongest[1],
        deciding=False,
    )  # fmt: skip
    worst = max(stray or asked, key=lambda row: _excess(row[1]) / margins[row[0][1]])
    inside = all(_inside(found, margins[key[1]]) for key, found in asked)
    passed = (None if clumsy else False) if stray else inside or None
    margin = margins[worst[0][1]]
    if stray:
        side = "still look like members" if worst[1].value > 0.5 else "look less known than data never seen"
        text = f"forgotten samples {side} ({_named(worst)}, outside 0.5 ± {margin:g})"
    elif inside:
        text = f"membership attacks cannot tell them from held-out data ({_named(worst)}, inside 0.5 ± {margin:g})"
    else:
        text = f"membership attacks leave it open ({_named(worst)}, not wholly inside 0.5 ± {margin:g})"
    findings = [control, Finding(code="membership_matched", passed=passed, text=text, interval=worst[1])]
    if reference is not None:
        said = "fails the membership test too, so a failure cannot be blamed on the unlearning" if clumsy else (
            "does not fail the membership test"
        )  # fmt: skip
        findings.append(
            Finding(code="positive_control", passed=not clumsy, text=f"the retrained model {said}", deciding=False)
        )
    return findings


def relearn_findings(relearning: Relearning, *, thresholds: Thresholds) -> list[Finding]:
    """Does the forget set take as long as data never seen, and does the original, as it must, not?"""
    code, name = f"relearn_delay_{relearning.kind}", NAMES[relearning.kind]
    found, control = relearning.ratio, relearning.original_ratio
    if found is None or control is None:
        text = f"relearning with {name} could not be measured (held-out data are no harder for the original, or a run diverged)"
        return [Finding(code=code, passed=None, text=text)]
    if relearning.control_delay < thresholds.control_steps or not control.high < thresholds.relearn_ratio:
        text = (
            f"relearning with {name} has no power: the control needs {relearning.control_delay:.0f} steps and the original "
            f"{relearning.original.delay}"
        )
        return [Finding(code=code, passed=None, text=text, interval=found)]
    passed = True if found.low >= thresholds.relearn_ratio else False if found.high < thresholds.relearn_ratio else None
    said = f"{found.value:.2f} times as long as learning new data (interval {found.low:.2f} to {found.high:.2f}"
    words = {True: "at least", False: "less than", None: "which may be less than"}
    text = f"relearning them with {name} takes {said}, {words[passed]} {thresholds.relearn_ratio:.2g})"
    findings = [Finding(code=code, passed=passed, text=text, interval=found)]
    if found.low > thresholds.relearn_excess:
        text = f"relearning them with {name} takes {said}), which is a mark of damage rather than of forgetting"
        findings.append(
            Finding(code=f"relearn_excess_{relearning.kind}", passed=False, text=text, interval=found, deciding=False)
        )
    return findings


def change_findings(change: Change) -> list[Finding]:
    """Was anything done at all, and is anything left?"""
    moved = f"weights moved by {change.weight_distance_relative:.2g}, predictions by {change.prediction_change:.2g}"
    left = (
        "the model does more than guess"
        if not change.collapsed
        else "the model has collapsed: it does little but guess"
    )
    return [
        Finding(
            code="not_a_no_op",
            passed=not change.no_op,
            text=f"nothing was done to the model ({moved})" if change.no_op else f"the model was changed ({moved})",
        ),
        Finding(
            code="not_collapsed",
            passed=not change.collapsed,
            text=left if change.finite else "the model no longer gives finite numbers",
        ),
    ]


def utility_findings(
    before: Mapping[str, Interval], after: Mapping[str, Interval], *, thresholds: Thresholds
) -> list[Finding]:
    """Accuracy lost on "ra" and "ta", in points: a warning, never a reason to pass or fail."""
    rows = []
    for code, name in (("ra", "remaining"), ("ta", "test")):
        lost = before[code].value - after[code].value
        kept = lost <= thresholds.utility_drop
        text = f"accuracy on the {name} data went from {before[code].value:.1f} % to {after[code].value:.1f} %"
        rows.append(Finding(code=f"utility_{code}", passed=kept, text=text, interval=after[code], deciding=False))
    return rows


def _statistics(attacks: Mapping[str, Attack]) -> list[tuple[tuple[str, str], Interval]]:
    return [((name, kind), found) for name, attack in attacks.items() for kind, found in attack.deciding.items()]


def _named(row: tuple[tuple[str, str], Interval]) -> str:
    (attack, kind), found = row
    return (
        f"{NAMES[kind]} of the {NAMES.get(attack, attack)} attack {found.value:.2f}, interval {found.low:.2f} to "
        f"{found.high:.2f}"
    )


def _excess(found: Interval) -> float:
    return max(found.high - 0.5, 0.5 - found.low)


def _inside(found: Interval, margin: float) -> bool:
    return found.within(0.5 - margin, 0.5 + margin)


def _outside(found: Interval, margin: float) -> bool:
    return found.outside(0.5 - margin, 0.5 + margin)


def _listed(texts: Sequence[str]) -> str:
    return "; ".join(texts)
