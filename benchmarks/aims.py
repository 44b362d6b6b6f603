"""How near what methods aim at is to what retrained models say: `python -m benchmarks.aims`, on validation seeds.

Of the perceptron of `transfer`, a tenth of the samples at random, 60 % of them and a whole class are forgotten. A distance is the
mean over the forgotten samples of half of Σ |p − q|: q is the mean of three retrained models' probabilities, of which "retrain"
leaves out one in turn. Reference predictions are of the default plan, of eight rounds, and of those eight with models that saw less
of the forget set counting more. For the class there are two aims: its probability taken out of the reference predictions, and what
a model that was trained without the class says. The rows "test of" count how the reference test decides: beside reference models
that know the class, and with the samples counting as never given it.
"""

import argparse
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cases import all_settings, bench_folder, key, keys, stored
from benchmarks.cells import REQUESTS, Cell, Data, cell
from benchmarks.verdicts import DECISIONS, verdict_rows
from benchmarks.writing import Row, row, write
from unlearning.audit.reference_test import AuditReferences, reference_test, signals_by_reference
from unlearning.data.references import ReferencePredictions, References
from unlearning.data.samples import SampleSet
from unlearning.data.workload import split_held_out
from unlearning.hardware import batched_answers
from unlearning.methods.aims import reference_aims
from unlearning.methods.registry import unlearn
from unlearning.specs import Matching
from unlearning.specs.audit import Thresholds
from unlearning.specs.references import ReferencePlan
from unlearning.steps import run_to_completion
from unlearning.task import Task
from unlearning.training.loop import fit
from unlearning.training.references import prepare_references, sample_signals, train_reference_models

SEEDS = (20, 21, 22)
RETRAINED = 3
CLASS = 1
PLAN = ReferencePlan(classes=(CLASS,))
MANY = ReferencePlan(rounds=8, audit_rounds=1)
LEAST_SEEN = 60.0
"""A model counts as exp(−60 s), s the share of the forget set that it saw; this share varies by a few hundredths."""


def whole_class(data: Data) -> Tensor:
    """Forget a class."""
    return (data.targets == CLASS).nonzero().flatten()


REQUESTS["whole_class"] = whole_class
CASES = {"a tenth": "random", "60 %": "most", "a class": "whole_class"}


