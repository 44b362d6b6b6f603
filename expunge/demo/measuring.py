"""A child of the demo: measures several models on one request's forget set."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from expunge.demo.children import tell
from expunge.demo.plan import Plan, Weights, forget_sets
from expunge.demo.table import ORIGINAL, Figures
from unlearning.audit.measures import measure
from unlearning.audit.relearning import Relearner, calibrate, choose, mean_loss, mix, relearn
from unlearning.data.objectives import Objective
from unlearning.data.samples import Batch, SampleSet
from unlearning.data.workload import Workload, split_held_out
from unlearning.specs.audit import AuditSpec
from unlearning.storage import load_weights
from worker.inputs import load_workload
from worker.settings import allow_list


def measure_all(
    plan: Plan, models: Mapping[str, Weights], *, forget: str, without: int, state: Path
) -> dict[str, Figures]:
    """Measure each model by its name, one of which is ORIGINAL, telling `state` of each.

    forget: "first" or "second", the request whose samples are the forget set. without: how many requests' samples are no
    remaining data any more.
    """
    workload = load_workload(plan.reference, allowed=allow_list(plan.workloads))
    chosen = forget_sets(workload.train.ids, plan)
    forgotten = part(workload.train, set(getattr(chosen, forget)))
    gone = set(chosen.both if without == 2 else chosen.first)
    remain = part(workload.train, set(workload.train.ids) - gone)
    held_out, objective, spec = split_held_out(workload.held_out).audit, workload.objective, AuditSpec()
    loaded = {name: load(workload, weights) for name, weights in models.items()}
    batch, relearner = fixed_relearner(
        loaded[ORIGINAL], forgotten, held_out, objective=objective, spec=spec, seed=plan.seed
    )
    found = {}
    for name, model in loaded.items():
        measured = measure(
            model,
            forget=forgotten,
            remain=remain,
            held_out=held_out,
            test=workload.test,
            objective=objective,
            spec=spec,
            seed=plan.seed,
        )
        curve = relearn(model, batch, objective=objective, relearner=relearner, seed=plan.seed) if relearner else None
        found[name] = Figures(
            **measured, delay=curve.delay if curve else None, censored=curve.censored if curve else False
        )
        tell(state, step=len(found), total=len(loaded) + 1)
    return found


def fixed_relearner(
    original: nn.Module, forget: SampleSet, held_out: SampleSet, *, objective: Objective, spec: AuditSpec, seed: int
) -> tuple[Batch, Relearner | None]:
    """Give the samples to relearn, and how: fixed from the original and held-out data, before any other model is looked at.

    No relearner where the original knows the forget set no better than held-out data: nothing could be relearnt.
    """
    sizes = mix(forget.targets.cpu().numpy(), held_out.targets.cpu().numpy(), most=spec.relearn_samples)
    batch, control = (
        choose(samples, sizes, np.random.default_rng([seed, place])) for place, samples in enumerate((forget, held_out))
    )
    before, unseen = mean_loss(original, batch, objective), mean_loss(original, control, objective)
    if unseen <= before:
        return batch, None
    return batch, calibrate(
        original,
        control,
        objective=objective,
        kind="sgd",
        target=before + spec.relearn_delta * (unseen - before),
        steps=spec.relearn_steps,
        limit=spec.relearn_limit,
        batch_size=spec.relearn_batch,
        seed=seed,
    )


def part(samples: SampleSet, ids: set[str]) -> SampleSet:
    """Give the samples with these IDs, in their order."""
    return samples.take(torch.tensor([i for i, sample in enumerate(samples.ids) if sample in ids], dtype=torch.int64))


def load(workload: Workload, weights: Weights) -> nn.Module:
    """Build the model with these weights; their digest is checked."""
    model = workload.build()
    load_weights(model, Path(weights.path), weights.sha256)
    return model.eval()


def main() -> None:
    """Read the arguments, measure, and tell the result."""
    given, state = json.loads(sys.argv[1]), Path(sys.argv[2])
    models = {name: Weights(**weights) for name, weights in given["models"].items()}
    found = measure_all(Plan(**given["plan"]), models, forget=given["forget"], without=given["without"], state=state)
    tell(state, step=1, total=1, result={name: asdict(one) for name, one in found.items()})


if __name__ == "__main__":
    main()
