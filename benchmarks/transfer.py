"""How the defaults do on networks and requests that no default was chosen on: `python -m benchmarks.transfer`.

Five small networks by eight kinds of request. In each cell the worker's own code runs a job on a model that was registered with the
default policy, with reference predictions by the default plan. A cell counts as good if the policy ended before retraining and the
published model is no farther from models that never saw the samples than another such model is, within the noise. Finished cells
are kept in `.bench/`. No default was chosen on these seeds.

The distance of a model is the mean over the forgotten samples of |p − q|: p is its probability of the true class, q the mean of
that over all but one of six models trained without the samples, with each left out in turn. Those left out give the distances that
another retrained model has; their mean and spread give the bound (one-sided, 95 %), and 0.02 is allowed beside.
"""

import argparse
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from scipy import stats  # type: ignore[import-untyped]  # scipy ships no type information
from torch import nn

from benchmarks import machine
from benchmarks.cases import all_settings, key, stored
from benchmarks.cells import NETWORKS, REQUESTS, Cell, cell
from benchmarks.jobs import Service, service
from benchmarks.writing import Row, row, share_row, write
from unlearning.audit.signals import audit_copy, observe
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload
from unlearning.specs import DEFAULT_WITH_REFERENCES
from unlearning.specs.audit import AuditSpec
from unlearning.specs.references import ReferencePlan
from unlearning.steps import run_to_completion
from unlearning.storage import load_weights
from unlearning.training.loop import fit
from unlearning.training.references import prepare_references

UNSEEING = 6
"""Models that are trained without the forgotten samples."""
TOLERANCE = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a cell ended. distance: of the published model, None if none was published. bound: of another retrained model."""

    methods: list[str]
    verdict: str | None
    distance: float | None
    original: float
    retrained: float
    bound: float
    share: float

    @property
    def early(self) -> bool:
        """Whether the policy ended before retraining, with a result."""
        return self.distance is not None and "retrain" not in self.methods

    @property
    def near(self) -> bool:
        """Whether the result is no farther than another retrained model."""
        return self.distance is not None and self.distance <= self.bound


def main() -> None:
    """Run the cells and write the rows after each."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[100])
    arguments.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    arguments.add_argument("--requests", nargs="+", choices=REQUESTS, default=list(REQUESTS))
    given = arguments.parse_args()
    torch.set_num_threads(1)
    found: dict[tuple[str, str], list[Outcome]] = {}
    with service() as running:
        for seed in given.seeds:
            for request in given.requests:
                for network in given.networks:
                    ended = outcome(network, request, seed, running)
                    found.setdefault((network, request), []).append(ended)
                    print(f"{network} {request} {seed}: {ended}", flush=True)
                    write("transfer", rows_of(found))


def rows_of(found: dict[tuple[str, str], list[Outcome]]) -> list[Row]:
    """Make the rows of all cells, of each kind of request, and of each cell."""
    groups: dict[str, list[Outcome]] = {"all": [ended for cells in found.values() for ended in cells]}
    for (network, request), cells in found.items():
        groups.setdefault(request.replace("_", " "), []).extend(cells)
        groups.setdefault(network.replace("_", " "), []).extend(cells)
    groups |= {f"{network}, {request}".replace("_", " "): cells for (network, request), cells in found.items()}
    rows: list[Row] = []
    for name, cells in groups.items():
        what = {"case": name, "method": "policy"}
        rows += [
            share_row([one.early and one.near for one in cells], **what, metric="good"),
            share_row([one.early for one in cells], **what, metric="before_retraining"),
            share_row([one.near for one in cells], **what, metric="near"),
            share_row([one.verdict == "verified" for one in cells], **what, metric="verified"),
            row([one.original for one in cells], **what, metric="original_distance", unit="probability"),
            row([one.retrained for one in cells], **what, metric="retrained_distance", unit="probability"),
            row([one.share for one in cells], **what, metric="retrain_ratio", unit="ratio"),
        ]
        distances = [one.distance for one in cells if one.distance is not None]
        if distances:
            rows.append(row(distances, **what, metric="distance", unit="probability"))
    return rows


def outcome(network: str, request: str, seed: int, running: Service) -> Outcome:
    """Run a cell, or read how an earlier run ended."""
    one = cell(network, request, seed)
    what = {
        "cell": one.workload.name,
        "network": str(one.workload.build()),
        "recipe": all_settings(one.workload.training),
        "plan": all_settings(ReferencePlan()),
        "policy": [all_settings(method) for method in DEFAULT_WITH_REFERENCES],
        "audit": all_settings(AuditSpec.with_references()),
    }
    return Outcome(**stored("cell", what, lambda: asdict(run(one, seed, running))))


def run(one: Cell, seed: int, running: Service) -> Outcome:
    """Train the models of a cell, run its job and compare the result with models that never saw the samples."""
    forget = one.workload.train.take(one.forget)
    unseeing, taken = [], []
    for number in range(UNSEEING):
        begun = machine.seconds()
        model = fit(
            one.workload.build, one.remain, one.workload.training, objective=one.workload.objective, seed=number
        )
        taken.append(machine.seconds() - begun)
        unseeing.append(confidence(model, forget, one.workload))
    original = fit(
        one.workload.build, one.workload.train, one.workload.training, objective=one.workload.objective, seed=seed
    )
    with tempfile.TemporaryDirectory() as folder:
        steps = prepare_references(one.workload, ReferencePlan(), seed=seed, folder=Path(folder), key=key)
        references = run_to_completion(steps)
    spent, published = running.erase(
        one.workload,
        reference=f"benchmarks.cells:{one.workload.name}",
        model=original,
        ids=forget.ids,
        references=references,
        approve_utility_drop=100.0,
    )
    probabilities = {"original": confidence(original, forget, one.workload)}
    if published is not None:
        new = one.workload.build()
        load_weights(new, *published)
        probabilities["published"] = confidence(new, forget, one.workload)
    ended = judged(np.stack(unseeing), probabilities)
    return Outcome(
        methods=list(spent.methods), verdict=spent.verdict, share=spent.total / float(np.mean(taken)), **ended
    )


class Distances(TypedDict):
    """Fields of an `Outcome`."""

    distance: float | None
    original: float
    retrained: float
    bound: float


def judged(unseeing: np.ndarray, probabilities: dict[str, np.ndarray]) -> Distances:
    """Compare models with unseeing ones, (k, n): the distances, and the bound of those that the unseeing ones have themselves."""
    count = len(unseeing)
    others = [np.delete(unseeing, number, axis=0).mean(axis=0) for number in range(count)]
    own = np.array([np.abs(unseeing[number] - others[number]).mean() for number in range(count)])
    spread = float(own.std(ddof=1)) * math.sqrt(1 + 1 / count)
    distances = {
        name: float(np.mean([np.abs(found - other).mean() for other in others]))
        for name, found in probabilities.items()
    }
    return {
        "distance": distances.get("published"),
        "original": distances["original"],
        "retrained": float(own.mean()),
        "bound": float(own.mean()) + float(stats.t.ppf(0.95, count - 1)) * spread + TOLERANCE,
    }


def confidence(model: nn.Module, samples: SampleSet, workload: Workload) -> np.ndarray:
    """Return the probability of each sample's true class, (n,)."""
    return observe(audit_copy(model, samples), samples, objective=workload.objective).confidence


if __name__ == "__main__":
    main()
