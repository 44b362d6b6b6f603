"""Ablations: what LTU, IEU, matching and the references bring by each of their parts.

    python -m benchmarks.ablation --case digits --seeds 100 101 102 103 104
    python -m benchmarks.ablation --references

The first, as in LTU's paper, is the average gap to retraining without each part of LTU; first at its defaults, then, for the parts
that the inner step affects, with an inner rate as large as the outer one.

The second writes `ablation_references`. It is of the methods with references and of the references themselves: folds, rounds and
epochs. The network is the perceptron of `transfer`, of which 60 random samples of 898 are forgotten, and the distance is that of
`transfer`: |p − q| from models that never saw the samples. The rows "original" and "retrain" are the ends of the scale.
plain_trainings is the cost of the references for the method, without those for the audit.
"""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import machine
from benchmarks.cases import all_settings, bench_folder, case, key, keys, stored
from benchmarks.cells import Cell, cell
from benchmarks.command_line import SEEDS, case_parser, chosen
from benchmarks.judging import Judged, judged
from benchmarks.quality import UNITS
from benchmarks.transfer import UNSEEING, confidence
from benchmarks.transfer import judged as distances
from benchmarks.writing import Row, metric_rows, row, write
from unlearning.audit.signals import audit_copy, merit_of, observe
from unlearning.data.samples import SampleSet
from unlearning.data.workload import split_held_out
from unlearning.methods.registry import unlearn
from unlearning.specs import IEU, LTU, Matching, Spec
from unlearning.specs.references import ReferencePlan
from unlearning.steps import run_to_completion
from unlearning.task import Task
from unlearning.training.loop import fit
from unlearning.training.references import prepare_references

ABLATIONS: dict[str, dict[str, object]] = {
    "ltu": {},
    "sum": {"combine": "sum"},
    "alternate": {"combine": "alternate"},
    "no_forgetting_feedback": {"forgetting": False},
    "no_remembering_feedback": {"remembering": False},
    "no_meta": {"meta": False},
    "first_order": {"order": "first"},
    "remain_30": {"remain_share": 0.3, "remain_least": 1},
    "remain_10": {"remain_share": 0.1, "remain_least": 1},
}
LARGE_INNER_RATE = LTU().learning_rate
AT_A_LARGE_INNER_RATE = ("ltu", "sum", "alternate", "first_order")

PLAN = ReferencePlan(audit_rounds=1)
"""The default but for the audit's rounds, which nothing here reads."""
WITH_REFERENCES: dict[str, tuple[Spec, ReferencePlan | None]] = {
    "matching": (Matching(), PLAN),
    "matching, plain predictions alone": (Matching(temperature=1.0), PLAN),
    "ieu": (IEU(), PLAN),
    "ieu, no noise": (IEU(noise=0.0), PLAN),
    "ieu, no decay": (IEU(decay=0.0), PLAN),
    "ieu, no references": (IEU(), None),
    "ltu": (LTU(), PLAN),
    "ltu, sum": (LTU(combine="sum"), PLAN),
    "ltu, guides of pairs": (LTU(guide="pairs"), PLAN),
    "ltu, no meta": (LTU(meta=False), PLAN),
    "ltu, first order": (LTU(order="first"), PLAN),
    "ltu, no forgetting feedback": (LTU(forgetting=False), PLAN),
    "ltu, no references": (LTU(), None),
    "matching, 1 round": (Matching(), dataclasses.replace(PLAN, rounds=1)),
    "matching, 4 rounds": (Matching(), dataclasses.replace(PLAN, rounds=4)),
    "matching, 8 rounds": (Matching(), dataclasses.replace(PLAN, rounds=8)),
    "matching, 1/4 of the epochs": (Matching(), dataclasses.replace(PLAN, epochs=0.25)),
    "matching, all epochs": (Matching(), dataclasses.replace(PLAN, epochs=1.0)),
    "matching, 5 folds, 1 round": (Matching(), dataclasses.replace(PLAN, folds=5, rounds=1)),
    "matching, 5 folds, 1 round, all epochs": (Matching(), dataclasses.replace(PLAN, folds=5, rounds=1, epochs=1.0)),
    "matching, 5 folds, 4 rounds, all epochs": (Matching(), dataclasses.replace(PLAN, folds=5, rounds=4, epochs=1.0)),
}
"""By the name in the table: the method, and the plan of its references."""


