"""Cases of the benchmarks: a workload, a forget set, the model trained on it, and models retrained without it.

Training takes longest, so trained weights are stored in `.bench/` (or `EXPUNGE_BENCH`) under a digest of their settings. A second
command, or a run after a crash, reads them from there with the seconds that training took. What was measured is stored too, under
a digest of its settings and of the library's code.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import unlearning
from benchmarks.machine import DEVICE, identity, seconds
from examples import authors, cifar, diffusion, digits, mnist_diffusion
from unlearning.data.references import References, from_bytes, to_bytes
from unlearning.data.samples import SampleSet, partition
from unlearning.data.workload import HeldOut, Workload, split_held_out
from unlearning.files import write_atomically
from unlearning.specs.references import ReferencePlan
from unlearning.specs.training import Ready2Unlearn, Recipe
from unlearning.steps import run_to_completion
from unlearning.storage import load_weights, save_weights
from unlearning.training.loop import fit, fresh
from unlearning.training.own import training_settings
from unlearning.training.references import preparation_folder, prepare_references

MILD = Ready2Unlearn(efficiency=0.1, retention=0.1, resistance=0.1, gain="difference", longest=None, warm_up=0.5)
"""The defaults before decision 14: a preparation without measurable effect (`benchmarks.readiness`)."""


def recipe_of(workload: Workload) -> Recipe:
    """Return the recipe of a workload, which it must have."""
    assert workload.recipe is not None, f"{workload.name} is trained by a function of its own"
    return workload.recipe


def with_recipe(workload: Workload, **changes: Any) -> Workload:
    """Change fields of a workload's recipe."""
    return dataclasses.replace(workload, recipe=dataclasses.replace(recipe_of(workload), **changes))


def digits_mildly_prepared() -> Workload:
    """Make the digits workload for a network that is as hard to unlearn from as an unprepared one."""
    return with_recipe(digits.workload(), readiness=MILD)


def digits_group_norm() -> Workload:
    """Make the digits workload for a network without batch norm, which training with differential privacy requires."""
    return dataclasses.replace(digits.workload(), name="digits_group_norm", build=_group_normed)


def _group_normed() -> nn.Module:
    layers = (
        nn.GroupNorm(4, layer.num_features) if isinstance(layer, nn.BatchNorm2d) else layer
        for layer in digits.network().children()
    )
    return nn.Sequential(*layers)


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "digits": digits_mildly_prepared,
    "digits_prepared": digits.workload,
    "digits_group_norm": digits_group_norm,
    "authors": authors.workload,
    "authors_and_play": authors.workload,
    "many_authors": authors.workload,
    "diffusion": diffusion.workload,
    "mnist_diffusion": mnist_diffusion.workload,
    "cifar": cifar.workload,
    "cifar_20000": functools.partial(cifar.workload, 20_000),
    "cifar_resnet18": cifar.resnet18_workload,
    "cifar_resnet18_half": cifar.resnet18_workload,
}
"""The last two are for a machine with a GPU. `authors_and_play` is for `EXPUNGE_PLAY`, `many_authors` for `EXPUNGE_AUTHORS`."""


