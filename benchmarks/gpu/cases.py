"""Cases at full size: the models, the reference predictions, and one run of a method."""

import copy
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import nn

from benchmarks.gpu.session import Session
from unlearning.data.references import References
from unlearning.data.samples import SampleSet
from unlearning.data.workload import HeldOut, Workload
from unlearning.methods.registry import unlearn
from unlearning.specs import Spec
from unlearning.specs.references import ReferencePlan
from unlearning.task import Task, run_to_completion
from unlearning.training.loop import fit
from unlearning.training.references import prepare_references

PLAN = ReferencePlan(folds=4, rounds=1, audit_rounds=1, epochs=1.0)
"""Reference models that saw three quarters of the data, by the whole recipe: six trainings in all."""
WITH_REFERENCES = ("matching", "ltu", "ieu")


@dataclass(kw_only=True, slots=True, eq=False)
class Trained:
    """A model and the seconds that its training took."""

    model: nn.Module
    seconds: float


@dataclass(kw_only=True, slots=True, eq=False)
class Case:
    """A forget set of one original, with a model retrained without it, and another one from another seed."""

    name: str
    seed: int
    workload: Workload
    held_out: HeldOut
    forget: SampleSet
    remain: SampleSet
    original: Trained
    retrained: Trained
    again: Trained | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class Bench:
    """What the runs share.

    specs: the methods. references: None before they are prepared. cases: of the first seed, by share. figures: case → method →
    figures, a mapping for each seed.
    """

    workload: Workload
    specs: Mapping[str, Spec]
    references: References | None = None
    reference_seconds: float = 0.0
    cases: dict[float, Case] = field(default_factory=dict)
    figures: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)


def trained(session: Session, workload: Workload, samples: SampleSet, *, seed: int) -> Trained:
    """Train by the recipe."""
    begun = session.clock()
    model = fit(workload.build, samples, workload.recipe, objective=workload.objective, seed=seed)
    return Trained(model=model.eval(), seconds=session.clock() - begun)


def prepare(session: Session, bench: Bench) -> None:
    """Prepare the reference predictions of the training and the held-out set, which serve all seeds and forget sets."""
    begun = session.clock()
    steps = prepare_references(
        bench.workload, PLAN if not session.rehearsal else replace(PLAN, folds=2), seed=1,
        folder=session.folder / "references", key=key, device=session.device,
    )  # fmt: skip
    bench.references = run_to_completion(steps)
    bench.reference_seconds = session.clock() - begun
    session.facts["references"] = {"plan": asdict(PLAN), "seconds": bench.reference_seconds}


@functools.cache
def key(sample: str) -> bytes:
    """Key a sample by the plain hash of its ID: the data are public."""
    return hashlib.sha256(sample.encode()).digest()


def unlearned(
    session: Session, bench: Bench, case: Case, method: str, spec: Spec
) -> tuple[nn.Module, float, dict[str, float]]:
    """Run a method on a copy of the original, with references where it can use them: the model, the seconds, the steps."""
    task = Task(
        model=copy.deepcopy(case.original.model), build=case.workload.build, objective=case.workload.objective,
        recipe=case.workload.recipe, forget=case.forget, remain=case.remain, guide=case.held_out.guide,
        criterion=case.held_out.criterion, seed=case.seed,
    )  # fmt: skip
    if bench.references is not None and method in WITH_REFERENCES:
        task.references = bench.references.for_method([key(sample) for sample in case.forget.ids])
    begun = session.clock()
    outcome = run_to_completion(unlearn(spec, task))
    seconds = session.clock() - begun
    if not all(bool(torch.isfinite(p).all()) for p in task.model.parameters()):
        raise ArithmeticError("the weights are not finite")
    return task.model, seconds, {"steps": outcome.steps}
