"""Drop adapter: what belongs to the forgotten group starts anew, and nothing else moves."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.unlearning.small import CLASSES, OBJECTIVE, RECIPE, WIDTH, same, samples, state, task_of
from unlearning.data.samples import joined
from unlearning.data.workload import Workload
from unlearning.errors import InvalidWorkload, MethodRefused
from unlearning.methods.registry import unlearn
from unlearning.specs import DropAdapter
from unlearning.steps import run_to_completion
from unlearning.task import Task
from unlearning.training.loop import fresh


class Adapted(nn.Module):
    """A frozen base with a low-rank adapter for each of two groups, named as PEFT names them; a sign says whose a sample is."""

    def __init__(self, *, shared_norm: bool = False, open_base: bool = False) -> None:
        super().__init__()
        self.base = nn.Linear(WIDTH, CLASSES).requires_grad_(open_base)
        self.norm = nn.BatchNorm1d(WIDTH, affine=False) if shared_norm else nn.Identity()
        names = ("anna", "bert")
        self.lora_A = nn.ModuleDict({name: nn.Linear(WIDTH, 2, bias=False) for name in names})
        self.lora_B = nn.ModuleDict({name: nn.Linear(2, CLASSES, bias=False) for name in names})
        self.register_buffer("scale", torch.ones(()))
        for layer in self.lora_B.values():
            nn.init.zeros_(layer.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = self.norm(inputs)
        anna, bert = (self.lora_B[name](self.lora_A[name](inputs)) for name in ("anna", "bert"))
        out: Tensor = self.base(inputs) + self.scale * torch.where(inputs[:, :1] > 0, anna, bert)
        return out


def task(build: Callable[[], nn.Module] = Adapted) -> Task:
    """A model whose weights have all moved; the forget set is all of anna's samples."""
    forget, remain = samples(20, seed=1), samples(40, seed=2)
    model = fresh(build, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
        for name, buffer in model.named_buffers():
            if name == "norm.running_mean":
                buffer.add_(1.0)
    made = task_of(model, build, forget=forget, remain=remain)
    made.adapters = dict.fromkeys(forget.ids, "anna") | dict.fromkeys(remain.ids, "bert")
    return made


def test_the_adapter_of_a_forgotten_group_is_untrained_again_and_nothing_else_moves() -> None:
    given = task()
    before = state(given.model)
    outcome = run_to_completion(unlearn(DropAdapter(), given))

    after, new = state(given.model), state(fresh(given.build, seed=given.seed))
    for name, tensor in after.items():
        assert torch.equal(tensor, (new if ".anna." in name else before)[name]), name
    assert outcome.metrics == {"dropped_adapters": 1}
    assert not given.model.training
    inputs = given.forget.inputs.abs()  # all hers
    with torch.no_grad():
        assert torch.equal(given.model(inputs), given.model.base(inputs))


def partly(given: Task) -> None:
    given.forget = given.forget.take(torch.arange(10))
    given.remain = joined(samples(20, seed=1).take(torch.arange(10, 20)), given.remain)


@pytest.mark.parametrize(
    ("build", "change", "message"),
    [
        (Adapted, lambda given: setattr(given, "adapters", None), "names no adapters"),
        (Adapted, partly, "remaining samples"),
        (lambda: Adapted(open_base=True), lambda given: None, "base.weight is trained and belongs to no"),
        (lambda: Adapted(shared_norm=True), lambda given: None, "norm.running_mean is trained"),
        (
            Adapted,
            lambda given: setattr(given, "adapters", given.adapters | dict.fromkeys(given.forget.ids, "carl")),
            "belongs to no adapters",
        ),
    ],
    ids=["no adapters", "partly", "a trained base", "shared statistics", "another name"],
)
def test_it_is_refused_before_anything_changes(
    build: Callable[[], nn.Module], change: Callable[[Task], object], message: str
) -> None:
    given = task(build)
    change(given)
    before = state(given.model)
    with pytest.raises(MethodRefused, match=message) as refusal:
        next(unlearn(DropAdapter(), given))

    assert same(state(given.model), before)
    assert not any(sample in str(refusal.value) for sample in given.forget.ids)


def test_a_workload_names_an_adapter_for_each_training_sample() -> None:
    sets = {"train": samples(5, seed=1), "held_out": samples(5, seed=2), "test": samples(5, seed=3)}
    names = dict.fromkeys(sets["train"].ids, "anna")
    for wrong in ({}, {sets["train"].ids[2]: "a.b"}, {sets["train"].ids[2]: ""}):
        given = names | wrong if wrong else dict(list(names.items())[:2])
        with pytest.raises(InvalidWorkload, match="position 2"):
            Workload(name="w", build=Adapted, objective=OBJECTIVE, recipe=RECIPE, adapters=given, **sets)
