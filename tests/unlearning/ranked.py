"""What `test_ranks` compares: runs in one process, and the same runs on the ranks that torchrun starts with this module.

Everything is in float64, where what a sum over ranks rounds otherwise is far smaller than any error.
"""

import copy
import functools
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

from tests.unlearning import small
from tests.unlearning.kinds import CLASSES, Denoiser, next_token
from tests.unlearning.methods import test_kernels
from tests.unlearning.methods.test_conformance import OF_SOME_MODELS, spec_of
from tests.unlearning.trainers import train_by_adamw
from unlearning import ranks
from unlearning.audit.audit import audit
from unlearning.data.objectives import causal_language_model, denoising_diffusion, divided
from unlearning.data.references import ReferencePredictions, uninformed_references
from unlearning.data.samples import SampleSet
from unlearning.data.workload import OwnTraining, Workload
from unlearning.gradients import forward_with, trainable
from unlearning.methods.aims import reference_aims, remaining_losses
from unlearning.methods.ltu import method
from unlearning.methods.ltu.guide_attacks import GuideAttack, losses_alone
from unlearning.methods.registry import METHODS
from unlearning.networks import copy_network, is_finite
from unlearning.sharding import gathered, is_sharded, local, place, whole
from unlearning.specs import PRODUCTION, Spec
from unlearning.specs.audit import AuditSpec
from unlearning.specs.references import ReferencePlan
from unlearning.specs.suitability import NEEDS, Need
from unlearning.specs.training import Augmentation, Ready2Unlearn, Recipe
from unlearning.steps import run_to_completion
from unlearning.storage import load_training_checkpoint, save_training_checkpoint
from unlearning.task import Task
from unlearning.training.loop import fit, fresh, train
from unlearning.training.optimisation import minimise, sgd
from unlearning.training.references import prepare_references
from unlearning.training.run import TrainingRun

RECIPE = Recipe(epochs=2, batch_size=15, learning_rate=0.1, precision="float32")
AUDIT = AuditSpec(
    replicates=100,
    vector_seeds=1,
    relearners=("sgd",),
    relearn_samples=13,
    relearn_batch=5,
    relearn_steps=4,
    relearn_controls=3,
)
Found = dict[str, Tensor]

_OFFERED = {Need.CLASSES, Need.CLASS_PROBABILITIES, Need.RANDOM_TARGETS, Need.REFERENCES, Need.RANDOM_ACCESS}
OF_PARTS = sorted(kind for kind, needs in NEEDS.items() if needs <= _OFFERED)
"""Methods that a sharded model can be unlearned by."""
QUICK = ("ieu", "matching", "retrain")
"""Those of OF_PARTS that every run of the tests tries; the others take the same steps on other losses."""


def samples(count: int, *, seed: int) -> SampleSet:
    made = small.samples(count, seed=seed)
    return replace(made, inputs=made.inputs.double())


def normalised() -> nn.Module:
    return small.normalised().double()


def dropping() -> nn.Module:
    return small.dropping().double()


def with_square_kernels() -> nn.Module:
    return test_kernels.images().double()


@functools.cache
def original(build: Callable[[], nn.Module]) -> nn.Module:
    return fit(build, samples(120, seed=1), RECIPE, objective=small.OBJECTIVE, seed=0)


def task(build: Callable[[], nn.Module] = normalised, *, forgotten: int = 23, references: bool = False) -> Task:
    """Neither the sets nor their batches are multiples of the number of ranks."""
    train, index = samples(120, seed=1), torch.arange(120)
    given = Task(
        model=copy.deepcopy(original(build)),
        build=build,
        objective=small.OBJECTIVE,
        recipe=RECIPE,
        forget=train.take(index[:forgotten]),
        remain=train.take(index[forgotten:]),
        guide=samples(61, seed=11),
        criterion=samples(81, seed=12),
        seed=3,
    )
    if references:
        given.references = uninformed_references(given.objective, given.forget)
    return given


def unlearned(spec: Spec, given: Task) -> Found:
    outcome = run_to_completion(small.start(spec, given))
    figures = {f"metric {name}": torch.tensor(value) for name, value in outcome.metrics.items()}
    weights = {name: gathered(tensor).clone() for name, tensor in given.model.state_dict().items()}
    return weights | figures | {"steps": torch.tensor(outcome.steps)}


