"""Bad teacher (BadT): distil random weights on the forget set and the original model on remaining data."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.data.batches import Inputs
from unlearning.data.objectives import Forward
from unlearning.errors import MethodRefused
from unlearning.gradients import Loss, trainable
from unlearning.methods.fixed_schedule import MixedBatch, learn_mixed_epochs
from unlearning.networks import frozen_copy
from unlearning.specs import BadTeacher
from unlearning.steps import Steps
from unlearning.task import Task
from unlearning.training.loop import fresh


def bad_teacher(spec: BadTeacher, task: Task) -> Steps:
    """Distil two teachers into the model, in place (Chundawat et al., AAAI 2023, eq. 3).

    ℓ(x) = (1 − l) KL(T_s(x) ‖ S(x)) + l KL(T_d(x) ‖ S(x)), with l = 1 for forget samples, T_s the original and T_d freshly
    initialised weights, both in evaluation mode; the student is in training mode. Raises MethodRefused without logits.
    """
    if task.objective.logits is None:
        raise MethodRefused(
            "A bad teacher teaches by class probabilities; this objective has no classes. Use IEU or Retrain."
        )
    generator = torch.Generator().manual_seed(task.seed)
    task.model.eval()
    competent = frozen_copy(task.model)
    device = task.forget.device
    incompetent = fresh(task.build, seed=task.seed).to(device).eval().requires_grad_(False)
    chosen = torch.randperm(len(task.remain), generator=generator)
    taught = task.remain.take(chosen[: max(1, round(spec.remain_share * len(chosen)))])
    optimiser = torch.optim.Adam(trainable(task.model).values(), lr=spec.learning_rate)

    def loss(part: MixedBatch) -> Loss:
        target = _teacher_output(task, part, competent, incompetent, temperature=spec.temperature)
        return _divergence(spec, task, part.batch.inputs, target)

    steps = learn_mixed_epochs(spec, task, optimiser, generator, remain=taught, forget=task.forget, loss=loss)
    return (yield from steps)


@torch.no_grad()
def _teacher_output(
    task: Task, part: MixedBatch, competent: nn.Module, incompetent: nn.Module, *, temperature: float
) -> Tensor:
    """Compute the log-probabilities, (n, classes), of the incompetent teacher for forget samples, else of the competent one."""
    assert task.objective.logits is not None
    good, bad = (task.objective.logits(teacher, part.batch.inputs) for teacher in (competent, incompetent))
    return (torch.where(part.forgotten[:, None], bad, good).float() / temperature).log_softmax(-1)


def _divergence(spec: BadTeacher, task: Task, inputs: Inputs, target: Tensor) -> Loss:
    """Return the KL divergence of the student from the teacher's output (n, classes) as a function of the forward pass."""
    logits = task.objective.logits
    assert logits is not None

    def loss(forward: Forward) -> Tensor:
        student = (logits(forward, inputs).float() / spec.temperature).log_softmax(-1)
        return functional.kl_div(student, target, reduction="batchmean", log_target=True)

    return loss