def main() -> None:
    """Measure all cases on all seeds and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name, request in CASES.items():
        found = [measured(request, seed) for seed in seeds]
        for method in found[0]["distance"]:
            distances = [one["distance"][method] for one in found]
            rows.append(row(distances, case=name, method=method, metric="distance", unit="probability"))
        for method in found[0]["true"]:
            likelihoods = [one["true"][method] for one in found]
            rows.append(row(likelihoods, case=name, method=method, metric="true_class", unit="probability"))
        for method in found[0]["test"]:
            rows += verdict_rows([one["test"][method] for one in found], case=name, method=method)
        write("aims", rows)


def measured(request: str, seed: int) -> dict[str, dict[str, Any]]:
    """Measure one seed's case, or read what an earlier run measured.

    By method: the distances and the mean probabilities of the true class; by what was tested: the decisions.
    """
    one = cell("perceptron", request, seed)
    what = {
        "cell": one.workload.name,
        "recipe": all_settings(one.workload.training),
        "plans": [all_settings(PLAN), all_settings(MANY)],
        "method": all_settings(Matching()),
    }
    found = stored("aims", what, partial(measure, one, seed))
    print(request, seed, found, flush=True)
    return found


def measure(one: Cell, seed: int) -> dict[str, dict[str, Any]]:
    """Train the models of a case and measure the distances of the aims and of what matching makes of them."""
    workload, forget = one.workload, one.workload.train.take(one.forget)

    def trained(samples: SampleSet, number: int) -> nn.Module:
        return fit(workload.build, samples, workload.training, objective=workload.objective, seed=number)

    def said(model: nn.Module) -> np.ndarray:
        with torch.no_grad():
            outputs = batched_answers(workload.objective, model.eval(), forget).outputs
        assert outputs is not None
        return outputs.double().softmax(-1).numpy()

    retrained = [trained(one.remain, number) for number in range(RETRAINED)]
    never = np.stack([said(model) for model in retrained])
    left_out = [np.delete(never, number, axis=0).mean(axis=0) for number in range(RETRAINED)]
    original = trained(workload.train, seed)
    steps = prepare_references(workload, PLAN, seed=seed, folder=bench_folder() / "folds", key=key)
    references = run_to_completion(steps)

    def task(given: ReferencePredictions) -> Task:
        model = workload.build()
        model.load_state_dict(original.state_dict())
        held_out = split_held_out(workload.held_out)
        return Task(
            model=model.eval(), build=workload.build, objective=workload.objective, recipe=workload.training,
            forget=forget, remain=one.remain, guide=held_out.guide, criterion=held_out.criterion, seed=seed,
            references=given,
        )  # fmt: skip

    said_by = {"original": said(original)}
    whole = references.for_method(keys(forget))
    without = dataclasses.replace(whole, whole=None)
    kinds = {"references": without}
    if len(forget) == int((workload.train.targets == CLASS).sum()):
        kinds = {"references, class taken out": without, "a model without the class": whole}
    for name, given in kinds.items():
        aims = reference_aims(task(given))
        assert aims is not None
        assert aims.predictions is not None
        said_by[name] = aims.predictions.double().numpy()
        matched = task(given)
        run_to_completion(unlearn(Matching(), matched))
        said_by[f"matching {name}"] = said(matched.model)
    if len(kinds) == 1:
        said_by |= _of_many(one, seed)

    truth = forget.targets.numpy()

    def confidence(probabilities: np.ndarray) -> float:
        return float(probabilities[np.arange(len(truth)), truth].mean())

    distances = {name: _distance(found, never.mean(axis=0)) for name, found in said_by.items()}
    own = [_distance(never[number], left_out[number]) for number in range(RETRAINED)]
    return {
        "distance": {"retrain": float(np.mean(own)), **distances},
        "true": {"retrain": confidence(never.mean(axis=0)), **{n: confidence(p) for n, p in said_by.items()}},
        "test": _decisions(one, {"original": original, "retrain": retrained[0]}, references, seed),
    }


def _distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).sum(axis=1).mean()) / 2


def _of_many(one: Cell, seed: int) -> dict[str, np.ndarray]:
    """Average eight rounds, once plainly and once with models counting more that saw less of the forget set."""
    steps = train_reference_models(one.workload, MANY, seed=seed, folder=Path(bench_folder(), "folds"))
    models = run_to_completion(steps)[0][: MANY.rounds * MANY.folds]
    place = one.forget.numpy()
    seen = np.stack([model["seen"][place] for model in models])
    said = np.stack([model["probabilities"][place].astype(np.float64) for model in models])

    def averaged(counts: np.ndarray) -> np.ndarray:
        weights = ~seen * counts[:, None]
        mean: np.ndarray = ((weights / weights.sum(axis=0))[..., None] * said).sum(axis=0)
        return mean

    share = seen.mean(axis=1)
    return {
        "references, 8 rounds": averaged(np.ones(len(models))),
        "references, 8 rounds, least seen": averaged(np.exp(-LEAST_SEEN * (share - share.min()))),
    }


def _decisions(one: Cell, models: dict[str, nn.Module], references: References, seed: int) -> dict[str, str]:
    """Decide on models by the reference test: as for any samples, and for a class as for samples that are never given it."""
    workload = one.workload
    sets = {
        "forget": workload.train.take(one.forget),
        "remain": one.remain,
        "held_out": split_held_out(workload.held_out).audit,
    }
    gone = not bool((one.remain.targets == CLASS).any())
    forget, remain, held_out = (references.take(keys(samples)) for samples in sets.values())
    rows = AuditReferences(forget=forget, remain=remain, held_out=held_out)

    def decided(model: nn.Module, given: AuditReferences, counted: Callable[[str], np.ndarray]) -> str:
        signals = {}
        for name, samples in sets.items():
            signal = sample_signals(model, samples, workload.objective)[0].double().numpy()
            signals[name] = signals_by_reference(signal, given.by_set[name]).take(np.flatnonzero(counted(name)))
        return DECISIONS[reference_test(**signals, thresholds=Thresholds(), seed=seed).passed]

    found = {
        f"test of {name}": decided(model, rows, lambda name: np.ones(len(sets[name]), dtype=bool))
        for name, model in models.items()
    }
    if gone:
        never = rows.with_gone_classes(np.ones(len(one.forget), dtype=bool))

        def counted(name: str) -> np.ndarray:
            every = np.ones(len(sets[name]), dtype=bool)
            return every if name == "forget" else (sets[name].targets != CLASS).numpy()

        found |= {
            f"test of {name}, class never given": decided(model, never, counted) for name, model in models.items()
        }
    return found


if __name__ == "__main__":
    main()
