"""What tier 2 costs, told before it is spent."""

import itertools
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearning.audit.references.repeats import REPEAT_KIND
from unlearning.audit.references.shadows import SHADOW_KIND
from unlearning.audit.references.cache import finished
from unlearning.audit.references.study import Study, key, trained, unlearned
from unlearning.samples import joined
from unlearning.task import Progress
from unlearning.training import fresh

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
