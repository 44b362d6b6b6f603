"""Run a method on a case and audit the result against the retrained model. Results are stored, so that tables share runs."""

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import machine
from benchmarks.cases import Case, all_settings, ids_digest, key, keys, kind_of_predictions, stored
from unlearning.audit.audit import audit
from unlearning.audit.findings import Findings
from unlearning.audit.reference_test import AuditReferences
from unlearning.data.references import References
from unlearning.data.references import to_bytes as to_bytes_of_references
from unlearning.data.samples import SampleSet, joined
from unlearning.files import content_sha256
from unlearning.hardware import batched_answers
from unlearning.methods.registry import unlearn
from unlearning.specs import Spec
from unlearning.specs.audit import AuditSpec
from unlearning.specs.references import ReferencePlan
from unlearning.steps import Outcome, run_to_completion
from unlearning.storage import to_bytes
from unlearning.task import Task
from unlearning.tuning import Judge

TABLE = ("ua", "ra", "ta", "mi")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The result of one run. figures: metric → value.

    seconds: wall-clock seconds of the method. processor_seconds: CPU seconds of all its threads; on a GPU wall-clock seconds.
    """

    figures: Mapping[str, float]
    verdict: str
    sentence: str
    steps: int
    stopped_because: str
    seconds: float
    processor_seconds: float


def judged(case: Case, spec: Spec, *, references: References | None = None) -> Judged:
    """Run the method on a copy of the case's original and audit the result, or read the result of an earlier run."""

    def run() -> Judged:
        task = task_of(case, references)
        begun, begun_work = time.perf_counter(), machine.seconds()
        outcome = run_to_completion(unlearn(spec, task))
        seconds, work_seconds = time.perf_counter() - begun, machine.seconds() - begun_work
        return _audit(case, task.model, outcome, seconds, work_seconds, references)

    return _stored(case, asdict(spec) | ({} if references is None else {"references": digest_of(references)}), run)


def digest_of(references: References) -> str:
    """Compute the SHA-256, as hex, of references without how they were prepared."""
    return content_sha256(to_bytes_of_references(replace(references, details={})))


def judged_model(case: Case, model: nn.Module) -> Judged:
    """Audit a given model, such as the original or another retrained one."""
    untouched = Outcome(steps=0, stopped_because="completed")
    what = {"weights": content_sha256(to_bytes(model))}
    return _stored(case, what, lambda: _audit(case, model, untouched, 0.0, 0.0))


def task_of(case: Case, references: References | None = None) -> Task:
    """Make a task with a copy of the original."""
    return Task(
        model=copy.deepcopy(case.original.model),
        build=case.workload.build,
        objective=case.workload.objective,
        recipe=case.workload.training,
        forget=case.forget,
        remain=case.remain,
        guide=case.held_out.guide,
        criterion=case.held_out.criterion,
        seed=case.seed,
        references=None if references is None else references.for_method(keys(case.forget), key=key),
    )


def task_for(case: Case, method: str, references: References | None) -> Task:
    """Make the task of a method in a table, with references if its name there says so."""
    return task_of(case, references if method.endswith("references") else None)


def judge_by_losses(case: Case, *, log: bool = False) -> Judge:
    """Score a model by its distance from a retrained one: the mean gap of the mean losses of forget, remaining and held-out set.

    log: of their logarithms, for losses of different magnitude.
    """
    sets = (case.forget, case.remain, joined(case.held_out.guide, case.held_out.criterion))

    def means(model: nn.Module) -> list[float]:
        found = (losses(case, model, samples) for samples in sets)
        return [float((each.log() if log else each).mean()) for each in found]

    wanted = means(case.retrained.model)
    return lambda model: float(np.mean(np.abs(np.subtract(means(model.eval()), wanted))))


