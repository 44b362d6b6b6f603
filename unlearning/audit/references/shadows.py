"""Shadow models: trained with a random half of the pool, then made to forget that half by the method that is judged."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unlearning.audit.intervals import Floats
from unlearning.audit.references.cache import Arrays, resumable
from unlearning.audit.references.study import (
    Study,
    indexed,
    key,
    margins,
    members_of,
    seed_of,
    trained,
    unlearned,
)
from unlearning.samples import joined
from unlearning.task import Progress

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
