"""What the runs of tier 2 are about: a method, a task, and who is in and who is out in each of them."""

import hashlib
import json
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unlearning.audit.intervals import Floats
from unlearning.audit.signals import frozen, observe
from unlearning.data.objectives import Objective
from unlearning.data.samples import SampleSet, joined, partition
from unlearning.errors import MethodRefused
from unlearning.methods.registry import unlearn
from unlearning.specs import Spec
from unlearning.state import State
from unlearning.task import Outcome, Progress, Task
from unlearning.training.loop import fresh, train

POPULATION = 1000
"""At most so many samples for RMIA's population."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Study:
    """spec: the method that is judged. task: the run that is judged, on the original model. seed: of everything drawn here.

    others: as many samples of the audit's part of D_v as D_f has, or half of that part where it is smaller; pool: D_f and they, of
    which each shadow model is trained on a half. population: the rest of that part, at most 1,000, which no model is trained on.
    """

    spec: Spec
    task: Task
    others: SampleSet
    population: SampleSet
    seed: int

    @property
    def pool(self) -> SampleSet:
        """D_f, then the others."""
        return joined(self.task.forget, self.others)


def study(spec: Spec, task: Task, held_out: SampleSet, *, seed: int) -> Study:
    """Split the audit's part of D_v. Raises MethodRefused with fewer than four samples in it, or without logits."""
    if task.objective.logits is None:
        raise MethodRefused("Attacks with reference models need logits; this objective has none.")
    if len(held_out) < 4:
        raise MethodRefused(
            f"Attacks with reference models need 4 held-out samples or more; there are {len(held_out)}."
        )
    count = min(len(task.forget), len(held_out) // 2)
    rest = min(POPULATION, len(held_out) - count)
    others, population = partition(held_out, (count, rest), seed=seed)
    return Study(spec=spec, task=task, others=others, population=population, seed=seed)


def members_of(of: Study, number: int) -> NDArray[np.bool_]:
    """Which of the pool shadow model `number` is trained on, (n,): a random half, and for an odd number the other half.

    So with an even number of models each sample is in half of them exactly.
    """
    n = len(of.pool)
    chosen = np.zeros(n, dtype=np.bool_)
    chosen[np.random.default_rng([of.seed, number // 2]).permutation(n)[: n // 2]] = True
    return ~chosen if number % 2 else chosen


def seed_of(of: Study, *which: int) -> int:
    """A seed of its own for each run and purpose."""
    return int(np.random.SeedSequence([of.seed, *which]).generate_state(1)[0])


def key(of: Study, kind: str) -> str:
    """A name for a folder of results: equal for equal method, recipe, architecture, data and seed. SHA-256 hex."""
    digest = hashlib.sha256()
    # The initial weights stand for the architecture, the tensors for the data, the names of the sets for their borders.
    words = [kind, of.seed, asdict(of.spec), repr(of.task.recipe)]
    digest.update(json.dumps(words, sort_keys=True).encode())
    for name, tensor in fresh(of.task.build, seed=0).state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    sets = (of.task.forget, of.task.remain, of.task.guide, of.task.criterion, of.others, of.population)
    for samples in sets:
        for tensor in samples.batch:
            digest.update(repr(tuple(tensor.shape)).encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def trained(of: Study, samples: SampleSet, *, seed: int) -> Generator[Progress, None, nn.Module]:
    """A new model of the architecture, trained on `samples` by the recipe."""
    model = fresh(of.task.build, seed=seed).to(samples.inputs.device)
    yield from train(model, samples, of.task.recipe, objective=of.task.objective, seed=seed)
    return model


def unlearned(of: Study, model: nn.Module, forget: SampleSet, *, seed: int) -> Generator[Progress, None, Outcome]:
    """Let the study's method make `model` forget `forget`, in place."""
    task = replace(of.task, model=model, forget=forget, seed=seed, state=State())
    return (yield from unlearn(of.spec, task))


def margins(model: nn.Module, samples: SampleSet, objective: Objective) -> Floats:
    """φ of each sample, (n,) float64."""
    return observe(frozen(model), samples, objective=objective).margin


def indexed(mask: NDArray[np.bool_]) -> torch.Tensor:
    """The places where the mask is true."""
    return torch.from_numpy(np.flatnonzero(mask))