class Scale(ABC):
    """What the models of a case are measured by. What was measured is stored under `name`, so that an interrupted run goes on.

    plan: of the reference predictions that methods get.
    """

    def __init__(self, name: str, prepared: Case, plan: ReferencePlan) -> None:
        self.name, self.prepared, self.plan = name, prepared, plan

    def of_method(self, name: str, spec: Spec, references: References | None) -> dict[str, float]:
        """Run a method and measure the result, or read what an earlier run measured."""

        def run() -> tuple[nn.Module, dict[str, float]]:
            task = task_for(self.prepared, name, references)
            begun = machine.seconds()
            run_to_completion(unlearn(spec, task))
            return task.model.eval(), {"seconds": machine.seconds() - begun}

        what: dict[str, object] = {"method": name, "spec": all_settings(spec), "plan": all_settings(self.plan)}
        return self._stored(what | kind_of_predictions(self.prepared.workload), run)

    def of_model(self, model: nn.Module) -> dict[str, float]:
        """Measure a model, or read what an earlier run measured."""
        return self._stored({"weights": content_sha256(to_bytes(model))}, lambda: (model, {}))

    @abstractmethod
    def measured(self, model: nn.Module) -> dict[str, float]:
        """Measure a model: metric → value."""

    def _stored(
        self, what: Mapping[str, object], run: Callable[[], tuple[nn.Module, dict[str, float]]]
    ) -> dict[str, float]:
        key = {
            "case": self.prepared.name,
            "seed": self.prepared.seed,
            "train": ids_digest(self.prepared.workload.train),
            "forget": ids_digest(self.prepared.forget),
            "what": what,
            "torch": torch.__version__,
            **machine.identity(),
        }

        def measure() -> dict[str, float]:
            model, figures = run()
            return {**figures, **self.measured(model)}

        return stored(self.name, key, measure)


def losses(case: Case, model: nn.Module, samples: SampleSet) -> Tensor:
    """Compute the loss of each sample, (n,)."""
    return batched_answers(case.workload.objective, model, samples).losses.cpu()


def _audit(
    case: Case,
    model: nn.Module,
    outcome: Outcome,
    seconds: float,
    processor_seconds: float,
    references: References | None = None,
) -> Judged:
    findings = run_to_completion(
        audit(
            original=case.original.model,
            unlearned=model,
            reference=case.retrained.model,
            forget=case.forget,
            remain=case.remain,
            held_out=case.held_out.audit,
            test=case.workload.test,
            objective=case.workload.objective,
            spec=AuditSpec(),
            seed=case.seed,
            references=None if references is None else _rows(case, references),
        )
    )
    return Judged(
        figures=_figures(findings),
        verdict=findings.verdict.value,
        sentence=findings.verdict.sentence,
        steps=outcome.steps,
        stopped_because=outcome.stopped_because,
        seconds=seconds,
        processor_seconds=processor_seconds,
    )


def audited(
    case: Case, model: nn.Module, *, spec: AuditSpec, references: References | None, until_failed: bool = False
) -> Findings:
    """Audit a model as a job does, without a retrained one."""
    return run_to_completion(
        audit(
            original=case.original.model,
            unlearned=model,
            forget=case.forget,
            remain=case.remain,
            held_out=case.held_out.audit,
            test=case.workload.test,
            objective=case.workload.objective,
            spec=spec,
            seed=case.seed,
            references=None if references is None else _rows(case, references),
            until_failed=until_failed,
        )
    )


def _rows(case: Case, references: References) -> AuditReferences:
    return AuditReferences(
        forget=references.take(keys(case.forget)),
        remain=references.take(keys(case.remain)),
        held_out=references.take(keys(case.held_out.audit)),
    )


def _figures(findings: Findings) -> dict[str, float]:
    measures = findings.measures
    comparison = findings.comparison
    assert comparison is not None
    figures = dict(measures["unlearned"].table)
    figures |= {f"{name}_gap": gap for name, gap in comparison.gaps.items()}
    figures |= {
        "average_gap": comparison.average_gap,
        "tow": comparison.tow,
        "ta_lost": measures["original"].table["ta"] - figures["ta"],
        "membership_auc": findings.membership.unlearned["loss"].auc.value,
    }
    for relearning in findings.relearnings:
        kind, ratio = relearning.kind, relearning.reference_ratio
        figures[f"relearn_delay_{kind}"] = relearning.unlearned_delay
        if relearning.ratio is not None:
            figures[f"relearn_delay_to_control_{kind}"] = relearning.ratio.value
        if ratio is not None and relearning.relearner is not None:
            figures[f"relearn_delay_ratio_{kind}"] = ratio
        if relearning.normalised is not None:
            figures[f"relearn_delay_normalised_{kind}"] = relearning.normalised
    return figures


def _stored(case: Case, what: Mapping[str, object], run: Callable[[], Judged]) -> Judged:
    key = {
        "case": case.name,
        "seed": case.seed,
        "forget": ids_digest(case.forget),
        "recipe": all_settings(case.workload.recipe),
        "method": what,
        **machine.identity(),
    }
    return Judged(**stored("judged", key, lambda: asdict(run())))
