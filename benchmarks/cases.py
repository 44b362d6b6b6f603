"""What the benchmarks run on: a workload, a forget set, the model that learnt it, and models that never saw it.

Training is the long part, so trained weights are kept in `.bench/` (or `EXPUNGE_BENCH`), under a digest of everything they depend
on; a second command, or a run after a crash, takes them from there with the seconds that training took.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from examples import cifar, digits
from unlearning.recipe import Recipe
from unlearning.samples import SampleSet, partition
from unlearning.training import fit, fresh
from unlearning.weights import load_weights, save_weights
from unlearning.workload import HeldOut, Workload, split_held_out

WORKLOADS: dict[str, Callable[[], Workload]] = {"digits": digits.workload, "cifar": cifar.workload}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trained:
    """A model, and the seconds that training it took when it was trained."""

    model: nn.Module
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """One seed's deletion. original learnt `forget` and `remain`; retrained and again (another seed's) only `remain`."""

    name: str
    seed: int
    workload: Workload
    forget: SampleSet
    remain: SampleSet
    held_out: HeldOut
    original: Trained
    retrained: Trained
    again: Trained


def case(name: str, seed: int, *, share: float = 0.1, recipe: Recipe | None = None) -> Case:
    """`share` of the training set, drawn at random by the seed, is to be forgotten. recipe: in place of the workload's own."""
    given = WORKLOADS[name]()
    workload = given if recipe is None else dataclasses.replace(given, recipe=recipe)
    count = max(1, round(share * len(workload.train)))
    forget, remain = partition(workload.train, (count, len(workload.train) - count), seed=seed)
    return Case(
        name=name,
        seed=seed,
        workload=workload,
        forget=forget,
        remain=remain,
        held_out=split_held_out(workload.held_out),
        original=trained(workload, workload.train, seed=seed),
        retrained=trained(workload, remain, seed=seed),
        again=trained(workload, remain, seed=seed + 1_000_000),
    )


def trained(workload: Workload, samples: SampleSet, *, seed: int) -> Trained:
    """Train by the workload's recipe, or take what an earlier run trained on the very same."""
    what = {
        "workload": workload.name,
        "network": str(workload.build()),
        "recipe": dataclasses.asdict(workload.recipe),
        "samples": hashlib.sha256("\n".join(samples.ids).encode()).hexdigest(),
        "seed": seed,
        "torch": torch.__version__,
    }
    folder = Path(os.environ.get("EXPUNGE_BENCH", ".bench"))
    note = folder / f"{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()}.json"
    if note.exists():
        kept = json.loads(note.read_text())
        model = fresh(workload.build, seed=seed)
        load_weights(model, folder / f"{kept['sha256']}.safetensors", kept["sha256"])
        return Trained(model=model.eval(), seconds=kept["seconds"])
    begun = time.perf_counter()
    model = fit(workload.build, samples, workload.recipe, objective=workload.objective, seed=seed)
    seconds = time.perf_counter() - begun
    _, sha256 = save_weights(model, folder)
    note.write_text(json.dumps({**what, "sha256": sha256, "seconds": seconds}, indent=2) + "\n")
    return Trained(model=model.eval(), seconds=seconds)
