"""The cost of unlearning compared with retraining, in CPU seconds of one thread; each ratio is taken within one run.

    python -m benchmarks.speed --case digits cifar --seeds 100 101 102

By method; by the size of the forget set (1 to 1,000); by the remaining set at a fixed |D̂_r|; a step of LTU compared with the
forward and backward passes that it needs; bf16 and channels-last compared with float32; batched inference compared with one
large batch. `benchmarks.readiness` has what Ready2Unlearn adds to training.
"""

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec

import torch
from torch import Tensor, nn

from benchmarks import machine
from benchmarks.cases import Case, case
from benchmarks.command_line import cases_and_seeds
from benchmarks.judging import task_of
from benchmarks.methods import AT_DEFAULTS, tuned, without_references
from benchmarks.writing import Row, row, write
from unlearning.data.batches import Batch
from unlearning.data.objectives import answers
from unlearning.data.samples import SampleSet
from unlearning.gradients import flat_gradient, forward_with, trainable
from unlearning.hardware import batched_answers
from unlearning.methods.ltu.feedback import meta_gradient
from unlearning.methods.registry import unlearn
from unlearning.specs import LTU, Retrain, Spec
from unlearning.specs.training import Precision, Recipe
from unlearning.steps import run_to_completion
from unlearning.task import Task
from unlearning.training.loop import fresh, train

P = ParamSpec("P")
SIZES = (1, 10, 100, 1000)
REMAINING = (1000, 1500, 2000)
STEPS = 20


