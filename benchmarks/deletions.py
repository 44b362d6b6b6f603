"""LTU and IEU at their defaults on every kind of request: half the data, a class, a part of a class, one sample, five in a row.

    python -m benchmarks.deletions --case digits --seeds 100 101 102

The original and a second retrained model are given for comparison. "Five in a row" are five requests, each for a fifth of a
tenth of the
data: each starts from the model that the previous one left, and at the end the first fifth must still be forgotten.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.cases import Case, case
from benchmarks.command_line import cases_and_seeds
from benchmarks.judging import Judged, judged, judged_model, task_of
from benchmarks.methods import AT_DEFAULTS
from benchmarks.readiness import accuracy
from benchmarks.writing import Row, metric_rows, row, share_row, write
from unlearning.data.samples import SampleSet, joined, partition
from unlearning.methods.registry import unlearn
from unlearning.specs import Spec
from unlearning.steps import run_to_completion

UNITS = {"average_gap": "points", "ua": "percent", "ra": "percent", "ta": "percent", "ta_lost": "points"}
PARTS = 5


def one_class(samples: SampleSet, seed: int) -> Tensor:
    """Mark all samples of one class, chosen by the seed, (n,) bool."""
    return samples.targets == seed % 10


def part_of_a_class(samples: SampleSet, seed: int) -> Tensor:
    """Mark the third of one class that is nearest to its first sample by mean squared difference of 4 x 4 means, (n,) bool."""
    inside = one_class(samples, seed).nonzero().flatten()
    seen = functional.avg_pool2d(samples.inputs[inside], 4).flatten(1)
    nearest = (seen - seen[0]).square().mean(1).argsort()[: len(inside) // 3]
    chosen = torch.zeros(len(samples), dtype=torch.bool, device=inside.device)
    chosen[inside[nearest]] = True
    return chosen


SETTINGS: dict[str, Callable[[str, int], Case]] = {
    "10 %": lambda name, seed: case(name, seed),
    "50 %": lambda name, seed: case(name, seed, share=0.5),
    "one class": lambda name, seed: case(name, seed, forget=one_class),
    "part of a class": lambda name, seed: case(name, seed, forget=part_of_a_class),
    "one sample": lambda name, seed: case(name, seed, share=1e-9),
}


def main() -> None:
    """Run both methods in all settings on all seeds and write the rows."""
    rows: list[Row] = []
    for name, seeds in cases_and_seeds(__doc__):
        for setting, prepare in SETTINGS.items():
            found: dict[str, list[Judged]] = {}
            for seed in seeds:
                prepared = prepare(name, seed)
                found.setdefault("original", []).append(judged_model(prepared, prepared.original.model))
                found.setdefault("retrain", []).append(judged_model(prepared, prepared.again.model))
                for label, spec in AT_DEFAULTS.items():
                    found.setdefault(label, []).append(judged(prepared, spec))
                gaps = {label: round(runs[-1].figures["average_gap"], 2) for label, runs in found.items()}
                print(f"{name} {setting} {seed}: average gaps {gaps}", flush=True)
            for label, runs in found.items():
                rows += judged_rows(runs, case=f"{name}, {setting}", method=label)
        for label, spec in AT_DEFAULTS.items():
            rows += in_a_row(name, label, spec, seeds)
    write("deletions", rows)


def judged_rows(runs: Sequence[Judged], *, case: str, method: str) -> list[Row]:
    """Make rows of the figures, and of how often the verdict was `failed`, so that a policy would run its next method."""
    failed = share_row([run.verdict == "failed" for run in runs], case=case, method=method, metric="failed")
    return [*metric_rows([run.figures for run in runs], case=case, method=method, units=UNITS), failed]


def in_a_row(name: str, label: str, spec: Spec, seeds: Sequence[int]) -> list[Row]:
    """Make rows of the last model's figures, and of the error on the first request's samples: after it, at the end, retrained."""
    ends: list[Judged] = []
    first: dict[str, list[float]] = {}
    for seed in seeds:
        prepared = case(name, seed)
        whole = len(prepared.forget) // PARTS
        parts = partition(prepared.forget, (whole,) * PARTS, seed=seed)
        model = copy.deepcopy(prepared.original.model)
        for number, part in enumerate(parts, start=1):
            task = dataclasses.replace(
                task_of(prepared),
                model=model,
                forget=part,
                remain=joined(prepared.remain, *parts[number:]) if number < PARTS else prepared.remain,
            )
            run_to_completion(unlearn(spec, task))
            if number == 1:
                first.setdefault("ua_first_at_once", []).append(100 - accuracy(model, parts[0]))
        first.setdefault("ua_first_at_the_end", []).append(100 - accuracy(model, parts[0]))
        first.setdefault("ua_first_retrained", []).append(100 - accuracy(prepared.retrained.model, parts[0]))
        ends.append(judged_model(prepared, model))
        shown = {metric: round(values[-1], 1) for metric, values in first.items()}
        print(f"{name} five in a row {seed} {label}: {ends[-1].figures['average_gap']:.2f} {shown}", flush=True)
    rows = judged_rows(ends, case=f"{name}, five in a row", method=label)
    return rows + [
        row(values, case=f"{name}, five in a row", method=label, metric=metric, unit="percent")
        for metric, values in first.items()
    ]


if __name__ == "__main__":
    main()