def share_of(name: str) -> float:
    """Return the share of the training set that a case forgets: a tenth, a half, or of 20,000 images a hundredth."""
    return {"cifar_20000": 0.01, "cifar_resnet18_half": 0.5}.get(name, 0.1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trained:
    """A model, and the seconds that its training took."""

    model: nn.Module
    seconds: float


Forget = Callable[[SampleSet, int], Tensor]
"""Marks the samples of a training set to forget, (n,) bool, by the seed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One seed's case. The original was trained on `forget` and `remain`, the two retrained models on `remain` alone."""

    name: str
    seed: int
    workload: Workload
    forget: SampleSet
    remain: SampleSet
    held_out: HeldOut

    @functools.cached_property
    def original(self) -> Trained:
        """The model to unlearn from."""
        return trained(self.workload, self.workload.train, seed=self.seed)

    @functools.cached_property
    def retrained(self) -> Trained:
        """A model retrained from the same seed."""
        return trained(self.workload, self.remain, seed=self.seed)

    @functools.cached_property
    def again(self) -> Trained:
        """A model retrained from another seed. The gap between two retrained models is the least that a method can reach."""
        return trained(self.workload, self.remain, seed=self.seed + 1_000_000)


def case(
    name: str, seed: int, *, share: float | None = None, recipe: Recipe | None = None, forget: Forget | None = None
) -> Case:
    """Make a case; its models are trained when they are first used.

    share: of the training set, drawn at random by the seed, that is forgotten (default: the case's own). forget: marks other
    samples to forget. recipe: replaces the workload's own. All data are on the benchmarks' device.
    """
    given = WORKLOADS[name]()
    workload = dataclasses.replace(
        given,
        recipe=recipe or given.recipe,
        **{part: getattr(given, part).to(DEVICE) for part in ("train", "held_out", "test")},
    )
    count = max(1, round((share_of(name) if share is None else share) * len(workload.train)))
    forgotten, remain = partition(workload.train, (count, len(workload.train) - count), seed=seed)
    if forget is not None:
        chosen = forget(workload.train, seed)
        forgotten, remain = (workload.train.take(mask.nonzero().flatten()) for mask in (chosen, ~chosen))
    return Case(
        name=name,
        seed=seed,
        workload=workload,
        forget=forgotten,
        remain=remain,
        held_out=split_held_out(workload.held_out),
    )


def all_settings(settings: Any) -> dict[str, object]:
    """List every setting, nested ones and defaults too: a default that changes must change the key of stored models."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {
        name: all_settings(value) if dataclasses.is_dataclass(value) else repr(value) for name, value in values.items()
    }


def _settings_of_training(workload: Workload) -> dict[str, object]:
    training = workload.training
    return all_settings(training) if isinstance(training, Recipe) else training_settings(training)


def trained(workload: Workload, samples: SampleSet, *, seed: int) -> Trained:
    """Train by the workload's recipe, or read the weights that an earlier run stored for the same training."""
    what = {
        "workload": workload.name,
        "network": str(workload.build()),
        "recipe": _settings_of_training(workload),
        "samples": ids_digest(samples),
        "seed": seed,
        "torch": torch.__version__,
        **identity(),
    }
    folder = bench_folder()
    note = folder / f"{digest(what)}.json"
    if note.exists():
        stored = json.loads(note.read_text())
        model = fresh(workload.build, seed=seed).to(DEVICE)
        load_weights(model, folder / f"{stored['sha256']}.safetensors", stored["sha256"])
        return Trained(model=model.eval(), seconds=stored["seconds"])
    begun = seconds()
    model = fit(workload.build, samples, workload.training, objective=workload.objective, seed=seed)
    taken = seconds() - begun
    _, sha256 = save_weights(model, folder)
    note.write_text(json.dumps({**what, "sha256": sha256, "seconds": taken}, indent=2) + "\n")
    return Trained(model=model.eval(), seconds=taken)


def bench_folder() -> Path:
    """Return the folder of what earlier runs left."""
    return Path(os.environ.get("EXPUNGE_BENCH", ".bench"))


def digest(what: Mapping[str, object]) -> str:
    """Compute the SHA-256, as hex, of what a result depends on."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


@functools.cache
def code_of_library() -> str:
    """Compute the SHA-256 of the library's modules, as hex."""
    folder = Path(unlearning.__path__[0])
    return digest({str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.py"))})


def ids_digest(samples: SampleSet) -> str:
    """Compute the SHA-256, as hex, of a set's sample IDs in their order."""
    return hashlib.sha256("\n".join(samples.ids).encode()).hexdigest()


def stored(kind: str, what: Mapping[str, object], run: Callable[[], Mapping[str, object]]) -> dict[str, Any]:
    """Run what takes long and store what it returns, or read what an earlier run of the same kind stored.

    what: everything that the result depends on, besides the library's code. A run that is stopped stores nothing.
    """
    place = bench_folder() / f"{kind}-{digest({**what, 'library': code_of_library()})}.json"
    if not place.exists():
        content = json.dumps(run(), indent=2) + "\n"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, content.encode())
    found: dict[str, Any] = json.loads(place.read_text())
    return found


def subset(samples: SampleSet, size: int, rng: np.random.Generator) -> SampleSet:
    """Draw `size` samples at random; all of them if there are fewer."""
    return samples.take(torch.from_numpy(rng.permutation(len(samples))[:size]))


def without(samples: SampleSet, left_out: SampleSet) -> SampleSet:
    """Return the samples that are not in the other set."""
    gone = set(left_out.ids)
    return samples.take(torch.tensor([place for place, sample in enumerate(samples.ids) if sample not in gone]))


def keys(samples: SampleSet) -> list[bytes]:
    """Key samples by the plain hash of their IDs: the data are public."""
    return [key(sample) for sample in samples.ids]


def key(sample: str) -> bytes:
    """Key one sample."""
    return hashlib.sha256(sample.encode()).digest()


def kind_of_predictions(workload: Workload) -> dict[str, str]:
    """Say what reference predictions hold, where an objective may keep one thing or another."""
    predicts = workload.objective.predicts
    return {} if predicts is None or not predicts.kind else {"predictions": predicts.kind}


def references_of(one: Case, *, plan: ReferencePlan | None = None) -> References:
    """Prepare a case's reference predictions, or read those of an earlier run; see `cost_of_references`."""
    plan = plan or ReferencePlan()
    what = {
        "case": one.name,
        "seed": one.seed,
        "plan": all_settings(plan),
        "recipe": _settings_of_training(one.workload),
        "torch": torch.__version__,
        **kind_of_predictions(one.workload),
        **identity(),
    }
    path = bench_folder() / f"references-{digest(what)}.safetensors"
    if not path.exists():
        folder = bench_folder() / "folds"
        own = preparation_folder(one.workload, plan, seed=one.seed, folder=folder)
        resumed, begun = own.exists(), seconds()
        steps = prepare_references(one.workload, plan, seed=one.seed, folder=folder, key=key, device=DEVICE)
        made = run_to_completion(steps)
        cost = {} if resumed else {"processor_seconds": seconds() - begun}
        path.write_bytes(to_bytes(dataclasses.replace(made, details={**made.details, **cost})))
    return from_bytes(path.read_bytes())


def cost_of_references(made: References) -> float | None:
    """Return the processor seconds of a preparation; None if it was interrupted, so that only its end was timed."""
    found: float | None = made.details.get("processor_seconds")
    return found