def by(kind: str, given: Callable[[], Task] = task, **changes: object) -> Callable[[], Found]:
    """Few steps, although the forget set is large for their batches."""
    spec = spec_of(kind)
    short = {"passes": 0.0, "rehearsals": 1}
    return lambda: unlearned(replace(spec, **{n: v for n, v in short.items() if hasattr(spec, n)}, **changes), given())


def with_given_attacks() -> Found:
    """LTU whole. Training its guide attacks, for hundreds of steps in float32, would enlarge what is rounded."""
    head = nn.Linear(small.CLASSES, 1).requires_grad_(False)
    head.weight.copy_(torch.arange(small.CLASSES)[None] / 3)
    head.bias.zero_()
    attack = GuideAttack(features=losses_alone, mean=torch.zeros(1), scale=torch.ones(1), head=head, accuracy=1.0)
    with mock.patch.object(method, "train_guide_attacks", return_value=(attack, attack)):
        return by("ltu")()


def trained(build: Callable[[], nn.Module], data: SampleSet, recipe: Recipe) -> Found:
    return small.state(fit(build, data, recipe, objective=small.OBJECTIVE, seed=1))


def images() -> SampleSet:
    drawn = torch.Generator().manual_seed(0)
    pixels = torch.randn(41, 1, 3, 3, generator=drawn, dtype=torch.float64)
    return SampleSet(ids=tuple(map(str, range(41))), inputs=pixels, targets=torch.arange(41) % small.CLASSES)


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, small.CLASSES)).double()


