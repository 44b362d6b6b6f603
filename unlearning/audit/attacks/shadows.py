"""Shadow models: trained with a random half of the pool, then made to forget that half by the method that is judged."""

import itertools
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from unlearning.audit.attacks.cache import Arrays, finished, resumable
from unlearning.audit.attacks.study import Study, indexed, key, margins, members_of, seed_of, trained, unlearned
from unlearning.audit.intervals import Floats
from unlearning.audit.signals import frozen, observe
from unlearning.data.samples import SampleSet, joined
from unlearning.task import Progress
from unlearning.training.loop import fresh

SHADOW_KIND = "shadows"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shadows:
    """What k shadow models showed.

    members: (k, n), which of the pool each was trained on. before, after: (k, n + m), the margins of the pool and the population,
    as trained and after the members were unlearned.
    """

    members: NDArray[np.bool_]
    before: Floats
    after: Floats


def shadows(of: Study, *, count: int, folder: Path) -> Generator[Progress, None, Shadows]:
    """Train and unlearn `count` shadow models, an even number, or take from `folder` what they showed in an earlier run."""
    results = yield from resumable(lambda number: shadow(of, number), count=count, folder=folder / key(of, SHADOW_KIND))
    return Shadows(
        members=np.stack([found["members"] for found in results]),
        before=np.stack([found["before"] for found in results]),
        after=np.stack([found["after"] for found in results]),
    )


def shadow(of: Study, number: int) -> Generator[Progress, None, Arrays]:
    """One shadow model: what it showed, before and after."""
    members = members_of(of, number)
    inside, seen = of.pool.take(indexed(members)), joined(of.pool, of.population)
    seed = seed_of(of, 0, number)
    model = yield from trained(of, joined(of.task.remain, inside), seed=seed)
    before = margins(model, seen, of.task.objective)
    yield from unlearned(of, model, inside, seed=seed)
    return {"members": members, "before": before, "after": margins(model, seen, of.task.objective)}


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


_TIMED = 6
"""Steps that are timed of a training and of an unlearning, the first not counted for the others: it prepares."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """shadows, repeats: how many runs are left of each, those whose results are on disk not counted.

    seconds: all together, estimated from some steps of one training and one unlearning on this machine; an unlearning that ends
    before its last step takes less.
    """

    shadows: int
    repeats: int
    seconds: float


def cost(of: Study, *, shadow_count: int, repeat_count: int, folder: Path) -> Cost:
    """Time some steps of each kind and multiply."""
    left = {
        kind: count - finished(folder / key(of, kind), count=count)
        for kind, count in ((SHADOW_KIND, shadow_count), (REPEAT_KIND, repeat_count))
    }
    training = _seconds(trained(of, joined(of.task.remain, of.task.forget), seed=of.seed))
    model = fresh(of.task.build, seed=of.seed).to(of.task.forget.inputs.device).eval()
    forgetting = _seconds(unlearned(of, model, of.task.forget, seed=of.seed))
    seconds = left[SHADOW_KIND] * (training + forgetting) + left[REPEAT_KIND] * (2 * training + forgetting)
    return Cost(shadows=left[SHADOW_KIND], repeats=left[REPEAT_KIND], seconds=seconds)


def _seconds(steps: Generator[Progress, None, Any]) -> float:
    """What all steps of a run take, from its first few."""
    started = time.perf_counter()
    marks, total = [], 0
    for progress in itertools.islice(steps, _TIMED):
        marks.append(time.perf_counter())
        total = progress.total
    steps.close()
    if len(marks) < 2:
        return time.perf_counter() - started
    return marks[0] - started + (total - 1) * (marks[-1] - marks[0]) / (len(marks) - 1)
