"""What each figure says, in words with its numbers: the captions of the report."""

from itertools import pairwise
from statistics import mean

from report.document import Report
from report.evidence import Attack, AttackScores, ClassUtility, Measures
from report.formatting import count, delay, duration, percent, plural, ratio, ratio_interval, share

ATTACKS = {
    "loss": "loss",
    "confidence": "confidence",
    "entropy": "entropy",
    "modified_entropy": "modified entropy",
    "margin": "margin",
}


def membership(report: Report) -> str:
    """Can an attack tell the forgotten samples from held-out ones?"""
    attack = drawn_attack(report)
    before, after = attack.original, attack.unlearned
    text = (
        f"By {ATTACKS[attack.name]}, an attack told forgotten from held-out samples with an AUC of {ratio(before.auc.value)} "
        f"before ({ratio_interval(before.auc)}) and {ratio(after.auc.value)} after ({ratio_interval(after.auc)}); "
        "0.5 is a coin toss, and below 0.5 is as telling as above."
    )
    return text + _at_few_false_alarms(before, after)


def _at_few_false_alarms(before: AttackScores, after: AttackScores) -> str:
    if before.tpr_at_1_fpr is None or after.tpr_at_1_fpr is None:
        return " There are too few held-out samples for a rate at 1\N{NO-BREAK SPACE}% false alarms."
    return (
        f" Allowed 1\N{NO-BREAK SPACE}% false alarms, it recognised {share(before.tpr_at_1_fpr.value)} of them before and "
        f"{share(after.tpr_at_1_fpr.value)} after."
    )


def drawn_attack(report: Report) -> Attack:
    """The attack whose ROC curve the report holds, else the first."""
    membership_ = report.audit.membership
    return next((one for one in membership_.attacks if one.name == membership_.roc.attack), membership_.attacks[0])


def strongest(report: Report) -> tuple[tuple[str, AttackScores], tuple[str, AttackScores]]:
    """The attack whose AUC is furthest from 0.5, by name, before and after."""
    attacks = report.audit.membership.attacks
    before = max(attacks, key=lambda one: abs(one.original.auc.value - 0.5))
    after = max(attacks, key=lambda one: abs(one.unlearned.auc.value - 0.5))
    return (ATTACKS[before.name], before.original), (ATTACKS[after.name], after.unlearned)


def losses(report: Report) -> str:
    """Does the model treat the forgotten samples like data it never saw?"""
    held = report.audit.membership.losses
    bins, before, after = held.bins, held.original, held.unlearned
    return (
        f"The mean loss on the forgotten samples was about {ratio(_mean(bins, before.forget))} before and "
        f"{ratio(_mean(bins, after.forget))} after. On held-out samples, which the model never saw, it is now about "
        f"{ratio(_mean(bins, after.held_out))}, and on the samples it still may know {ratio(_mean(bins, after.remain))}. "
        "The histograms of forgotten and held-out samples should lie on each other."
    )


def _mean(bins: list[float], densities: list[float]) -> float:
    masses = [density * (right - left) for density, (left, right) in zip(densities, pairwise(bins), strict=False)]
    total = sum(masses)
    middles = [(left + right) / 2 for left, right in pairwise(bins)]
    return sum(mass * middle for mass, middle in zip(masses, middles, strict=False)) / total if total else 0.0


def relearning(report: Report) -> str:
    """How fast does it come back?"""
    delays, relearn = report.audit.relearn.delay, report.audit.relearn
    text = (
        f"Trained on the forgotten samples again, the original model is back at its old loss after {delay(delays.original)} and "
        f"the new model after {delay(delays.unlearned)}. Data of the same size that it never saw (the control) takes "
        f"{delay(delays.control)}"
    )
    text += (
        "."
        if relearn.ratio_to_control is None
        else f", so the ratio is {ratio(relearn.ratio_to_control)}; 1 is the aim."
    )
    if delays.reference is not None:
        text += f" A model retrained without them takes {delay(delays.reference)}."
    return text


def utility(report: Report) -> str:
    """What did it cost?"""
    before, after = report.audit.measures.original.ta.value, report.audit.measures.unlearned.ta.value
    text = f"Accuracy on test data went from {percent(before)} to {percent(after)}."
    if report.audit.utility.per_class:
        worst = most_changed(report.audit.utility.per_class)[0]
        text += f" The class that changed most is {worst.label}, from {percent(worst.original)} to {percent(worst.unlearned)}."
    return text + f" Both models agree on {share(report.audit.utility.agreement)} of held-out samples."


def most_changed(classes: list[ClassUtility]) -> list[ClassUtility]:
    """The classes, the one with the largest change of accuracy first."""
    return sorted(classes, key=lambda one: -abs(one.unlearned - one.original))


def time(report: Report) -> str:
    """Where did the time go?"""
    timings = report.timings
    text = f"Unlearning took {duration(timings.unlearn)} in {plural(report.method.steps, 'step')}"
    if timings.retrain_estimate is None:
        return text + "; how long retraining would take is not known."
    retrain = timings.retrain_estimate
    part = f", {share(timings.unlearn / retrain.seconds)} of" if retrain.seconds else ", against"
    return f"{text}{part} the {duration(retrain.seconds)} estimated for training again without them ({retrain.source})."


def basis(report: Report) -> str:
    """How many samples the evidence rests on, and how near the result is to a retrained model where there is one."""
    samples = report.audit.samples
    text = (
        f"Measured on {count(samples.forget)} forgotten, {count(samples.held_out)} held-out, {count(samples.remain)} remaining and "
        f"{count(samples.test)} test samples. Ranges are {_confidence(report)} intervals."
    )
    measures = report.audit.measures
    if measures.reference is None:
        return text
    before, after = (average_gap(one, measures.reference) for one in (measures.original, measures.unlearned))
    return text + (
        f" The average gap to a model retrained without them, over the error on the forgotten, the accuracy on the remaining and "
        f"on test data, and the share that the papers’ attack takes for never seen, was {before:.1f} "
        f"points before and is {after:.1f} after."
    )


def average_gap(one: Measures, reference: Measures) -> float:
    """The mean absolute difference of UA, RA, TA and MI from a retrained model's, in points, as the papers' tables have it."""
    pairs = (
        (one.ua, reference.ua),
        (one.ra, reference.ra),
        (one.ta, reference.ta),
        (one.mi_salun, reference.mi_salun),
    )
    return mean(abs(mine.value - other.value) for mine, other in pairs)


def _confidence(report: Report) -> str:
    settings = report.thresholds.get("settings")
    printed = settings.get("confidence", 0.95) if isinstance(settings, dict) else 0.95
    return f"{100 * printed:g}\N{NO-BREAK SPACE}%" if isinstance(printed, float) else "95\N{NO-BREAK SPACE}%"