class WithUnused(nn.Module):
    """One of its layers is in no pass. Weight decay would shrink it if its gradient were zero, and not none."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(small.WIDTH, small.CLASSES).double(), nn.Linear(2, 2).double()

    def forward(self, inputs: Tensor) -> Tensor:
        answers: Tensor = self.used(inputs)
        return answers


def resumed(make: Callable[[], Task] = task) -> Found:
    """The second half comes from the checkpoint of the first rank, as it is on disk."""
    given = make()
    steps = small.start(spec_of("matching"), given)
    next(steps), next(steps)
    with tempfile.TemporaryDirectory() as folder:
        content = load_training_checkpoint(*save_training_checkpoint(whole(given.state.snapshot()), Path(folder)))
    steps.close()
    again = make()
    again.state.resumed = ranks.broadcast(content)
    return unlearned(spec_of("matching"), again)


def by_its_owner() -> Found:
    def train(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
        train_by_adamw(model, data, run, epochs=2, batch_size=20, rate=1e-3)

    given = task()
    given.recipe = OwnTraining(trainer=train)
    return unlearned(spec_of("retrain"), given)


def referred(build: Callable[[], nn.Module] = normalised, *, sharded: bool = False) -> Found:
    """Reference models, trained one after the other by all ranks."""
    workload = Workload(
        name="small",
        build=build,
        sharded=sharded,
        train=samples(43, seed=1),
        held_out=samples(21, seed=2),
        test=samples(5, seed=3),
        objective=small.OBJECTIVE,
        recipe=RECIPE,
    )
    plan = ReferencePlan(rounds=1, audit_rounds=1)
    with tempfile.TemporaryDirectory() as folder:
        steps = prepare_references(workload, plan, seed=0, folder=Path(folder), key=lambda sample: sample.encode())
        found = run_to_completion(steps)
    return {"predictions": found.predictions, "losses": found.losses, "unseen": found.unseen, "seen": found.seen}


def of_texts() -> Found:
    """A language model that is matched to references which name several tokens, and what would be kept of it."""
    tokens = torch.randint(10, (61, 6), generator=torch.Generator().manual_seed(0))
    every = SampleSet(ids=tuple(map(str, range(61))), inputs=tokens, targets=tokens)
    objective, index = causal_language_model(10, named=4), torch.arange(61)

    def build() -> nn.Module:
        return next_token().double()

    given = Task(
        model=fresh(build, seed=0),
        build=build,
        objective=objective,
        recipe=RECIPE,
        forget=every.take(index[:23]),
        remain=every.take(index[23:41]),
        guide=every.take(index[41:51]),
        criterion=every.take(index[51:]),
        seed=3,
    )
    assert objective.recorded is not None
    assert objective.predicts is not None
    aims = objective.recorded(fresh(build, seed=1), given.forget.batch.inputs)
    given.references = ReferencePredictions(
        predictions=aims, losses=objective.predicts.losses(aims, given.forget.targets)
    )
    found = unlearned(replace(spec_of("matching"), passes=0.0), given)
    asked = divided(objective).recorded
    assert asked is not None
    return found | {"kept": asked(given.model, given.forget.batch.inputs)}


def of_images(*, parts: bool = False) -> Task:
    """An image generator that is to forget a class."""
    classes = torch.arange(61) % CLASSES
    images = torch.rand(61, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    every = SampleSet(ids=tuple(map(str, range(61))), inputs={"images": images, "classes": classes}, targets=classes)
    gone, stays = ((classes == 2) == forgotten for forgotten in (True, False))

    def build() -> nn.Module:
        return Denoiser().double()

    return Task(
        model=place(fresh(build, seed=0), parts, torch.device("cpu")),
        build=build,
        objective=denoising_diffusion(CLASSES, (1, 4, 4), steps=20),
        recipe=RECIPE,
        forget=every.take(gone.nonzero().flatten()),
        remain=every.take(stays.nonzero().flatten()[:23]),
        guide=every.take(stays.nonzero().flatten()[23:31]),
        criterion=every.take(stays.nonzero().flatten()[31:]),
        seed=3,
    )


def generating(*, parts: bool = False) -> Found:
    """One step of SGD on what keeps the remaining samples of a generator and on what a forgotten class is drawn to.

    A whole run draws other noise on ranks than in one process.
    """
    given = of_images(parts=parts)
    given.objective = divided(given.objective)
    remaining, aims = remaining_losses(given, None), reference_aims(given)
    assert aims is not None
    with torch.no_grad():
        for parameter in given.model.parameters():
            local(parameter).mul_(0.9)
    torch.manual_seed(4)
    objective, forward = given.objective.for_step(), forward_with(given.model, trainable(given.model))
    index = torch.arange(len(given.forget))
    drawn = aims.as_other_classes(objective, forward, given.forget.batch, index).mean()
    torch.manual_seed(5)
    loss = drawn + remaining(forward, given.remain.batch).mean()
    minimise(given.model, sgd(given.model, rate=0.1), loss, max_gradient_norm=1e9)
    return {name: gathered(tensor).clone() for name, tensor in given.model.state_dict().items()} | {
        "loss": loss.detach()
    }


def audited(make: Callable[[], Task] = task) -> Found:
    given = make()
    changed = copy_network(given.model)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(0.9)
    findings = run_to_completion(
        audit(
            original=given.model,
            unlearned=changed,
            forget=given.forget,
            remain=given.remain,
            held_out=given.guide,
            test=given.criterion,
            objective=small.OBJECTIVE,
            spec=AUDIT,
        )
    )
    (relearning,) = findings.relearnings
    curves = (relearning.original, *relearning.unlearned, *relearning.controls)
    return {
        "losses": torch.tensor([loss for curve in curves for loss in curve.losses], dtype=torch.float64),
        "delays": torch.tensor([curve.delay for curve in curves]),
        "checks": torch.tensor([check.passed is True for check in findings.verdict.findings]),
    }


class Blocks(nn.Module):
    """Its two blocks are gathered one at a time. The weight that it uses twice lies outside them, and a parameter is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(small.WIDTH, 7), nn.Linear(small.WIDTH, 7)
        self.last.weight = self.first.weight
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(7, 7), nn.BatchNorm1d(7), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(7, small.CLASSES)
        self.head.bias.requires_grad_(False)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.first(inputs) + self.last(inputs.flip(0)).flip(0)
        for block in self.blocks:
            found = found + block(found)
        answers: Tensor = self.head(found)
        return answers


