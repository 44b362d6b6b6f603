"""What the report draws: the spread of the losses and the ROC curves, as numbers."""

import numpy as np

from unlearning.audit.measures import Seen
from unlearning.audit.membership import Pairing, roc


def histograms(before: Seen, after: Seen, *, bins: int = 40) -> dict[str, object]:
    """Densities of the loss by set, before and after, over common bins; the last bin holds everything beyond the 99th
    percentile, so that a few wild losses do not squeeze the rest into one bar.
    """
    names = ("forget", "held_out", "remain")
    most = max(float(np.quantile(seen[name].loss, 0.99)) for seen in (before, after) for name in names)
    edges = np.linspace(0.0, most or 1.0, bins + 1)

    def densities(seen: Seen) -> dict[str, list[float]]:
        return {n: np.histogram(seen[n].loss.clip(0, edges[-1]), edges, density=True)[0].tolist() for n in names}

    return {"bins": edges.tolist(), "original": densities(before), "unlearned": densities(after)}


def roc_curves(before: Seen, after: Seen, pairing: Pairing, *, attack: str = "loss") -> dict[str, object]:
    """The ROC curve of one attack before and after."""
    curves = {
        name: roc(seen["forget"].membership(attack), seen["held_out"].membership(attack), pairing)
        for name, seen in (("original", before), ("unlearned", after))
    }
    return {"attack": attack, **curves}
