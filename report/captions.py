"""The captions of the report: what each figure shows, in a few sentences with its numbers."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from statistics import mean

from report.attacks import attack_name
from report.document import Report
from report.evidence import Attack, AttackScores, ClassUtility, Measures
from report.formatting import amount, count, delay, duration, interval, plural, ratio, sentence, share

KNOWLEDGE = "knowledge"
"""The measure of extraction by questions."""

EXTRACTION = {
    "exact_memorisation": "first choices",
    "extraction_strength": "from its beginning",
    "greedy_extraction": "completed greedily",
    "sampled_extraction": "completed by drawing",
    KNOWLEDGE: "questions answered",
}
"""The measures of extraction, as short as the picture needs."""

GENERATION = {
    "forgotten_class": "forgotten class",
    "other_classes": "other classes",
    "regeneration": "forgotten samples",
    "regeneration_unseen": "samples never seen",
}
"""The shares of what is generated, as short as the picture needs."""


def deciding(report: Report) -> str:
    """Say which checks decide the verdict."""
    if report.audit.reference_test is None:
        return (
            "Membership attacks and relearning decide together. A model that did not change or has become useless fails. The "
            "other notes are warnings."
        )
    return (
        "The reference test decides. A model also fails if it did not change, has become useless or relearns too fast, and an "
        "attack on a signal that the test does not use can leave the result open. The other notes are warnings."
    )


def membership(report: Report) -> str:
    """Describe how well an attack tells forgotten samples from held-out ones."""
    attack = plotted_attack(report)
    before, after = attack.original, attack.unlearned
    text = (
        f"The attack by {attack_name(attack.name)} tells forgotten from held-out samples with an AUC of {ratio(before.auc.value)} "
        f"before ({interval(before.auc, ratio)}) and {ratio(after.auc.value)} after ({interval(after.auc, ratio)}). "
    )
    name, most = strongest(report)[1]
    if name != attack_name(attack.name):
        text += f"The strongest attack after is by {name}: {ratio(most.auc.value)} ({interval(most.auc, ratio)}). "
    text += (
        f"An AUC of 0.5 is a coin toss; below 0.5 gives as much away as above. {_at_few_false_alarms(before, after)}"
    )
    leakage = report.audit.privacy_leakage
    if leakage is not None:
        text += (
            f" PrivLeak by {attack_name(leakage.attack)} is {leakage.original:.0f}\N{NO-BREAK SPACE}% before and "
            f"{leakage.unlearned:.0f}\N{NO-BREAK SPACE}% after; the retrained model's is 0."
        )
    return text


def _at_few_false_alarms(before: AttackScores, after: AttackScores) -> str:
    if before.tpr_at_1_fpr is None or after.tpr_at_1_fpr is None:
        return "There are too few held-out samples to state a rate at 1\N{NO-BREAK SPACE}% false alarms."
    return (
        f"At 1\N{NO-BREAK SPACE}% false alarms it recognises {share(before.tpr_at_1_fpr.value)} of the forgotten samples "
        f"before and {share(after.tpr_at_1_fpr.value)} after."
    )


def plotted_attack(report: Report) -> Attack:
    """Find the attack whose ROC curve the report holds, else the first."""
    membership_ = report.audit.membership
    return next((one for one in membership_.attacks if one.name == membership_.roc.attack), membership_.attacks[0])


def strongest(report: Report) -> tuple[tuple[str, AttackScores], tuple[str, AttackScores]]:
    """Find the attack whose AUC is furthest from 0.5, before and after, each with its name."""
    attacks = report.audit.membership.attacks
    before = max(attacks, key=lambda one: abs(one.original.auc.value - 0.5))
    after = max(attacks, key=lambda one: abs(one.unlearned.auc.value - 0.5))
    return (attack_name(before.name), before.original), (attack_name(after.name), after.unlearned)


def losses(report: Report) -> str:
    """Compare the mean losses of forgotten, held-out and remaining samples."""
    losses_ = report.audit.membership.losses
    before, after = losses_.original, losses_.unlearned
    of, about = partial(_mean_loss, losses_.bins), partial(_mean_loss, losses_.bins, hedge="about ")
    return (
        f"The mean loss on the forgotten samples was {about(before.forget)} before and is {of(after.forget)} after. After "
        f"unlearning it is {about(after.held_out)} on held-out samples, which the model never saw, and {of(after.remain)} on the "
        "remaining samples. The histograms of forgotten and held-out samples should coincide."
    )


def _mean_loss(bins: Sequence[float], densities: Sequence[float], *, hedge: str = "") -> str:
    """Print the mean of a histogram. If all are in the first bin, its middle may be far from them: then its end is a bound."""
    if not any(densities[1:]) and bins[0] >= 0:
        return f"less than {ratio(bins[1])}"
    return hedge + ratio(_mean(bins, densities))


def _mean(bins: Sequence[float], densities: Sequence[float]) -> float:
    masses = [density * (right - left) for density, (left, right) in zip(densities, pairwise(bins), strict=False)]
    total = sum(masses)
    middles = [(left + right) / 2 for left, right in pairwise(bins)]
    return sum(mass * middle for mass, middle in zip(masses, middles, strict=False)) / total if total else 0.0


def references(report: Report) -> str:
    """State where the reference test finds the models, and how likely it was to decide. Empty without reference predictions."""
    tests = report.audit.reference_test
    if tests is None:
        return ""
    after = tests.unlearned
    text = (
        f"Each forgotten sample is compared with the predictions of models that never saw it. Such models lie between "
        f"{ratio(after.low)} and {ratio(after.high)}; models that know the samples lie above {ratio(after.if_seen)}. The original "
        f"model is at {ratio(tests.original.known)}, the new one at {ratio(after.known)}."
    )
    if tests.reference is not None:
        text += f" The retrained model is at {ratio(tests.reference.known)}."
    if (near := tests.nearness) is not None:
        text += f" The answers of the new one are {ratio(abs(near.value))} {tests.unit} nearer to "
        text += "those of such models than to the original's." if near.value >= 0 else "the original's than to those."
    text += f" A model that never saw these samples passes with a probability of {share(after.power)}."
    enough = enough_power(report)
    if tests.samples_needed is not None and enough is not None:
        text += f" About {count(tests.samples_needed)} typical samples are enough for {share(enough)}."
    return text


def enough_power(report: Report) -> float | None:
    """The probability of a verdict, 0 to 1, at which a number of samples counts as enough; None in a report without it."""
    threshold = report.thresholds.get("reference_power")
    return float(threshold) if isinstance(threshold, int | float) else None


def extraction(report: Report) -> str:
    """Compare how much of the forgotten and of never seen samples can be extracted. Empty for a model that writes no text."""
    texts = []
    for one in report.audit.extraction:
        before, after, unseen = one.original.forget, one.unlearned.forget, one.unlearned.held_out
        kept = "" if one.unlearned.remain is None else f", {share(one.unlearned.remain.value)} of remaining data"
        texts.append(
            f"{extraction_name(one.name)}: {share(before.value)} before, {share(after.value)} after, {share(unseen.value)} of data "
            f"never seen{kept}."
        )
    if not texts:
        return ""
    return " ".join(
        [
            "The mean share of a forgotten text that the model gives away:",
            *texts,
            "First choices are tokens that the model finds likeliest after the true ones before them. From its beginning: what "
            "greedy decoding gives behind the shortest prefix that suffices. Completed: the second half as the model writes it, by "
            "the longest common subsequence, and by drawing the best of several.",
            *(_QUESTIONS for one in report.audit.extraction if one.name == KNOWLEDGE),
        ]
    )


_QUESTIONS = (
    "Questions answered: what the model answers to a question about the text, asked in other words, by the words that it has in "
    "common with the true answer, in their order (ROUGE-L)."
)


def extraction_name(name: str) -> str:
    """Give a measure's name; one that a user's own objective names is shown as it is."""
    return sentence(EXTRACTION.get(name, name.replace("_", " ")))


def generation(report: Report) -> str:
    """Compare what the models generate. Empty for a model that is no image generator."""
    found = {one.name: one for one in report.audit.generation}
    if not found:
        return ""
    texts = []
    for name, what in (
        (
            "regeneration",
            "Of the samples generated of the forgotten samples' classes, {} reproduce a forgotten sample.",
        ),
        ("forgotten_class", "Of the same samples a classifier takes {} for the forgotten class."),
        (
            "other_classes",
            "Of the samples generated of the other classes, a classifier takes {} for the class asked for.",
        ),
    ):
        if name in found:
            before, after = (share(one.value) for one in (found[name].original, found[name].unlearned))
            texts.append(what.format(f"{before} before and {after} after"))
    if "frechet_distance" in found:
        distance = found["frechet_distance"]
        texts.append(
            f"The Fréchet distance of these to real samples is {ratio(distance.original.value)} before and "
            f"{ratio(distance.unlearned.value)} after, in the features of the classifier, which was trained for this audit or is "
            "the operator's."
        )
    texts.append(
        "A generated sample reproduces a forgotten one that is the nearest to it of all, and at most a third as far from it as the "
        "next."
    )
    return " ".join(texts)


def relearning(report: Report) -> str:
    """Compare how many steps each model needs to learn the forgotten samples again."""
    delays, ratio_to_control = report.audit.relearn.delay, report.audit.relearn.ratio_to_control
    text = (
        f"When both are trained on the forgotten samples again, the original model is back at its old loss after "
        f"{delay(delays.original)} and the new model after {delay(delays.unlearned)}. Data of the same size that it never saw "
        f"(the control) takes {delay(delays.control)}"
    )
    text += "." if ratio_to_control is None else f", so the ratio is {ratio(ratio_to_control)}; the aim is 1."
    if delays.reference is not None:
        text += f" The retrained model takes {delay(delays.reference)}."
    return text


def utility(report: Report) -> str:
    """Compare the merit before and after, and the predictions of both models."""
    merit = report.audit.merit
    show = amount(merit.unit)
    before, after = report.audit.measures.original.ta.value, report.audit.measures.unlearned.ta.value
    text = f"{sentence(merit.name)} on test data went from {show(before)} to {show(after)}."
    if report.audit.utility.per_class:
        worst = most_changed(report.audit.utility.per_class)[0]
        text += (
            f" The class that changed most is {worst.label}, from {show(worst.original)} to {show(worst.unlearned)}."
        )
    agreement = report.audit.utility.agreement
    return text if agreement is None else f"{text} Both models agree on {share(agreement)} of the held-out samples."


def most_changed(classes: Sequence[ClassUtility]) -> list[ClassUtility]:
    """Sort the classes by their change of accuracy, the largest first."""
    return sorted(classes, key=lambda one: -abs(one.unlearned - one.original))


def time(report: Report) -> str:
    """Compare the time of unlearning with the estimated time of retraining."""
    timings = report.timings
    text = f"Unlearning took {duration(timings.unlearn)} in {plural(report.method.steps, 'step')}"
    if timings.retrain_estimate is None:
        return text + "; how long retraining would take is not known."
    retrain = timings.retrain_estimate
    part = f", {share(timings.unlearn / retrain.seconds)} of" if retrain.seconds else ", compared with"
    return f"{text}{part} the {duration(retrain.seconds)} estimated for retraining without them ({retrain.source})."


def basis(report: Report) -> str:
    """State the number of samples behind the measures, and the average gap to a retrained model if there is one."""
    samples = report.audit.samples
    text = (
        f"Measured on {count(samples.forget)} forgotten, {count(samples.held_out)} held-out, {count(samples.remain)} remaining and "
        f"{count(samples.test)} test samples. Ranges are {_confidence(report)} intervals."
    )
    measures = report.audit.measures
    if measures.reference is None:
        return text
    before, after = (average_gap(one, measures.reference) for one in (measures.original, measures.unlearned))
    merit = report.audit.merit
    return text + (
        f" The average gap to the retrained model was {before:.1f} points before and is {after:.1f} after. It is the mean "
        f"difference of four measures: the {merit.complement} on the forgotten samples, the {merit.name} on the remaining samples "
        "and on test data, and the share of the forgotten samples that the papers’ attack takes for never seen."
    )


def average_gap(one: Measures, reference: Measures) -> float:
    """The mean absolute difference of UA, RA, TA and MI from a retrained model's, in points, as in the papers' tables."""
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