def of_parts() -> Task:
    """The model is whole in one process, and on ranks in parts."""
    made = task(Blocks, references=True)
    made.model = place(made.model, True, torch.device("cpu"))
    assert is_sharded(made.model) is (ranks.count() > 1)
    return made


def sharded(kind: str) -> Callable[[], Found]:
    def without_references() -> Task:
        given = of_parts()
        given.references = None
        return given

    return by(kind, of_parts if kind == "matching" else without_references)


def in_single_precision() -> Found:
    """torch reduces float32 by other operations than float64."""
    model = place(fresh(small.plain, seed=1), True, torch.device("cpu"))
    given = small.samples(61, seed=1)
    run_to_completion(train(model, given, replace(RECIPE, learning_rate=0.01), objective=small.OBJECTIVE, seed=1))
    return {name: gathered(tensor).clone() for name, tensor in model.state_dict().items()}


def with_one_bad_part() -> Found:
    """The last row of a weight, which the last rank has, is infinite."""
    model = place(Blocks(), True, torch.device("cpu"))
    before = is_finite(model)
    if ranks.own_rank() == ranks.count() - 1:
        with torch.no_grad():
            local(model.head.weight)[-1] = torch.inf
    return {"finite": torch.tensor([before, is_finite(model)])}


CASES: dict[str, Callable[[], Found]] = {
    **{kind: by(kind) for kind in sorted(PRODUCTION.keys() - OF_SOME_MODELS - {"ltu"})},
    "ltu": with_given_attacks,
    "ltu by references, without attacks": by("ltu", lambda: task(references=True), forgetting=False),
    "ltu on one sample": by("ltu", lambda: task(forgotten=1, references=True), forgetting=False),
    "ieu by references": by("ieu", lambda: task(references=True)),
    "a training that prepares": lambda: trained(
        normalised, samples(61, seed=1), replace(RECIPE, readiness=Ready2Unlearn(warm_up=0.0, every=2))
    ),
    "a training with augmentation": lambda: trained(
        convolutional, images(), replace(RECIPE, augmentation=Augmentation(padding=1))
    ),
    "a layer that is not used": lambda: trained(WithUnused, samples(41, seed=1), RECIPE),
    "a resumed run": resumed,
    "an owner's function": by_its_owner,
    "reference models": referred,
    "a language model by references": of_texts,
    "a step of a generator": generating,
    "an audit": audited,
    **{f"{kind}, sharded": sharded(kind) for kind in QUICK},
    "ieu by references, sharded": by("ieu", of_parts),
    "a step of a generator, sharded": lambda: generating(parts=True),
    "a resumed run, sharded": lambda: resumed(of_parts),
    "a training in float32, sharded": in_single_precision,
    "a part that is not finite, sharded": with_one_bad_part,
}
"""Each gives tensors that are the same for any number of ranks."""

MORE_CASES: dict[str, Callable[[], Found]] = {
    **{kind: by(kind) for kind in sorted(METHODS.keys() - PRODUCTION.keys() - OF_SOME_MODELS)},
    "ct": by("ct", lambda: task(with_square_kernels)),
    **{f"{kind}, sharded": sharded(kind) for kind in OF_PARTS if kind not in QUICK},
    "an audit, sharded": lambda: audited(of_parts),
    "rewind, sharded": by("rewind", of_parts),
    "reference models, sharded": lambda: referred(Blocks, sharded=True),
}
"""As CASES, for the slow tests."""

OF_RANKS: dict[str, Callable[[], Found]] = {
    "a training with dropout": by("retrain", lambda: task(dropping)),
    "ltu with its own attacks": by("ltu"),
    "a generator that forgets a class": by("matching", of_images),
    "a generator that forgets a class, sharded": by("matching", lambda: of_images(parts=True)),
}
"""Each gives tensors that are the same on all ranks, but not the same as in one process."""


def main(folder: Path, cases: str) -> None:
    """Run the cases on this rank, and write what they give. cases: "usual" or "more"."""
    torch.set_num_threads(1)
    with ranks.joined(torch.device("cpu")):
        found = {name: case() for name, case in (CASES | OF_RANKS if cases == "usual" else MORE_CASES).items()}
        torch.save(found, folder / f"{ranks.own_rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
