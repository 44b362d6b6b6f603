"""RMU: steer the hidden states of forget samples towards a random direction, and hold those of remaining samples."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from unlearning.data.batches import Batch
from unlearning.data.objectives import Forward, Objective, undivided
from unlearning.errors import MethodRefused
from unlearning.features import calls_of
from unlearning.gradients import flat_gradient, forward_with, trainable
from unlearning.methods.fixed_schedule import forget_epochs, run_schedule
from unlearning.networks import frozen_copy
from unlearning.specs import RMU
from unlearning.steps import Steps
from unlearning.task import Task
from unlearning.training.optimisation import apply_gradient, training_mode


def rmu(spec: RMU, task: Task) -> Steps:
    """Minimise E‖h(x_f) − c·u‖² + α E‖h(x_r) − h_o(x_r)‖² in place (Li et al., ICML 2024, arXiv 2403.03218).

    h are the hidden states of one block, h_o those of the original model, u a random unit vector of positive entries. That
    block and the two before it are all that changes. c is a multiple of the mean norm of h_o on forget samples, and both terms are
    divided by that norm's square: so c and α mean the same in every model [ours; the paper gives numbers for one model each].
    Raises MethodRefused for a model without layers that return hidden states.
    """
    generator = torch.Generator().manual_seed(task.seed)
    original = frozen_copy(task.model)
    first = task.forget.select(torch.arange(min(spec.batch_size, len(task.forget))))
    blocks = hidden_blocks(task, original)
    chosen = math.ceil(spec.depth * len(blocks)) - 1
    block, changing = blocks[chosen], blocks[max(0, chosen - 2) : chosen + 1]
    weights = {name: p for name, p in trainable(task.model).items() if any(name.startswith(f"{b}.") for b in changing)}
    optimiser = torch.optim.AdamW(weights.values(), lr=spec.learning_rate)

    def of_original(objective: Objective, batch: Batch) -> Tensor:
        with torch.no_grad():
            return hidden_states(objective, original, batch, network=original, block=block)

    def of_model(objective: Objective, batch: Batch) -> Tensor:
        # Through a copy of the buffers: no batch leaves a trace in the running statistics of batch norm.
        forward = forward_with(task.model, trainable(task.model))
        with training_mode(task.model, samples=batch.size):
            return hidden_states(objective, forward, batch, network=task.model, block=block)

    before = of_original(task.objective, first)
    scale = before.norm(dim=-1).mean().clamp(min=torch.finfo(before.dtype).tiny)
    direction = torch.rand(before.shape[-1], generator=generator).to(before)
    aim = spec.steering * scale * direction / direction.norm()

    def step(forget: Batch, remain: Batch) -> Tensor:
        objective = task.objective.for_step()
        far = of_model(objective, forget) - aim
        moved = of_model(objective, remain) - of_original(objective, remain)
        loss = _mean_squared_norm(far / scale) + spec.remain_weight * _mean_squared_norm(moved / scale)
        apply_gradient(optimiser, flat_gradient(loss, weights))
        return loss.detach()

    def steps() -> Iterator[Callable[[], Tensor]]:
        for forget, remain in forget_epochs(task, epochs=spec.epochs, size=spec.batch_size, generator=generator):
            yield partial(step, forget, remain)

    total = spec.epochs * task.forget.batch_count(spec.batch_size)
    return (yield from run_schedule(task, optimiser, steps(), total=total))


def hidden_blocks(task: Task, original: nn.Module) -> list[str]:
    """Name the blocks of a network, from the input on: the entries of its longest list of layers, as a transformer has one.

    Where no list has two entries that count, each layer with weights of its own is a block. An entry counts if training changes it
    and a pass calls it once and gets hidden states. Raises MethodRefused if there is none.
    """
    layers = [name for name in dict.fromkeys(name.rpartition(".")[0] for name in trainable(task.model)) if name]
    lists = [
        [f"{name}.{child}".lstrip(".") for child, _ in module.named_children()]
        for name, module in original.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
    ]
    trained = {
        name for names in (*lists, layers) for name in names if any(f"{own}.".startswith(f"{name}.") for own in layers)
    }
    counting = _giving_hidden_states(task, original, trained)
    longest = max(([name for name in names if name in counting] for names in lists), key=len, default=[])
    blocks = longest if len(longest) > 1 else [name for name in layers if name in counting]
    if not blocks:
        raise MethodRefused(
            "RMU steers the hidden states of a layer, and no layer of this model returns any. Use NPO or IEU."
        )
    return blocks


def _giving_hidden_states(task: Task, original: nn.Module, names: Collection[str]) -> set[str]:
    """Return those of the modules that a pass calls once and that return hidden states."""
    modules = {name: original.get_submodule(name) for name in names}
    few = task.forget.select(torch.arange(min(2, len(task.forget))))
    with calls_of(*set(modules.values())) as calls, torch.no_grad():
        undivided(task.objective).losses(original, few)
    count = Counter(call.layer for call in calls)
    found = {call.layer for call in calls if count[call.layer] == 1 and _are_hidden(_tensor_in(call.returned))}
    return {name for name, module in modules.items() if module in found}


def hidden_states(objective: Objective, forward: Forward, batch: Batch, *, network: nn.Module, block: str) -> Tensor:
    """Return what a block of the network returns in a pass, (places, d) float32: one row for each token, pixel or sample."""
    with calls_of(network.get_submodule(block)) as calls:
        undivided(objective).losses(forward, batch)  # which knows how the model is called
    return _rows(_tensor_in(calls[0].returned))


def _tensor_in(output: object) -> Tensor | None:
    """Find the hidden states in what a block returns; some return them first in a tuple."""
    while isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def _are_hidden(output: Tensor | None) -> bool:
    return output is not None and output.is_floating_point() and output.dim() > 1


def _rows(output: Tensor | None) -> Tensor:
    """Return hidden states as rows, (places, d). Images and other grids have their channels in the second dimension."""
    assert output is not None  # `hidden_blocks` has looked
    states = output if output.dim() < 4 else output.movedim(1, -1)
    return states.flatten(0, -2).float()


def _mean_squared_norm(differences: Tensor) -> Tensor:
    return differences.square().sum(-1).mean()
