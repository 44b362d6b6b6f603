"""Fisher forgetting: add noise to the weights that the remaining set needs least."""

import torch

from unlearning.gradients import trainable
from unlearning.methods.importance import add_squared_gradients, with_drawn_labels, zero_importance
from unlearning.specs import FisherNoise
from unlearning.state import Loop
from unlearning.steps import Outcome, Progress, Steps
from unlearning.task import Task


def fisher_noise(spec: FisherNoise, task: Task) -> Steps:
    """Update θ ← θ + (λσ²)^¼ F^(−¼) ξ, ξ ~ N(0, I), in place (Golatkar, Achille, Soatto, CVPR 2020).

    F is the diagonal of the Fisher information on the remaining set, with labels drawn from the model: weights that those data
    need get little noise. Raises MethodRefused without logits.
    """
    task.model.eval()
    generator = torch.Generator().manual_seed(task.seed)
    importance = zero_importance(task)
    chunks = task.remain.chunks(spec.batch_size)
    loop = Loop(len(chunks))
    task.state.register(importance=importance, generator=generator, loop=loop)
    for number, part in zip(loop, task.remain.stream(chunks[loop.done :]), strict=True):
        labelled = with_drawn_labels(task, part, generator)
        add_squared_gradients(importance, task, labelled, of=len(task.remain))
        yield Progress(phase="unlearn", step=number, total=len(chunks) + 1)
    with torch.no_grad():
        for name, p in trainable(task.model).items():
            noise = torch.randn(p.shape, generator=generator).to(p)
            p.add_(spec.noise * importance[name].clamp(min=spec.floor).pow(-0.25) * noise)
    return Outcome(steps=len(chunks) + 1, stopped_because="completed")
