"""Drop adapter: put untrained weights in place of an adapter that learned from forgotten samples alone."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from unlearning.errors import MethodRefused
from unlearning.networks import frozen_tensors
from unlearning.specs import DropAdapter
from unlearning.steps import Figures, Outcome, Progress, Steps
from unlearning.task import Task
from unlearning.training.loop import fresh


def drop_adapter(spec: DropAdapter, task: Task) -> Steps:
    """Reset the adapters of the forget set to the weights that `build` gives them; everything else stays as it is.

    A tensor belongs to the adapter whose name is a part of its own name, as in `layer.lora_A.alice.weight`.
    Raises MethodRefused unless each of these adapters learned from forget samples alone, and everything that training moves belongs
    to one adapter.
    """
    if task.adapters is None:
        raise MethodRefused(
            "The workload names no adapters: `adapters` says which one learned from each training sample. Use another method."
        )
    dropped = {task.adapters[sample] for sample in task.forget.ids}
    shared = dropped & {task.adapters[sample] for sample in task.remain.ids}
    if shared:
        raise MethodRefused(
            f"{len(shared)} of the {len(dropped)} adapters that learned from the forgotten samples learned from remaining samples "
            "too. An adapter can be dropped if all of its samples are forgotten; use another method."
        )
    untrained = fresh(task.build, seed=task.seed, original=task.model).state_dict()
    owners = owners_of_tensors(task.model, untrained, adapters=set(task.adapters.values()))
    if missing := dropped - set(owners.values()):
        raise MethodRefused(
            f"{len(missing)} of the {len(dropped)} adapters to drop have no parameter of their name in the model."
        )
    found = task.model.state_dict()
    with torch.no_grad():
        for name, owner in owners.items():
            if owner in dropped:
                found[name].copy_(untrained[name])
    task.model.eval()
    yield Progress(phase="unlearn", step=1, total=1, metrics=Figures(dropped_adapters=len(dropped)))
    return Outcome(steps=1, stopped_because="completed", metrics={"dropped_adapters": len(dropped)})


def owners_of_tensors(
    model: nn.Module, untrained: Mapping[str, Tensor], *, adapters: Collection[str]
) -> dict[str, str]:
    """Name the adapter of each tensor that belongs to one, by the tensor's name.

    untrained: the tensors of a new model. A buffer that differs from its own there has learned, such as batch norm's statistics.
    Raises MethodRefused for a tensor that was trained and belongs to no adapter, or to several: it may know samples of all of them.
    """
    fixed = {name.removeprefix(".") for name in frozen_tensors(model)}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    owners: dict[str, str] = {}
    for name, tensor in model.state_dict().items():
        owning = [part for part in name.split(".") if part in adapters]
        if len(owning) == 1:
            owners[name] = owning[0]
        elif name in trained or (name not in fixed and not torch.equal(tensor.cpu(), untrained[name])):
            raise MethodRefused(
                f"{name} is trained and belongs to {len(owning) or 'no'} adapters, so it may know samples of more than one. "
                "Freeze it in `build`, as the training did, or use another method."
            )
    return owners
