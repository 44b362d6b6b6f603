"""What all runs on the GPU share: the workload, the reference predictions, and one run of a method.

Cases are those of `benchmarks.cases`; the models that they store lie in the session's folder, which is deleted at the end.
"""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from torch import nn

from benchmarks.cases import Case, key, keys
from benchmarks.gpu.session import Session
from benchmarks.judging import task_of
from benchmarks.machine import DEVICE, seconds
from unlearning.data.references import References
from unlearning.data.workload import Workload
from unlearning.errors import NotFinite
from unlearning.methods.registry import unlearn
from unlearning.networks import is_finite
from unlearning.specs import Spec
from unlearning.specs.references import ReferencePlan
from unlearning.steps import run_to_completion
from unlearning.training.references import prepare_references

PLAN = ReferencePlan(folds=4, rounds=1, audit_rounds=1, epochs=1.0)
"""Eight reference models that saw three quarters of the data, by the whole recipe: they cost as much as six trainings."""
WITH_REFERENCES = ("matching", "ltu", "ieu")


@dataclass(kw_only=True, slots=True, eq=False)
class Bench:
    """What the runs share.

    specs: the methods. references: None before they are prepared. cases: of the first seed, by share. figures: case → method →
    figures, a mapping for each seed.
    """

    workload: Workload
    specs: Mapping[str, Spec]
    references: References | None = None
    cases: dict[float, Case] = field(default_factory=dict)
    figures: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)


def prepare(session: Session, bench: Bench) -> float:
    """Prepare the reference predictions of the training and the held-out set, which serve all seeds; return the seconds it took."""
    plan = replace(PLAN, folds=2) if session.dry_run else PLAN
    begun = seconds()
    steps = prepare_references(
        bench.workload, plan, seed=1, folder=session.folder / "references", key=functools.cache(key), device=DEVICE
    )
    bench.references = run_to_completion(steps)
    taken = seconds() - begun
    session.facts["references"] = {"plan": asdict(plan), "seconds": taken}
    return taken


def unlearned(bench: Bench, case: Case, method: str, spec: Spec) -> tuple[nn.Module, float, dict[str, float]]:
    """Run a method on a copy of the original, with references where it can use them: the model, the seconds, the steps.

    Raises NotFinite for a model whose weights are not finite, and what the method raises.
    """
    task = task_of(case)
    if bench.references is not None and method in WITH_REFERENCES:
        task.references = bench.references.for_method(keys(case.forget), key=key)
    begun = seconds()
    outcome = run_to_completion(unlearn(spec, task))
    taken = seconds() - begun
    if not is_finite(task.model):
        raise NotFinite("the weights are not finite")
    return task.model, taken, {"steps": outcome.steps}
