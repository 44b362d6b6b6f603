"""Extraction: how much of the forgotten samples a generating model gives away, beside samples that it never saw."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from unlearning.audit.intervals import Floats, Interval, mean_of, wilson
from unlearning.data.batches import Batch
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet
from unlearning.networks import device_of

Extraction = Mapping[str, Mapping[str, Interval]]
"""By set ("forget", "held_out") and measure: the mean share of a sample that the model gives away, 0 to 1.

The set "remain" has the measure "knowledge" alone, and no set has it where no question is asked.
"""

_BATCH = 64
"""Samples that are generated together."""


@torch.no_grad()
def measure_extraction(
    model: nn.Module,
    sets: Mapping[str, SampleSet],
    *,
    objective: Objective,
    max_samples: int,
    confidence: float,
    seed: int,
) -> Extraction:
    """Measure what `Objective.extraction` measures, on at most `max_samples` random samples of each set; empty without it.

    model: an audit's copy, in evaluation mode. Only means and their Student intervals are kept, nothing that was generated.
    """
    extraction = objective.extraction
    if extraction is None:
        return {}
    found: dict[str, dict[str, Interval]] = {}
    for name, samples in sets.items():
        generator = torch.Generator().manual_seed(seed)
        parts = [extraction(model, batch, generator) for batch in _drawn(model, samples, max_samples, generator)]
        found[name] = {
            measure: _mean(torch.cat([part[measure] for part in parts]).double().cpu().numpy(), confidence=confidence)
            for measure in parts[0]
        }
    return found


@torch.no_grad()
def measure_knowledge(
    model: nn.Module,
    sets: Mapping[str, SampleSet],
    *,
    objective: Objective,
    max_samples: int,
    confidence: float,
    seed: int,
) -> Mapping[str, Interval]:
    """Measure what `Objective.knowledge` measures, by set, as `measure_extraction` does; empty without it.

    It is the mean over the samples about which something is asked; a set without any is left out.
    """
    if objective.knowledge is None:
        return {}
    found = {}
    for name, samples in sets.items():
        batches = _drawn(model, samples, max_samples, torch.Generator().manual_seed(seed))
        scores = torch.cat([objective.knowledge(model, batch).double().cpu() for batch in batches])
        asked = scores[~scores.isnan()]
        if len(asked):
            found[name] = _mean(asked.numpy(), confidence=confidence)
    return found


def _drawn(model: nn.Module, samples: SampleSet, count: int, generator: torch.Generator) -> Iterator[Batch]:
    """Yield at most `count` samples at random, in batches on the model's device."""
    chosen = torch.randperm(len(samples), generator=generator)[:count]
    for batch in samples.stream(torch.split(chosen, _BATCH)):
        yield batch.to(device_of(model, torch.device("cpu")))


def _mean(shares: Floats, *, confidence: float) -> Interval:
    """Compute the mean of shares, (n,), with its interval, which stays between 0 and 1.

    It is Student's. Where all shares are equal, their spread tells nothing: then it is Wilson's, of hits and misses.
    """
    if float(np.ptp(shares)) < 1e-9:
        return wilson(len(shares) * float(shares.mean()), len(shares), confidence=confidence)
    return mean_of(shares, confidence=confidence)