def main() -> None:
    """Run all variants on all seeds and write the rows."""
    parser = case_parser(__doc__)
    parser.add_argument("--references", action="store_true", help="of the methods with references, on a perceptron")
    given = parser.parse_args()
    if given.references:
        torch.set_num_threads(1)
        write("ablation_references", with_references(tuple(given.seeds or SEEDS)))
        return
    rows: list[Row] = []
    for name, seeds in chosen(given):
        variants = [(name, LTU(), label) for label in ABLATIONS]
        variants += [
            (f"{name}, inner rate {LARGE_INNER_RATE:g}", LTU(inner_rate=LARGE_INNER_RATE), label)
            for label in AT_A_LARGE_INNER_RATE
        ]
        for block, given_spec, label in variants:
            spec = dataclasses.replace(given_spec, **ABLATIONS[label])  # type: ignore[arg-type]  # each change is one of the switches
            runs: list[Judged] = []
            for seed in seeds:
                runs.append(judged(case(name, seed), spec))
                print(f"{block} {seed} {label}: average gap {runs[-1].figures['average_gap']:.2f}", flush=True)
            rows += metric_rows([run.figures for run in runs], case=block, method=label, units=UNITS)
            rows.append(
                row([r.processor_seconds for r in runs], case=block, method=label, metric="seconds", unit="seconds")
            )
    write("ablation", rows)


def with_references(seeds: tuple[int, ...]) -> list[Row]:
    """Run the methods with references and make the rows."""
    units = {"distance": "probability", "ta": "percent", "seconds": "seconds", "plain_trainings": "trainings"}
    found: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        what = {
            "variants": {name: [str(spec), str(plan)] for name, (spec, plan) in WITH_REFERENCES.items()},
            "recipe": all_settings(cell("perceptron", "random", seed).workload.training),
            "seed": seed,
        }
        for method, figures in stored("ablation", what, partial(of_seed, seed)).items():
            found.setdefault(method, []).append(figures)
            print(f"{seed} {method}: {figures}", flush=True)
    return [
        one
        for method, runs in found.items()
        for one in metric_rows(runs, case="perceptron", method=method, units=units)
    ]


def of_seed(seed: int) -> dict[str, dict[str, float]]:
    """Run every variant on one seed's cell; figures by method."""
    one = cell("perceptron", "random", seed)
    workload, forget = one.workload, one.workload.train.take(one.forget)

    def trained(samples: SampleSet, number: int) -> nn.Module:
        return fit(workload.build, samples, workload.training, objective=workload.objective, seed=number)

    without = [trained(one.remain, number) for number in range(UNSEEING)]
    unseeing = np.stack([confidence(model, forget, workload) for model in without])
    original = trained(workload.train, seed)
    models: dict[str, tuple[nn.Module, dict[str, float]]] = {"original": (original, {}), "retrain": (without[0], {})}
    for name, (spec, plan) in WITH_REFERENCES.items():
        models[name] = _unlearned(one, original, spec, plan, seed)
    figures: dict[str, dict[str, float]] = {}
    for name, (model, spent) in models.items():
        ends = distances(unseeing, {"original": confidence(model, forget, workload)})
        test = observe(audit_copy(model, workload.test), workload.test, objective=workload.objective)
        distance = ends["retrained" if name == "retrain" else "original"]
        assert distance is not None
        figures[name] = {"distance": distance, "ta": merit_of(test).scaled(100).value, **spent}
    return figures


def _unlearned(
    one: Cell, original: nn.Module, spec: Spec, plan: ReferencePlan | None, seed: int
) -> tuple[nn.Module, dict[str, float]]:
    """Unlearn by a variant; gives the model, and what it took."""
    workload, forget = one.workload, one.workload.train.take(one.forget)
    held_out = split_held_out(workload.held_out)
    references, trainings = None, 0.0
    if plan is not None:
        steps = prepare_references(workload, plan, seed=seed, folder=Path(bench_folder(), "folds"), key=key)
        references = run_to_completion(steps).for_method(keys(forget), key=key)
        pool = (len(workload.train) + len(workload.held_out)) / len(workload.train)
        trainings = plan.rounds * (plan.folds - 1) * plan.epochs * pool
    model = workload.build()
    model.load_state_dict(original.state_dict())
    task = Task(
        model=model.eval(),
        build=workload.build,
        objective=workload.objective,
        recipe=workload.training,
        forget=forget,
        remain=one.remain,
        guide=held_out.guide,
        criterion=held_out.criterion,
        seed=seed,
        references=references,
    )
    begun = machine.seconds()
    run_to_completion(unlearn(spec, task))
    return model, {"seconds": machine.seconds() - begun, "plain_trainings": trainings}


if __name__ == "__main__":
    main()
