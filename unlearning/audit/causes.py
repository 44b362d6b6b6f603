"""Likely causes why an exact result does not pass its audit: copies that stay, and labels that no model would guess.

The audit asks whether the forgotten samples look like held-out data. For samples that are not typical the answer may be no even for
a model that never saw them. Then retraining is still exact, and the reader of the report should know what to look for.
"""

import torch
from torch import Tensor

from unlearning.audit.findings import Findings
from unlearning.data.batches import flat_inputs
from unlearning.data.loading import READ_SIZE
from unlearning.data.samples import SampleSet

_COPY = 0.1
"""A near-copy is closer to a remaining sample than this share of the distance that is usual for held-out samples [ours]."""
_UNUSUAL = 0.1
"""A complement that exceeds that on test data by more than this, in hundreds of points, is unusual [ours]."""
_COMPARISONS = 1e12
"""Multiplications that the search for near-copies may take: some seconds."""
_COMPARED_NUMBERS = 2**26
"""Numbers (256 MiB) of the samples that are compared with the remaining ones."""


def likely_causes(findings: Findings, *, forget: SampleSet, remain: SampleSet, held_out: SampleSet) -> tuple[str, ...]:
    """Name likely causes why a model that never saw the forget set fails to be verified, as sentences with counts.

    findings: the audit of that model. Empty for a verified verdict.
    """
    if findings.verdict.value == "verified":
        return ()
    copies, compared = count_near_copies(forget, remain, held_out=held_out)
    causes = []
    if copies:
        causes.append(
            f"{copies:,} of {compared:,} compared forgotten samples have a near-copy among the remaining samples, so any model "
            "trained on these knows them. If the copies belong to the same people, erase them too."
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


@torch.no_grad()
def count_near_copies(forget: SampleSet, remain: SampleSet, *, held_out: SampleSet) -> tuple[int, int]:
    """Count the forgotten samples with a near-copy in the remaining set, and how many were compared.

    Copies of held-out samples tell how near is unusually near. Of large sets as many samples are compared as some seconds allow.
    """
    if not (len(forget) and len(remain) and len(held_out)):
        return 0, 0
    width = flat_inputs(remain.select(torch.arange(1))).shape[1]
    most = max(1, min(int(_COMPARISONS / (2 * len(remain) * width)), _COMPARED_NUMBERS // width))
    usual, asked = (
        torch.cat([*map(flat_inputs, samples.take(torch.arange(min(most, len(samples)))).batches(READ_SIZE))])
        for samples in (held_out, forget)
    )
    nearest = _nearest(torch.cat([usual, asked]), remain)
    return int((nearest[len(usual) :] <= _COPY * nearest[: len(usual)].median()).sum()), len(asked)


def _nearest(samples: Tensor, others: SampleSet) -> Tensor:
    """Compute the distance of each sample (n, d) to the nearest of the others, (n,)."""
    nearest = samples.new_full((len(samples),), torch.inf)
    for compared in map(flat_inputs, others.batches(READ_SIZE)):
        nearest = torch.minimum(
            nearest, torch.cat([torch.cdist(part, compared).amin(dim=1) for part in torch.split(samples, 256)])
        )
    return nearest
