"""Likely causes why an exact result does not pass its audit: copies that stay, and labels that no model would guess.

The audit asks whether the forgotten samples look like held-out data. For samples that are not typical the answer may be no even for
a model that never saw them. Then retraining is still exact, and the reader of the report should know what to look for.
"""

from unlearning.audit.findings import Findings
from unlearning.data.near_copies import Copies, find_copies
from unlearning.data.samples import SampleSet

_UNUSUAL = 0.1
"""A complement that exceeds that on test data by more than this, in hundreds of points, is unusual [ours]."""


def likely_causes(
    findings: Findings, *, forget: SampleSet, remain: SampleSet, held_out: SampleSet, copies: Copies | None = None
) -> tuple[str, ...]:
    """Name likely causes why a model that never saw the forget set fails to be verified, as sentences with counts.

    findings: the audit of that model. copies: the forgotten samples' near-copies among the remaining ones; None to search for them,
    which reads the whole remaining set, as it does if none were compared. Empty for a verified verdict.
    """
    if findings.verdict.value == "verified":
        return ()
    found = copies if copies and copies.compared else find_copies(forget, remain, held_out=held_out)
    causes = []
    if count := int(found.found.sum()):
        causes.append(
            f"{count:,} of {found.compared:,} compared forgotten samples have a near-copy among the remaining samples, so any "
            "model trained on these knows them. If the copies belong to the same people, erase them too."
        )
    merit, measures = findings.merit, findings.measures["unlearned"]
    wrong, usual = measures.ua, merit.bounds[1] - measures.ta.value
    if wrong.low > usual + 100 * _UNUSUAL:
        causes.append(
            f"For a model that never saw the forgotten samples the {merit.complement} on them is {wrong.value:.0f} {merit.unit}, "
            f"and {usual:.0f} {merit.unit} on test data: their targets are odd or wrong, or the samples are unlike the rest."
        )
    if findings.verdict.reason == "too_few_samples":
        causes.append("There are too few forgotten samples for any method to be verified on.")
    if not causes:
        causes.append(
            "Neither near-copies among the remaining samples nor odd targets were found. Held-out data of another kind than the "
            "training data have the same effect, and so has chance: a few audits in a hundred."
        )
    return tuple(causes)
