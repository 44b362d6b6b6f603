"""The verdict: what the intervals allow to conclude.

A finding passes if its whole interval lies within the threshold, fails if its whole interval lies beyond it, and is otherwise
open (None). The verdict is `failed` if one deciding finding fails, `verified` if all of them pass, and otherwise `inconclusive`.
Because each of several relearners can fail the model, the interval that fails it is widened for their number. A relearning of few
samples has a p-value in place of an interval, and fails if that is at most half of what the confidence leaves.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from report.attacks import attack_name
from unlearning.audit.comparison import Change
from unlearning.audit.extraction import Extraction
from unlearning.audit.generation import Generated
from unlearning.audit.intervals import Interval
from unlearning.audit.membership import Attack
from unlearning.audit.nearness import Nearness
from unlearning.audit.reference_test import LEAST_HELD_OUT, ReferenceTest, samples_needed
from unlearning.audit.relearning import Relearning
from unlearning.data.objectives import Merit
from unlearning.data.objectives.prediction import ACCURACY
from unlearning.specs.audit import Thresholds

NAMES = {
    "auc": "AUC",
    "spread": "distance from the held-out median",
    "sgd": "SGD",
    "adam": "Adam",
}
"""The names of statistics and optimisers, where they are no words already."""

EXTRACTION = {
    "exact_memorisation": "tokens that are the model's first choice",
    "extraction_strength": "text that follows from its beginning",
    "greedy_extraction": "second halves that greedy completion gives",
    "sampled_extraction": "second halves that the best of several drawn completions gives",
    "knowledge": "answers to questions in other words",
}
"""What each measure of extraction is a share of; one that a user's own objective names is shown as it is."""