def main() -> None:
    """Time everything and write the rows."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name, seeds in cases_and_seeds(__doc__):
        cases = [case(name, seed) for seed in seeds]
        for part in (methods, sizes, remaining, step, precisions, inference):
            begun = time.perf_counter()
            rows += part(name, cases)
            print(f"{name} {part.__name__}: {time.perf_counter() - begun:.0f} s", flush=True)
            write("speed", rows)


def methods(name: str, cases: Sequence[Case]) -> list[Row]:
    """Time each method, and its ratio to retraining in the same run."""
    seconds: dict[str, list[float]] = {}
    for prepared in cases:
        specs = tuned(name)
        ltu = specs["ltu"]
        assert isinstance(ltu, LTU)
        first_order = dataclasses.replace(ltu, order="first")
        named = {without_references(kind): spec for kind, spec in specs.items()}
        for label, spec in {"retrain": Retrain(), "ltu_first_order": first_order, **named}.items():
            seconds.setdefault(label, []).append(timed(run, spec, task_of(prepared)))
    rows = [row(v, case=name, method=k, metric="seconds", unit="seconds") for k, v in seconds.items()]
    return rows + [
        row(_over(v, seconds["retrain"]), case=name, method=k, metric="retrain_ratio", unit="ratio")
        for k, v in seconds.items()
    ]


def sizes(name: str, cases: Sequence[Case]) -> list[Row]:
    """Time LTU and IEU on 1 to 1,000 forgotten samples, relative to their time on 100."""
    rows = []
    for label, spec in AT_DEFAULTS.items():
        seconds = {size: [timed(run, spec, _forgetting(c, size)) for c in cases] for size in SIZES}
        rows += [
            row(
                _over(v, seconds[100]),
                case=f"{name}, {k} forgotten",
                method=without_references(label),
                metric="time_ratio",
                unit="ratio",
            )
            for k, v in seconds.items()
        ]
    return rows


def remaining(name: str, cases: Sequence[Case]) -> list[Row]:
    """Time LTU with |D̂_r| = 500 from remaining sets of different sizes, relative to the smallest."""
    spec = LTU(remain_share=1e-6, remain_least=500)
    seconds = {size: [timed(run, spec, _remaining(c, size)) for c in cases] for size in REMAINING}
    return [
        row(
            _over(v, seconds[REMAINING[0]]),
            case=f"{name}, {k} remaining",
            method=without_references("ltu"),
            metric="time_ratio",
            unit="ratio",
        )
        for k, v in seconds.items()
    ]


def step(name: str, cases: Sequence[Case]) -> list[Row]:
    """Time LTU's remembering gradient relative to its passes alone: the support's differentiable gradient, then one backward pass
    through it and through the queries.
    """
    ratios: dict[str, list[float]] = {"second": [], "first": []}
    for prepared in cases:
        model = copy.deepcopy(prepared.original.model)
        generator = torch.Generator().manual_seed(prepared.seed)
        batches = [prepared.remain.draw(64, generator) for _ in range(4)]
        for order, found in ratios.items():
            whole = _median(_meta, prepared, model, batches, order)
            passes = _median(_passes, prepared, model, batches, order)
            found.append(whole / passes)
    return [
        row(v, case=name, method=f"ltu step, {k} order", metric="passes_ratio", unit="ratio") for k, v in ratios.items()
    ]


def precisions(name: str, cases: Sequence[Case]) -> list[Row]:
    """Time one epoch of plain training in contiguous float32 relative to bf16 and to channels-last."""
    found: dict[str, list[float]] = {}
    for prepared in cases:
        plain = _epoch(prepared, "float32", torch.contiguous_format)
        for label, precision, layout in (
            ("channels_last", "float32", torch.channels_last),
            ("bfloat16", "bfloat16", torch.contiguous_format),
            ("bfloat16, channels_last", "bfloat16", torch.channels_last),
        ):
            found.setdefault(label, []).append(plain / _epoch(prepared, precision, layout))  # type: ignore[arg-type]  # a Precision
    return [row(v, case=name, method=k, metric="speed_up", unit="ratio") for k, v in found.items()]


def inference(name: str, cases: Sequence[Case]) -> list[Row]:
    """Time the held-out set in one batch relative to batched inference, which a check of the calibrated stop consists of."""
    found = []
    for prepared in cases:
        model, batch, objective = prepared.original.model, prepared.workload.held_out.batch, prepared.workload.objective
        with torch.no_grad():
            found.append(_median(answers, objective, model, batch) / _median(batched_answers, objective, model, batch))
    return [row(found, case=name, method="batched inference", metric="speed_up", unit="ratio")]


def timed(work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> float:
    """Time a call, in seconds: of one CPU thread, or of the GPU."""
    begun = machine.seconds()
    work(*args, **kwargs)
    return machine.seconds() - begun


def run(spec: Spec, task: Task) -> None:
    """Run the method to completion."""
    run_to_completion(unlearn(spec, task))


def _forgetting(prepared: Case, size: int) -> Task:
    """Make a task that forgets the first `size` training samples."""
    everything = prepared.workload.train
    chosen = torch.arange(len(everything)) < size
    task = task_of(prepared)
    return dataclasses.replace(
        task,
        forget=everything.take(chosen.nonzero().flatten()),
        remain=everything.take((~chosen).nonzero().flatten()),
    )


def _remaining(prepared: Case, size: int) -> Task:
    task = task_of(prepared)
    return dataclasses.replace(task, remain=task.remain.take(torch.arange(min(size, len(task.remain)))))


def _meta(prepared: Case, model: nn.Module, batches: Sequence[Batch], order: str) -> Tensor:
    losses = prepared.workload.objective.losses
    loss = [lambda forward, b=batch: losses(forward, b).mean() for batch in batches]
    return meta_gradient(model, support=loss[0], queries=loss[1:], inner_rate=LTU().inner_rate, order=order)  # type: ignore[arg-type]  # a Literal


def _passes(prepared: Case, model: nn.Module, batches: Sequence[Batch], order: str) -> Tensor:
    """Do the same arithmetic without LTU's code around it."""
    losses, parameters = prepared.workload.objective.losses, trainable(model)
    support = losses(forward_with(model, parameters), batches[0]).mean()
    inner = torch.autograd.grad(
        support, list(parameters.values()), create_graph=order == "second", retain_graph=True, allow_unused=True
    )
    moved = {k: p - LTU().inner_rate * g for (k, p), g in zip(parameters.items(), inner, strict=True) if g is not None}
    forward = forward_with(model, {**parameters, **moved})
    return flat_gradient(support + sum(losses(forward, batch).mean() for batch in batches[1:]), parameters)


def _median(work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> float:
    work(*args, **kwargs)
    return sorted(timed(work, *args, **kwargs) for _ in range(STEPS))[STEPS // 2]


def _epoch(prepared: Case, precision: Precision, layout: torch.memory_format) -> float:
    samples = prepared.workload.train
    samples = SampleSet(
        ids=samples.ids, inputs=samples.inputs.contiguous(memory_format=layout), targets=samples.targets
    )
    model = fresh(prepared.workload.build, seed=prepared.seed).to(memory_format=layout)  # type: ignore[call-overload]  # torch types this overload for tensors only
    recipe = Recipe(epochs=1, batch_size=64, learning_rate=0.01, precision=precision)
    return timed(run_to_completion, train(model, samples, recipe, objective=prepared.workload.objective, seed=0))


def _over(values: Sequence[float], by: Sequence[float]) -> list[float]:
    return [value / other for value, other in zip(values, by, strict=True)]


if __name__ == "__main__":
    main()
