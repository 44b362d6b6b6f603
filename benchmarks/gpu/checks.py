"""The first step: every method, and an audit, on the device beside the CPU.

A method on a GPU draws its samples on the CPU, so it takes the same steps there, and must come to much the same model. IEU's noise
alone is drawn on the GPU, and is another.
"""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.session import Budget, Session
from benchmarks.machine import DEVICE
from examples import cifar
from unlearning.audit.audit import audit
from unlearning.data.objectives import classification
from unlearning.data.references import ReferencePredictions
from unlearning.data.samples import SampleSet, partition
from unlearning.methods.registry import METHODS, unlearn
from unlearning.specs import SPECS, Spec
from unlearning.specs.audit import AuditSpec
from unlearning.specs.training import Precision, Recipe
from unlearning.steps import run_to_completion
from unlearning.task import Task
from unlearning.training.loop import fit

CLASSES = 4
OBJECTIVE = classification(CLASSES)
RECIPE = Recipe(epochs=4, batch_size=16, learning_rate=0.05, precision="float32")
SHORT_RUN = {"steps": 5, "epochs": 1, "repair_steps": 5, "batch_size": 16, "query_size": 16, "attackers": 2}
NEAR: dict[Precision, float] = {"float32": 0.1, "bfloat16": 0.25}
"""Most mean total variation between the held-out predictions on the device and on the CPU, by the device's precision [ours]."""


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, CLASSES))


def convolutions() -> nn.Module:
    """Build a small residual network, channels-last."""
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), cifar.Residual(16, 32, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES),
    )  # fmt: skip
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types this overload for tensors only
    return network


NOT_COMPARED = frozenset({"rewind", "drop_adapter", "certified", "ct"})
"""They take steps of Retrain or of fine-tuning, or none, and do not suit every model."""


def conformance(session: Session, budget: Budget) -> None:
    """Run each method on the device in float32 and bf16, and note how far its model is from the CPU's, and what failed."""
    found: dict[str, Any] = {}
    session.facts["conformance"] = found
    builds = (perceptron,) if session.dry_run else (perceptron, convolutions)
    tasks = {build.__name__: _task(build) for build in builds}
    for kind in METHODS.keys() - NOT_COMPARED:
        if not budget.begins(kind):
            continue
        for name, given in tasks.items():
            cpu = _unlearned(kind, given, torch.device("cpu"), "float32")
            for precision, near in NEAR.items():
                found[f"{kind}, {name}, {precision}"] = _compared(kind, given, precision, cpu, near)
        session.write()
    for name, given in tasks.items():
        if budget.begins(f"audit, {name}"):
            found[f"audit, {name}"] = _audits_compared(given)
    failed = [name for name, entry in found.items() if not entry["passed"]]
    session.facts["conformance_failed"] = failed
    if failed:
        raise AssertionError(f"not as on the CPU: {'; '.join(failed)}")


def _compared(kind: str, given: Task, precision: Precision, cpu: nn.Module, near: float) -> dict[str, Any]:
    try:
        model = _unlearned(kind, given, DEVICE, precision).cpu()
    except Exception as error:
        return {"passed": False, "error": f"{type(error).__name__}: {error}"[:1000]}
    finite = all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
    answers = [m(given.criterion.inputs).softmax(-1).detach() for m in (model, cpu)]
    variation = float((answers[0] - answers[1]).abs().sum(-1).mean() / 2)
    moved = float((_flat(cpu) - _flat(given.model)).norm())
    distance = float((_flat(model) - _flat(cpu)).norm())
    return {
        "passed": finite and variation <= near,
        "finite": finite,
        "total_variation": variation,
        "relative_distance": distance / moved if moved else math.inf,
    }


_AUDIT = AuditSpec(replicates=100, vector_seeds=1, relearn_steps=6, relearn_limit=1.5, relearn_controls=3)
_MEASURES = {"ua": 5.0, "ra": 2.0, "ta": 5.0, "mi": 10.0}
"""Most points by which a measure of the same model may differ between the device and the CPU [ours]."""


def _audits_compared(given: Task) -> dict[str, Any]:
    """Audit the untouched original beside a retrained model on the device and on the CPU: both must fail it, with like measures."""
    retrained = fit(given.build, given.remain, RECIPE, objective=OBJECTIVE, seed=1)
    verdicts, tables = [], []
    try:
        for where in (DEVICE, torch.device("cpu")):
            models = [copy.deepcopy(model).to(where) for model in (given.model, given.model, retrained)]
            findings = run_to_completion(
                audit(
                    original=models[0], unlearned=models[1], reference=models[2], forget=given.forget.to(where),
                    remain=given.remain.to(where), held_out=given.criterion.to(where), test=given.guide.to(where),
                    objective=OBJECTIVE, spec=_AUDIT,
                )
            )  # fmt: skip
            verdicts.append(findings.verdict.value)
            tables.append(findings.measures["unlearned"].table)
    except Exception as error:
        return {"passed": False, "error": f"{type(error).__name__}: {error}"[:1000]}
    near = all(abs(tables[0][name] - tables[1][name]) <= points for name, points in _MEASURES.items())
    return {"passed": near and verdicts == ["failed", "failed"], "verdicts": verdicts, "measures": tables}


def _task(build: Callable[[], nn.Module]) -> Task:
    """Make a small task: images with a weak signal, of which a network remembers those that it was trained on."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(CLASSES, (200,), generator=generator)
    inputs = (
        torch.randn(200, 3, 8, 8, generator=generator)
        + 0.3 * torch.randn(CLASSES, 3, 8, 8, generator=generator)[targets]
    )
    everything = SampleSet(ids=tuple(f"{i}" for i in range(200)), inputs=inputs, targets=targets)
    train, guide, criterion = partition(everything, (120, 40, 40), seed=0)
    forget, remain = partition(train, (24, 96), seed=0)
    return Task(
        model=fit(build, train, RECIPE, objective=OBJECTIVE, seed=0),
        build=build, objective=OBJECTIVE, recipe=RECIPE, forget=forget, remain=remain, guide=guide, criterion=criterion,
        references=ReferencePredictions(
            predictions=torch.full((24, CLASSES), 1 / CLASSES), losses=torch.full((24,), math.log(CLASSES))
        ),
    )  # fmt: skip


def _unlearned(kind: str, given: Task, device: torch.device, precision: Precision) -> nn.Module:
    sets = {name: getattr(given, name).to(device) for name in ("forget", "remain", "guide", "criterion")}
    task = dataclasses.replace(
        given,
        model=copy.deepcopy(given.model).to(device),
        recipe=dataclasses.replace(RECIPE, precision=precision),
        references=given.references if kind == "matching" else None,
        state=type(given.state)(),
        **sets,
    )
    run_to_completion(unlearn(few(kind), task))
    return task.model


def few(kind: str) -> Spec:
    """Return a method's defaults with few and small steps."""
    cls: Any = SPECS[kind]
    names = {field.name for field in dataclasses.fields(cls)}
    spec: Spec = cls(**{name: value for name, value in SHORT_RUN.items() if name in names})
    return spec


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])
