"""A small world whose truth is known: a network that remembers its noisy digits, and models with a known relation to it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from tests.unlearning.data.test_references import key
from unlearning.audit.audit import audit
from unlearning.audit.findings import Findings
from unlearning.audit.reference_test import AuditReferences
from unlearning.data.objectives import classification
from unlearning.data.references import References
from unlearning.data.samples import SampleSet, joined, partition
from unlearning.data.workload import Workload
from unlearning.specs.audit import AuditSpec
from unlearning.specs.references import ReferencePlan
from unlearning.specs.training import Recipe
from unlearning.steps import run_to_completion
from unlearning.training.references import prepare_references

OBJECTIVE = classification(10)
FORGOTTEN = 150
FAST = AuditSpec(replicates=400, vector_seeds=2, relearn_controls=5)
SMALL = AuditSpec(replicates=100, vector_seeds=1, relearners=("sgd",), relearn_controls=3, relearn_steps=8)


def network() -> nn.Module:
    """Small, because it is trained and fine-tuned dozens of times; with batch normalisation and dropout all the same."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 10)
    )


@dataclass(frozen=True)
class World:
    sets: dict[str, SampleSet]
    models: dict[str, nn.Module]
    references: References | None = None

    def with_forgotten(self, index: Tensor) -> "World":
        """The same with only these of the forgotten samples."""
        return replace(self, sets={**self.sets, "forget": self.sets["forget"].take(index)})

    def audit(
        self,
        case: str | nn.Module,
        *,
        spec: AuditSpec = FAST,
        reference: str | None = None,
        erased_since: int = 0,
        **about_rows: Any,
    ) -> Findings:
        unlearned = self.models[case] if isinstance(case, str) else case
        return run_to_completion(
            audit(
                original=self.models["original"],
                unlearned=unlearned,
                objective=OBJECTIVE,
                spec=spec,
                seed=0,
                reference=self.models[reference] if reference else None,
                references=None if self.references is None else self._rows(self.references, **about_rows),
                erased_since=erased_since,
                **self.sets,
            )
        )

    def _rows(self, references: References, **about: Any) -> AuditReferences:
        rows = {
            name: references.take([key(sample) for sample in self.sets[name].ids])
            for name in ("forget", "remain", "held_out")
        }
        return AuditReferences(**rows, **about)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world() -> World:
    data = load_digits()
    clean = torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    everything = SampleSet(
        ids=tuple(map(str, range(len(clean)))),
        inputs=clean + 0.4 * noise,
        targets=torch.tensor(data.target, dtype=torch.int64),
    )
    train, held_out, test = partition(everything, (900, 450, 447), seed=1)
    index = torch.arange(len(train))
    forget, remain = train.take(index[:FORGOTTEN]), train.take(index[FORGOTTEN:])
    original = trained(train, seed=0)
    models = {
        "original": original,
        "retrained": trained(remain, seed=1),
        "no-op": copy.deepcopy(original),
        "ascended": changed(original, lambda model: ascend(model, forget, rate=0.005, steps=15)),
        "collapsed": changed(original, lambda model: shake(model, 3.0)),
        "diverged": changed(original, lambda model: shake(model, float("inf"))),
    }
    return World(sets={"forget": forget, "remain": remain, "held_out": held_out, "test": test}, models=models)


@pytest.fixture(scope="session")
def referenced(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same with reference predictions, of which an audit reads those of the audit's rounds alone."""
    given = Workload(
        name="world",
        build=network,
        train=joined(world.sets["forget"], world.sets["remain"]),
        held_out=world.sets["held_out"],
        test=world.sets["test"],
        objective=OBJECTIVE,
        recipe=Recipe(epochs=20, learning_rate=0.05, precision="float32"),
    )
    plan = ReferencePlan(rounds=1, audit_rounds=2)
    prepared = prepare_references(given, plan, seed=0, folder=tmp_path_factory.mktemp("references"), key=key)
    return replace(world, references=run_to_completion(prepared))


def trained(samples: SampleSet, *, seed: int, epochs: int = 20) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.05, total_steps=epochs * -(-len(samples) // 64))
        for _ in range(epochs):
            for batch in samples.epoch(64, torch.Generator().manual_seed(int(torch.randint(2**31, ())))):
                optimiser.zero_grad()
                functional.cross_entropy(model(batch.inputs), batch.targets).backward()
                optimiser.step()
                schedule.step()
    model.zero_grad()
    return model.eval()


def changed(model: nn.Module, change: Callable[[nn.Module], None]) -> nn.Module:
    copied = copy.deepcopy(model)
    change(copied)
    return copied


def ascend(model: nn.Module, samples: SampleSet, *, rate: float, steps: int) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        (-functional.cross_entropy(model(samples.inputs), samples.targets)).backward()
        optimiser.step()


@torch.no_grad()
def shake(model: nn.Module, size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        spread: Tensor = parameter.std() if parameter.numel() > 1 else parameter.abs()
        parameter += size * spread * torch.randn(parameter.shape, generator=generator)