_DECISIVE = ("relearn_delay", "reference_matched")
"""Codes of the findings of which a verified verdict needs one."""
LEAST_POWER = 0.5
"""If a model that never saw the samples passes an undecided test with a smaller probability, they are too few [ours]."""
_POINTS = 10
"""By so many points more may be extracted or generated of forgotten samples and count as no more [ours]."""
_SIGNIFICANT = 0.05
"""The largest p-value at which answers are called nearer to those of models that never saw the samples [ours]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of one check.

    passed: None if the interval leaves it open. text: a clause without a full stop. deciding: whether the verdict depends on it;
    other findings can only warn.
    """

    code: str
    passed: bool | None
    text: str
    interval: Interval | None = None
    deciding: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The verdict of an audit.

    value: "verified", "inconclusive" or "failed". sentence: what was measured, for a reader without statistics. warnings:
        sentences.
    reason: of an inconclusive verdict, else None. "too_few_samples": of so few, a model that never saw them would hardly be
        verified either. "no_power": the attacks do not recognise the forget set on the original either, or a near-copy of each
        forgotten sample remains. "open": an interval spans its threshold, or two tests disagree.
    """

    value: str
    sentence: str
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]
    reason: str | None = None


def judge(findings: Sequence[Finding], *, forgotten: int, thresholds: Thresholds, reason: str | None = None) -> Verdict:
    """Derive the verdict from the findings. forgotten: the number of forgotten samples.

    reason: why no method was likely to get another verdict than an inconclusive one; None if one was.
    """
    deciding = [finding for finding in findings if finding.deciding]
    failed = [finding.text for finding in deciding if finding.passed is False]
    open_ = [finding.text for finding in deciding if finding.passed is None]
    samples = f"{forgotten:,} forgotten sample{'' if forgotten == 1 else 's'}"
    if failed:
        value, sentence = "failed", f"The audit of the {samples} failed: {'; '.join(failed)}."
    elif open_ or not any(finding.code.startswith(_DECISIVE) for finding in deciding):
        open_ = open_ or ["no relearning was measured"]
        value = "inconclusive"
        sentence = (
            f"The audit can neither confirm nor exclude that the model still knows the {samples}: {'; '.join(open_)}."
        )
    else:
        value = "verified"
        passed = [f.text for f in deciding if f.code.startswith(("membership", "relearn", "reference"))]
        sentence = (
            f"Within the thresholds fixed beforehand and at {100 * thresholds.confidence:g} % confidence, the tests that were run "
            f"found the {samples} to be like data that the model never saw: {'; '.join(passed)}."
        )
    warnings = tuple(f.text[0].upper() + f.text[1:] + "." for f in findings if not f.deciding and f.passed is not True)
    return Verdict(
        value=value,
        sentence=sentence,
        findings=tuple(findings),
        warnings=warnings,
        reason=(reason or "open") if value == "inconclusive" else None,
    )


def inconclusive_reason(
    findings: Sequence[Finding],
    *,
    tests: Mapping[str, ReferenceTest],
    power: float,
    relearned: int,
    thresholds: Thresholds,
) -> str | None:
    """Say why no method was likely to be verified: "too_few_samples" or "no_power"; None where one was.

    power: of the membership test on so many samples (`membership_power`). relearned: samples that the relearning compares.
    """
    if tests:
        test = tests["unlearned"]
        if not test.samples:
            return "no_power"
        return None if test.passed or test.power >= LEAST_POWER else "too_few_samples"
    passed = {finding.code: finding.passed for finding in findings}
    if relearned < thresholds.relearn_least or (not passed["membership_matched"] and power < LEAST_POWER):
        return "too_few_samples"
    return None if passed["negative_control_membership"] else "no_power"


def membership_findings(
    original: Mapping[str, Attack],
    unlearned: Mapping[str, Attack],
    *,
    reference: Mapping[str, Attack] | None,
    margin: float,
    decides: bool = True,
    comparable: bool = True,
) -> list[Finding]:
    """Make the findings of the membership test: negative control, the test, and with a retrained model the positive control.

    comparable: whether the held-out set has samples of the forget set's classes. If not, the test is open whatever it measures:
    even a retrained model knows less of a class that it never saw than of any other.

    A statistic is sensitive if its whole interval lies above 0.5 + margin on the original: it recognises the forget set there. All
    sensitive ones must lie inside on the unlearned model. If none is sensitive, all must, and a pass means little. No statistic may
    lie wholly outside; the attack "spread" is used for this only.
    """
    if not comparable:
        text = (
            "no held-out sample has a class of the forgotten samples, so membership attacks have nothing to compare them with; "
            "add such samples to the held-out set"
        )
        return [
            Finding(code="negative_control_membership", passed=None, text=text, deciding=False),
            Finding(code="membership_matched", passed=None, text=text, deciding=decides),
        ]
    names = [name for name in original if name != "spread"]
    sensitive = [key for key, interval in _statistics(original, names) if interval.low > 0.5 + margin]
    tested = [row for row in _statistics(unlearned, names) if not sensitive or row[0] in sensitive]
    outside = [row for row in _statistics(unlearned, unlearned) if _outside(row[1], margin)]
    reference_fails = reference is not None and any(_outside(f, margin) for _, f in _statistics(reference, reference))
    inside = all(_inside(interval, margin) for _, interval in tested)
    findings = [
        _negative_control(max(_statistics(original, names), key=lambda row: row[1].low), bool(sensitive)),
        Finding(
            code="membership_matched",
            passed=(None if reference_fails else False) if outside else inside or None,
            text=_matched_text(max(outside or tested, key=_reach), bool(outside), inside, bool(sensitive), margin),
            interval=max(outside or tested, key=_reach)[1],
            deciding=decides,
        ),
    ]
    if reference is not None:
        same = [found for key, found in _statistics(reference, names) if key in dict(tested)]
        findings.append(_positive_control(reference_fails, all(_inside(found, margin) for found in same)))
    return findings


def _negative_control(strongest: "_Statistic", sensitive: bool) -> Finding:
    text = f"the strongest membership attack recognises the forget set in the original model, as it must ({_named(strongest)})"
    if not sensitive:
        text = (
            f"the strongest membership attack does not recognise the forget set in the original model ({_named(strongest)}), so "
            "membership attacks have no power here and show nothing about the new model"
        )
    return Finding(
        code="negative_control_membership",
        passed=sensitive or None,
        text=text,
        interval=strongest[1],
        deciding=False,
    )


def _positive_control(fails: bool, passes: bool) -> Finding:
    text = "the model retrained without the forget set passes the same membership test"
    if fails:
        text = (
            "the model retrained without the forget set fails the same membership test, so a failure cannot be attributed to the "
            "unlearning"
        )
    elif not passes:
        text = "the same membership test does not decide on the model retrained without the forget set"
    return Finding(code="positive_control", passed=False if fails else passes or None, text=text, deciding=False)


def _matched_text(worst: "_Statistic", outside: bool, inside: bool, sensitive: bool, margin: float) -> str:
    if outside and worst[0][0] == "spread":
        side = "unusually near to" if worst[1].value > 0.5 else "unusually far from"
        return f"the forgotten samples lie {side} the median of data never seen ({_named(worst)}, outside 0.5 ± {margin:.2g})"
    if outside:
        side = "still look like training data" if worst[1].value > 0.5 else "look less known than data never seen"
        return f"the forgotten samples {side} ({_named(worst)}, outside 0.5 ± {margin:.2g})"
    if not inside:
        return f"membership attacks do not decide ({_named(worst)}, not entirely inside 0.5 ± {margin:.2g})"
    if not sensitive:
        return (
            "membership attacks cannot tell the forgotten samples from held-out data, but could not in the original model "
            "either"
        )
    return f"membership attacks cannot tell the forgotten samples from held-out data ({_named(worst)}, inside 0.5 ± {margin:.2g})"


def feature_findings(attacks: Mapping[str, Attack], *, margin: float) -> list[Finding]:
    """Check the new model by the attack on features. It can only warn, and without a decision there is no finding.

    attacks: by model; empty where there is none. The original is the negative control: where features did not tell the forgotten
    samples from data never seen before, only a new difference says anything.
    """
    if not {"original", "unlearned"} <= attacks.keys():
        return []
    before, after = (attacks[model].deciding["auc"] for model in ("original", "unlearned"))
    passed = not _outside(after, margin)
    if passed and not (_outside(before, margin) and _inside(after, margin)):
        return []
    tell = "do not tell" if passed else "still tell" if after.value > 0.5 else "now tell, as less known,"
    text = (
        f"the features before the output {tell} the forgotten samples from data never seen (AUC of a linear probe "
        f"{after.value:.2f}, interval {after.ends()}; of the original model {before.value:.2f})"
    )
    return [Finding(code="features_matched", passed=passed, text=text, interval=after, deciding=False)]


def reference_findings(
    tests: Mapping[str, ReferenceTest], *, power: Mapping[int, float], thresholds: Thresholds
) -> list[Finding]:
    """Check the new model by the reference test, the original as negative control, and a retrained model as positive control.

    power: of the test by the number of samples (`power_by_size`).
    """
    if not tests:
        return []
    original, unlearned, retrained = tests["original"], tests["unlearned"], tests.get("reference")
    recognised = original.passed is False and original.known > original.null[1]
    findings = [
        Finding(
            code="negative_control_reference",
            passed=recognised or None,
            text="the reference test recognises the forget set on the original model, as it must"
            if recognised
            else "the reference test does not recognise the forget set on the original model",
            interval=_excess(original),
            deciding=False,
        ),
        Finding(
            code="reference_matched",
            passed=unlearned.passed,
            text=_reference_text(unlearned, needed=samples_needed(power, thresholds), thresholds=thresholds),
            interval=_excess(unlearned),
        ),
    ]
    if retrained is not None:
        findings.append(
            Finding(
                code="positive_control_reference",
                passed=retrained.passed,
                text="the model retrained without the forget set passes the reference test too"
                if retrained.passed
                else "the model retrained without the forget set does not pass the reference test",
                interval=_excess(retrained),
                deciding=False,
            )
        )
    return findings


def no_reference_test(held_out: int) -> Finding:
    """Warn that the reference test was left out, because it had so few held-out samples; the audit decides without it."""
    text = (
        f"the reference test was left out, because it needs {LEAST_HELD_OUT} held-out samples to compare with and had {held_out}; "
        "the other tests decide"
    )
    return Finding(code="reference_matched", passed=None, text=text, deciding=False)


def nearness_findings(near: Nearness | None) -> list[Finding]:
    """Check that the new model's answers are not nearer to the original's than to those of models that never saw the samples.

    If they are, the check is open: it can neither pass nor fail a model by itself.
    """
    if near is None:
        return []
    where = (
        f"{near.value:+.2f} {near.unit}; {near.unseen:+.2f} on average for models that never saw them, {near.original:+.2f} for "
        "the original"
    )
    if near.to_original:
        text = (
            "the answers to the forgotten samples are nearer to the original's than to those of models that never saw them "
            f"({where})"
        )
        return [Finding(code="nearer_to_retrained", passed=None, text=text)]
    nearer = "are nearer" if near.p_value <= _SIGNIFICANT else "are not shown to be nearer"
    text = (
        f"the answers to the forgotten samples {nearer} to those of models that never saw them than to the original's ({where}; "
        f"p = {near.p_value:.2g})"
    )
    return [Finding(code="nearer_to_retrained", passed=True, text=text)]


def copies_findings(copied: int, *, of: int) -> list[Finding]:
    """Warn of forgotten samples of which a near-copy remains, and which are left out of the tests. of: how many were forgotten."""
    if not copied:
        return []
    text = (
        f"{copied:,} of the {of:,} forgotten samples have a near-copy among the remaining samples and were not tested: any model "
        "that is trained on the copies knows them; if these belong to the same people, erase them too"
    )
    return [Finding(code="no_copies_remain", passed=None, text=text, deciding=False)]


def other_attack_findings(
    attacks: Mapping[str, Attack],
    tests: Mapping[str, ReferenceTest],
    *,
    retrained: Mapping[str, Attack] | None,
    margin: float,
) -> list[Finding]:
    """Check whether an attack still recognises what the reference test passes, because it reads another signal. [ours]

    attacks: on the new model. tests: for each of their signals that is no function of the reference test's own, the test of what
    the margins do not explain of it; empty without reference predictions. retrained: the attacks on the retrained model, if any.

    An attack recognises the forgotten samples if its whole interval lies outside 0.5 ± margin, and its signal goes on the same side
    beyond what held-out samples with such margins have. A model retrained without them must not be recognised by it in the same
    way. Two tests then disagree, so that the check is open: it can neither pass nor fail a model by itself.
    """
    if not tests:
        return []

    def side(attack: Attack) -> int:
        found = attack.deciding["auc"]
        return (found.low > 0.5 + margin) - (found.high < 0.5 - margin)

    def unexplained(name: str, test: ReferenceTest) -> bool:
        beyond = (test.known > test.null[1]) - (test.known < test.null[0])
        return beyond != 0 and beyond == side(attacks[name]) != (side(retrained[name]) if retrained else 0)

    recognising = {name: attacks[name].deciding["auc"] for name, test in tests.items() if unexplained(name, test)}
    if not recognising:
        text = "no attack on another signal is shown to recognise more of the forgotten samples than the reference test"
        return [Finding(code="other_attacks_matched", passed=True, text=text)]
    name, found = max(recognising.items(), key=lambda row: abs(row[1].value - 0.5))
    text = (
        f"the {_words(name)} attack, which reads another signal than the reference test, tells the forgotten samples from "
        f"data never seen (AUC {found.value:.2f}, interval {found.ends()}), and more than that test's signal explains"
    )
    return [Finding(code="other_attacks_matched", passed=None, text=text, interval=found)]


def _excess(test: ReferenceTest) -> Interval:
    """The statistic T, with the interval in which it lies for models that never saw the samples."""
    return Interval(test.known, *test.null)


def _reference_text(test: ReferenceTest, *, needed: int | None, thresholds: Thresholds) -> str:
    where = (
        f"{test.known:+.2f} {test.unit} from their references, {test.null[0]:+.2f} to {test.null[1]:+.2f} without having seen "
        "them"
    )
    if test.passed:
        return f"the model answers the forgotten samples as models do that never saw them ({where})"
    if not test.samples:
        return "the reference test has no sample to compare, because a near-copy of each remains"
    if test.passed is None:
        samples = f"{test.samples} sample{'' if test.samples == 1 else 's'}"
        would = f"a model that never saw them would pass it with a probability of {100 * test.power:.0f} %"
        if needed is not None and needed > test.samples:
            would += f"; about {needed:,} typical samples are enough for {100 * thresholds.reference_power:.0f} %"
        return f"the reference test cannot decide on {samples} ({would})"
    if test.known > test.null[1]:
        return f"the model still knows the forgotten samples ({where})"
    if test.known < test.null[0]:
        return f"the forgotten samples are less known than to models that never saw them ({where})"
    return (
        f"some forgotten samples are too well known and others too little (spread {test.spread:.2f} times that of data never seen, "
        f"at most {test.max_spread:.2f})"
    )


def relearn_findings(
    relearnings: Sequence[Relearning], *, thresholds: Thresholds, must_pass: bool = True, decides: bool = True
) -> list[Finding]:
    """Make a finding for each relearner: does the forget set take as long to learn as data never seen?

    The first relearner must pass, unless another test decides (`must_pass` False). The others have fewer controls: they must not
    fail, and if they leave it open they only warn. decides: False where near-copies of all samples remain, by which any model
    relearns them at once.
    """
    findings = []
    for position, relearning in enumerate(relearnings):
        finding = _relearn_finding(relearning, thresholds)
        must = must_pass and position == 0
        findings.append(replace(finding, deciding=decides and (must or finding.passed is not None)))
        ratio = relearning.ratio
        if ratio is not None and ratio.low > thresholds.relearn_excess:
            text = f"{_relearned(relearning, ratio)}), which indicates damage rather than forgetting"
            findings.append(
                Finding(
                    code=f"relearn_excess_{relearning.kind}", passed=False, text=text, interval=ratio, deciding=False
                )
            )
    return findings


def _relearn_finding(relearning: Relearning, thresholds: Thresholds) -> Finding:
    code, name = f"relearn_delay_{relearning.kind}", NAMES[relearning.kind]
    ratio, control, least = relearning.ratio, relearning.original_ratio, thresholds.relearn_ratio
    wide = relearning.ratio_to_fail
    if relearning.p_value is not None:
        return _finding_on_few(code, relearning, relearning.p_value, thresholds=thresholds)
    if ratio is None or wide is None or control is None:
        reason = (
            "held-out data are no harder for the original than the forget set or have none of its classes, the model has "
            "collapsed, or runs diverged or reached the step limit"
        )
        return Finding(code=code, passed=None, text=f"relearning with {name} could not be measured ({reason})")
    if relearning.control_delay < thresholds.control_steps or control.high >= least:
        text = (
            f"relearning with {name} has no power: the control needs {relearning.control_delay:.0f} steps, and the original model "
            f"{relearning.original.delay} for the forget set"
        )
        return Finding(code=code, passed=None, text=text, interval=ratio)
    if relearning.samples < thresholds.relearn_least:
        text = f"{_relearned(relearning, ratio)}), which does not decide with only {relearning.samples} samples"
        return Finding(code=code, passed=None, text=text, interval=ratio)
    passed = True if ratio.low >= least else False if wide.high < least else None
    comparison = {True: "at least", False: "less than", None: "which may be less than"}
    text = f"{_relearned(relearning, ratio)}, {comparison[passed]} the required {least:.2g})"
    return Finding(code=code, passed=passed, text=text, interval=ratio)


def _finding_on_few(code: str, relearning: Relearning, p_value: float, *, thresholds: Thresholds) -> Finding:
    """Judge few samples by the rank of their delay among those of many control sets.

    They can fail and never pass: a set of a few samples that were never seen may take any time.
    """
    failed = p_value <= (1 - thresholds.confidence) / 2 + 1e-9
    name, steps = NAMES[relearning.kind], relearning.unlearned_delay
    less = f"less than {thresholds.relearn_ratio:.2g} of the time"
    comparison = f"{less} that it takes to learn" if failed else f"not shown to be {less} that it takes to learn"
    text = (
        f"relearning the forgotten samples with {name} takes {steps:.0f} steps, {comparison} as many samples of new data "
        f"(p = {p_value:.2g}, by {relearning.compared} control sets)"
    )
    return Finding(code=code, passed=False if failed else None, text=text)


def _relearned(relearning: Relearning, ratio: Interval) -> str:
    """Begin the text of a finding; the caller closes the parenthesis."""
    times = f"{ratio.value:.2f} times as long as learning new data (interval {ratio.ends()}"
    return f"relearning the forgotten samples with {NAMES[relearning.kind]} takes {times}"


def change_findings(change: Change) -> list[Finding]:
    """Make the findings on whether anything was done to the model, and whether it has collapsed."""
    moved = f"weights moved by {change.weight_distance_relative:.2g}, predictions by {change.prediction_change:.2g}"
    left = (
        "the model does better than guessing"
        if not change.collapsed
        else "the model has collapsed: it does little better than guessing"
    )
    return [
        Finding(
            code="not_a_no_op",
            passed=not change.no_op,
            text=f"the model was hardly changed ({moved})" if change.no_op else f"the model was changed ({moved})",
        ),
        Finding(
            code="not_collapsed",
            passed=not change.collapsed,
            text=left if change.finite else "the model's weights or outputs are not finite numbers",
        ),
    ]


def extraction_findings(extraction: Mapping[str, Extraction]) -> list[Finding]:
    """Check each measure of extraction on the new model: is more of the forgotten samples given away than of those never seen?

    They can only warn: a text that is never seen may be guessed in part, and how much depends on the text. See `_no_more`.
    """
    if not extraction:
        return []
    found, findings = extraction["unlearned"], []
    for measure, forgotten in found["forget"].items():
        unseen = found["held_out"][measure]
        passed = _no_more(forgotten, unseen)
        than = "can be extracted of the forgotten samples than of data never seen"
        text = {
            True: f"at most {_POINTS} points more {than}",
            False: f"more {than}",
            None: f"so few samples do not show whether more {than}",
        }[passed]
        what = EXTRACTION.get(measure, measure.replace("_", " "))
        findings.append(
            Finding(
                code=f"extraction_{measure}",
                passed=passed,
                text=f"{text} ({what}: {forgotten.value:.0%}, interval {forgotten.ends('.0%')}, against {unseen.value:.0%}, "
                f"interval {unseen.ends('.0%')})",
                interval=forgotten,
                deciding=False,
            )
        )
    return findings


def generation_findings(generation: Mapping[str, Generated], *, classes: int | None) -> list[Finding]:
    """Check what the new model generates: does it still reproduce forgotten samples, and generate a class that was forgotten?

    They can only warn: how much a retrained model generates of a class that it never saw is not known without one. See `_no_more`.
    """
    if not generation:
        return []
    found, retrained = generation["unlearned"], generation.get("reference")
    again, unseen = found["regeneration"], found["regeneration_unseen"]
    passed = _no_more(again, unseen)
    reproduces = {
        True: f"the model reproduces forgotten samples at most {_POINTS} points more often",
        False: "the model still reproduces forgotten samples more often",
        None: "so few generated samples do not show whether the model reproduces forgotten samples more often",
    }[passed]
    findings = [
        Finding(
            code="generation_regeneration",
            passed=passed,
            text=f"{reproduces} than samples never seen ({again.value:.0%} of what it generates of their classes, interval "
            f"{again.ends('.0%')}, against {unseen.value:.0%}, interval {unseen.ends('.0%')})",
            interval=again,
            deciding=False,
        )
    ]
    if "forgotten_class" in found:
        share, chance = found["forgotten_class"], 1 / (classes or 1)
        without = Interval(chance, chance, chance) if retrained is None else retrained["forgotten_class"]
        what = "chance gives" if retrained is None else "the retrained model gives at most"
        passed = _no_more(share, without)
        unclear = "; so few do not show whether that is more" if passed is None else ""
        findings.append(
            Finding(
                code="generation_class",
                passed=passed,
                text=f"a classifier takes {share.value:.0%} of the samples generated of the forgotten class for that class "
                f"(interval {share.ends('.0%')}; {what} {without.high:.0%}{unclear})",
                interval=share,
                deciding=False,
            )
        )
    return findings


def utility_findings(
    remaining: tuple[Interval, Interval],
    test: tuple[Interval, Interval],
    *,
    whole_classes: bool,
    thresholds: Thresholds,
    merit: Merit = ACCURACY,
) -> list[Finding]:
    """Make the findings on the merit before and after, in points. They can only warn.

    whole_classes: whether a class is fully forgotten; `test` is then about the other classes.
    """
    data = "test data of the remaining classes" if whole_classes else "test data"
    rows = []
    for code, name, (was, now) in (("ra", "remaining data", remaining), ("ta", data, test)):
        preserved = was.value - now.value <= thresholds.utility_drop
        text = f"{merit.name} on the {name} went from {was.value:.1f} {merit.unit} to {now.value:.1f} {merit.unit}"
        rows.append(Finding(code=f"utility_{code}", passed=preserved, text=text, interval=now, deciding=False))
    return rows


def _no_more(share: Interval, other: Interval) -> bool | None:
    """Judge whether a share, 0 to 1, is no more than another, but for `_POINTS` points [ours].

    False if its whole interval lies above the other's. True if the difference's interval ends within the points; its half is the
    root of the sum of the squares of the shares' own (Zou and Donner, Statistics in Medicine 27, 2008). None if neither is shown.
    """
    if share.low > other.high:
        return False
    most = share.value - other.value + math.hypot(share.high - share.value, other.value - other.low)
    return most <= _POINTS / 100 or None


_Statistic = tuple[tuple[str, str], Interval]
"""(Attack, "auc" or "balanced_accuracy"), and the value with its deciding interval."""


def _statistics(attacks: Mapping[str, Attack], names: Iterable[str]) -> list[_Statistic]:
    return [((name, kind), found) for name in names for kind, found in attacks[name].deciding.items()]


def _named(row: _Statistic) -> str:
    (attack, kind), found = row
    return f"{_words(kind)} of the {_words(attack)} attack {found.value:.2f}, interval {found.ends()}"


def _words(name: str) -> str:
    return NAMES.get(name) or attack_name(name)


def _reach(row: _Statistic) -> float:
    """Compute how far the nearer end of the interval is from 0.5; negative if the interval contains 0.5."""
    return max(row[1].low - 0.5, 0.5 - row[1].high)


def _inside(found: Interval, margin: float) -> bool:
    return found.within(0.5 - margin, 0.5 + margin)


def _outside(found: Interval, margin: float) -> bool:
    return found.outside(0.5 - margin, 0.5 + margin)
