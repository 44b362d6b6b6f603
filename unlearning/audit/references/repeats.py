"""The same unlearning again and again, beside retraining: how the two differ as distributions over training's randomness."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from unlearning.audit.intervals import Floats
from unlearning.audit.references.cache import Arrays, resumable
from unlearning.audit.references.study import Study, key, margins, seed_of, trained, unlearned
from unlearning.audit.signals import frozen, observe
from unlearning.samples import SampleSet, joined
from unlearning.task import Progress

REPEAT_KIND = "repeats"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Repeats:
    """unlearned, retrained: margins of D_f through k models of each kind, (k, n).

    unlearned_accuracies, retrained_accuracies: theirs on D_r and on held-out data, (k, 2), 0 to 1.
    """

    unlearned: Floats
    retrained: Floats
    unlearned_accuracies: Floats
    retrained_accuracies: Floats

    @property
    def utility(self) -> float:
        """The product over both sets of the mean accuracy's ratio to retraining, as the challenge has it."""
        kept, wanted = self.unlearned_accuracies.mean(axis=0), self.retrained_accuracies.mean(axis=0)
        return float(np.prod(kept / np.maximum(wanted, 1e-12)))


def repeats(of: Study, *, count: int, folder: Path) -> Generator[Progress, None, Repeats]:
    """`count` times: train an original, unlearn D_f, retrain; or take from `folder` what the models showed in an earlier run."""
    results = yield from resumable(lambda number: repeat(of, number), count=count, folder=folder / key(of, REPEAT_KIND))

    def stacked(name: str) -> Floats:
        return np.stack([found[name] for found in results])

    return Repeats(
        unlearned=stacked("unlearned"),
        retrained=stacked("retrained"),
        unlearned_accuracies=stacked("unlearned_accuracies"),
        retrained_accuracies=stacked("retrained_accuracies"),
    )


def repeat(of: Study, number: int) -> Generator[Progress, None, Arrays]:
    """One original unlearned and one model retrained, from seeds that no other has."""
    forget, remain = of.task.forget, of.task.remain
    seed = seed_of(of, 1, number)
    model = yield from trained(of, joined(remain, forget), seed=seed)
    yield from unlearned(of, model, forget, seed=seed)
    oracle = yield from trained(of, remain, seed=seed_of(of, 2, number))
    return {
        "unlearned": margins(model, forget, of.task.objective),
        "retrained": margins(oracle, forget, of.task.objective),
        "unlearned_accuracies": _accuracies(of, model),
        "retrained_accuracies": _accuracies(of, oracle),
    }


def _accuracies(of: Study, model: nn.Module) -> Floats:
    def accuracy(samples: SampleSet) -> float:
        return float(observe(frozen(model), samples, objective=of.task.objective).correct.mean())

    return np.array([accuracy(of.task.remain), accuracy(of.population)])
