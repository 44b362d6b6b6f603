"""Selective synaptic dampening (SSD): shrink the weights that the forget set needs most."""

from itertools import chain

import torch

from unlearning.gradients import trainable
from unlearning.methods.importance import add_squared_gradients, zero_importance
from unlearning.specs import SSD
from unlearning.state import Loop
from unlearning.steps import Outcome, Progress, Steps
from unlearning.task import Task


def ssd(spec: SSD, task: Task) -> Steps:
    """Dampen, in place, the weights that the forget set needs more than all training data do (Foster et al., AAAI 2024, eqs. 5, 6).

    θ_i ← min(λ·I_i(D) / I_i(D_f), 1)·θ_i  where  I_i(D_f) > α·I_i(D), with I the diagonal of the empirical Fisher information and
    D = D_f ∪ D_r. Nothing is drawn at random. The outcome's metric `dampened_share` is the share of the weights that were dampened;
    0 means that nothing was done.
    """
    task.model.eval()
    everything = len(task.forget) + len(task.remain)
    forget, overall = zero_importance(task), zero_importance(task)
    first, second = (samples.chunks(spec.batch_size) for samples in (task.forget, task.remain))
    steps = len(first) + len(second) + 1
    loop = Loop(steps - 1)
    task.state.register(forget=forget, overall=overall, loop=loop)
    left = task.forget.stream(first[loop.done :]), task.remain.stream(second[max(0, loop.done - len(first)) :])
    for number, part in zip(loop, chain(*left), strict=True):
        if number <= len(first):
            add_squared_gradients(forget, task, part, of=len(task.forget))
        else:
            add_squared_gradients(overall, task, part, of=everything)
        yield Progress(phase="unlearn", step=number, total=steps)
    for name, found in forget.items():
        overall[name] += found * (len(task.forget) / everything)
    dampened = total = 0
    with torch.no_grad():
        for name, p in trainable(task.model).items():
            chosen = forget[name] > spec.selection * overall[name]
            factor = (spec.dampening * overall[name] / forget[name].clamp(min=1e-30)).clamp(max=1)
            p.copy_(torch.where(chosen, factor * p, p))
            dampened, total = dampened + int(chosen.sum()), total + chosen.numel()
    share = dampened / total if total else 0.0
    return Outcome(steps=steps, stopped_because="completed", metrics={"dampened_share": share})
