"""KLoM: how far each sample's margin under unlearned models is from that under models retrained without it, as distributions.

KL( retrained ‖ unlearned ) of one sample's margins over many models, from histograms of 20 bins over both, margins clipped to
± 100 (Georgiev et al., Attribute-to-Delete, 2024). 0 is a perfect match, and finitely many models never reach it: see its null.
"""

import numpy as np

from unlearning.audit.intervals import Floats

_BINS = 20
_CLIP = 100.0
_LEAST = 1e-5


def klom(unlearned: Floats, retrained: Floats) -> Floats:
    """The divergence of each sample, (n,), nats. unlearned: margins (k, n). retrained: margins (l, n)."""
    columns = zip(unlearned.clip(-_CLIP, _CLIP).T, retrained.clip(-_CLIP, _CLIP).T, strict=True)
    return np.array([_divergence(one, other) for one, other in columns])


def _divergence(unlearned: Floats, retrained: Floats) -> float:
    low, high = min(unlearned.min(), retrained.min()), max(unlearned.max(), retrained.max())
    if low == high:
        return 0.0
    edges = np.linspace(low, high, _BINS + 1)
    q, p = (
        (np.histogram(values, edges)[0] / len(values) + _LEAST) / (1 + _BINS * _LEAST)
        for values in (unlearned, retrained)
    )
    return float((p * np.log(p / q)).sum())
