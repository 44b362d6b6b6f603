"""The verdict: what the intervals allow to be said, and no more.

A finding passes where its whole interval lies on the right side, fails where its whole interval lies on the wrong side, and
otherwise says nothing (None). `failed` as soon as one deciding finding fails, `verified` only where all of them pass. All must
pass but any one can fail, so the interval that fails a relearning is widened for the number of relearners.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from unlearning.audit.comparison import Change
from unlearning.audit.intervals import Interval
from unlearning.audit.membership import Attack
from unlearning.audit.relearning import Relearning
from unlearning.specs.audit import Thresholds

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """value: "verified", "inconclusive" or "failed". sentence: for a reader without statistics; claims what was measured."""

    value: str
    sentence: str
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]


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
    margin: float,
) -> list[Finding]:
    """The negative control, the test itself, and the positive control where there is a retrained model.

    A statistic is sensitive where it tells the original's forget set from held-out data, with its whole interval outside
    0.5 ± margin. Every sensitive one must lie inside afterwards; where none is, all must, and that says little. None may lie
    wholly outside, nor may "spread", which can only object.
    """
    names = [name for name in original if name != "spread"]
    sensitive = [key for key, found in _statistics(original, names) if _outside(found, margin)]
    asked = [row for row in _statistics(unlearned, names) if not sensitive or row[0] in sensitive]
    stray = [row for row in _statistics(unlearned, unlearned) if _outside(row[1], margin)]
    clumsy = reference is not None and any(_outside(f, margin) for _, f in _statistics(reference, reference))
    inside = all(_inside(found, margin) for _, found in asked)
    findings = [
        _negative_control(max(_statistics(original, names), key=_reach), bool(sensitive)),
        Finding(
            code="membership_matched",
            passed=(None if clumsy else False) if stray else inside or None,
            text=_matched_text(max(stray or asked, key=_reach), bool(stray), inside, bool(sensitive), margin),
            interval=max(stray or asked, key=_reach)[1],
        ),
    ]
    if reference is not None:
        said = (
            "fails the membership test too, so a failure cannot be laid to the unlearning"
            if clumsy
            else "passes it too"
        )
        findings.append(
            Finding(
                code="positive_control",
                passed=not clumsy,
                text=f"put to the membership test, the model retrained without the forget set {said}",
                deciding=False,
            )
        )
    return findings


def _negative_control(strongest: "_Statistic", sensitive: bool) -> Finding:
    what = f"on the original model the strongest membership attack ({_named(strongest)})"
    said = "recognises the forget set, as it must"
    if not sensitive:
        said = "does not recognise the forget set: membership attacks have no power here and show nothing about the new model"
    return Finding(
        code="negative_control_membership",
        passed=sensitive or None,
        text=f"{what} {said}",
        interval=strongest[1],
        deciding=False,
    )


def _matched_text(worst: "_Statistic", stray: bool, inside: bool, sensitive: bool, margin: float) -> str:
    if stray and worst[0][0] == "spread":
        side = "lie unusually near to" if worst[1].value > 0.5 else "lie unusually far from"
        return f"forgotten samples {side} the middle of data never seen ({_named(worst)}, outside 0.5 ± {margin:.2g})"
    if stray:
        side = "still look like members" if worst[1].value > 0.5 else "look less known than data never seen"
        return f"forgotten samples {side} ({_named(worst)}, outside 0.5 ± {margin:.2g})"
    if not inside:
        return f"membership attacks leave it open ({_named(worst)}, not wholly inside 0.5 ± {margin:.2g})"
    if not sensitive:
        return "membership attacks tell neither the original's nor the new model's forgotten samples from held-out data"
    return f"membership attacks cannot tell them from held-out data ({_named(worst)}, inside 0.5 ± {margin:.2g})"


def relearn_findings(relearnings: Sequence[Relearning], *, thresholds: Thresholds) -> list[Finding]:
    """Does the forget set take as long as data never seen, and does the original, as it must, not?

    The first relearner must pass. The others have fewer controls: they must not fail, and where they leave it open they warn.
    """
    findings = []
    for place, relearning in enumerate(relearnings):
        found = _relearn_finding(relearning, thresholds)
        findings.append(found if place == 0 else replace(found, deciding=found.passed is not None))
        ratio = relearning.ratio
        if ratio is not None and ratio.low > thresholds.relearn_excess:
            text = f"{_relearned(relearning, ratio)}), which is a mark of damage rather than of forgetting"
            findings.append(
                Finding(
                    code=f"relearn_excess_{relearning.kind}", passed=False, text=text, interval=ratio, deciding=False
                )
            )
    return findings


def _relearn_finding(relearning: Relearning, thresholds: Thresholds) -> Finding:
    code, name = f"relearn_delay_{relearning.kind}", NAMES[relearning.kind]
    found, control, least = relearning.ratio, relearning.original_ratio, thresholds.relearn_ratio
    wide = relearning.ratio_to_fail
    if found is None or wide is None or control is None:
        reason = "held-out data are no harder for the original than the forget set, or too many runs were cut off"
        return Finding(code=code, passed=None, text=f"relearning with {name} could not be measured ({reason})")
    if relearning.control_delay < thresholds.control_steps or control.high >= least:
        text = (
            f"relearning with {name} has no power: the control needs {relearning.control_delay:.0f} steps and the original "
            f"{relearning.original.delay}"
        )
        return Finding(code=code, passed=None, text=text, interval=found)
    if relearning.samples < thresholds.relearn_least:
        text = f"{_relearned(relearning, found)}), which decides nothing on {relearning.samples} samples"
        return Finding(code=code, passed=None, text=text, interval=found)
    passed = True if found.low >= least else False if wide.high < least else None
    words = {True: "at least", False: "less than", None: "which may be less than"}
    text = f"{_relearned(relearning, found)}, {words[passed]} {least:.2g})"
    return Finding(code=code, passed=passed, text=text, interval=found)


def _relearned(relearning: Relearning, found: Interval) -> str:
    times = f"{found.value:.2f} times as long as learning new data (interval {found.ends()}"
    return f"relearning them with {NAMES[relearning.kind]} takes {times}"


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
    remaining: tuple[Interval, Interval],
    test: tuple[Interval, Interval],
    *,
    whole_classes: bool,
    thresholds: Thresholds,
) -> list[Finding]:
    """Accuracy lost, before and after, in percent: a warning, never a reason to pass or fail.

    whole_classes: whether a class is forgotten as a whole; `test` is then about the classes that remain.
    """
    data = "test data of the classes that remain" if whole_classes else "test data"
    rows = []
    for code, name, (was, now) in (("ra", "remaining data", remaining), ("ta", data, test)):
        kept = was.value - now.value <= thresholds.utility_drop
        text = f"accuracy on the {name} went from {was.value:.1f} % to {now.value:.1f} %"
        rows.append(Finding(code=f"utility_{code}", passed=kept, text=text, interval=now, deciding=False))
    return rows


_Statistic = tuple[tuple[str, str], Interval]
"""An attack's name, what was measured of it, and the value."""


def _statistics(attacks: Mapping[str, Attack], names: Iterable[str]) -> list[_Statistic]:
    return [((name, kind), found) for name in names for kind, found in attacks[name].deciding.items()]


def _named(row: _Statistic) -> str:
    (attack, kind), found = row
    return f"{NAMES[kind]} of the {NAMES.get(attack, attack)} attack {found.value:.2f}, interval {found.ends()}"


def _reach(row: _Statistic) -> float:
    """How far from 0.5 the nearer end of the interval lies; below 0 where the interval holds 0.5."""
    return max(row[1].low - 0.5, 0.5 - row[1].high)


def _inside(found: Interval, margin: float) -> bool:
    return found.within(0.5 - margin, 0.5 + margin)


def _outside(found: Interval, margin: float) -> bool:
    return found.outside(0.5 - margin, 0.5 + margin)


def _listed(texts: Sequence[str]) -> str:
    return "; ".join(texts)
