"""Matching: fine-tune the model until it says of each forget sample what models that never saw it say (docs/methods.md §8)."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from unlearning.data.batches import Batch
from unlearning.data.samples import dealt
from unlearning.errors import MethodRefused
from unlearning.methods.aims import matching_loss, reference_aims, remaining_losses
from unlearning.methods.fixed_schedule import run_schedule
from unlearning.specs import Matching
from unlearning.specs.methods import scale_schedule
from unlearning.steps import Steps
from unlearning.task import Task
from unlearning.training.optimisation import (
    MIN_NORMALISED_BATCH,
    anneal,
    minimise,
    optimiser_towards_aims,
    update_running_statistics,
)

_SETTLING = 30
"""Steps in which batch norm's running statistics forget what came before: at torch's default momentum 4 % of it are left [ours]."""

_HELD = 0.7
"""The share of a classifier's run that has the whole learning rate [ours]. Others have half of the run."""


def matching(spec: Matching, task: Task) -> Steps:
    """Unlearn `task.forget` from `task.model`, in place (after Georgiev et al., ICLR 2025, arXiv 2410.23232; the aims are [ours]).

    Each step takes a forget batch B_f with reference predictions q and a remaining batch B_r:

        loss = ½ mean KL(q ‖ p_θ(B_f)) + ½ T² mean KL(q^(1/T) ‖ p_θ(B_f)^(1/T)) + L(B_r; θ)

    with L the mean of `remaining_losses` and each side of the second term scaled to sum 1. Plain KL hardly sees how sure an answer
    is once it is very sure or very wrong, and the audit does see it; the second term keeps it near its reference.
    No check and no search: the aims have a floor of their own, and the schedule is fixed. Steps are Muon's, of which
    less than half as many are needed as of SGD's; for image generators they are Adam's. Without logits the first term is the mean
    squared difference of losses. A classifier's batches of few forget samples are filled up with remaining ones.
    Raises MethodRefused without references.
    """
    aims = reference_aims(task)
    if aims is None:
        raise MethodRefused(
            "Matching needs reference predictions, and the model has none that can be used. Prepare them with `expunge "
            "references`, or use LTU or IEU."
        )
    aims = aims.sharpened()
    spec = scale_schedule(spec, forget=len(task.forget))
    task.model.eval()
    generator = torch.Generator().manual_seed(task.seed)
    remaining = remaining_losses(task, aims)
    optimiser = optimiser_towards_aims(task.model, task.objective, rate=spec.learning_rate)
    held = _HELD if aims.of_classes else 0.5

    def remaining_size(forgotten: int) -> int:
        """Return how many remaining samples a step with so many forget samples has."""
        if not aims.of_classes:
            return spec.batch_size
        return max(spec.batch_size * 9 // 4, spec.batch_size + MIN_NORMALISED_BATCH) - forgotten

    def step(index: Tensor, remain: Batch, *, left: int) -> Tensor:
        anneal(optimiser, share_left=left / spec.steps, held=held)
        loss = matching_loss(task, aims, index, remain, remaining=remaining, temperatures=(1.0, spec.temperature))
        value = minimise(task.model, optimiser, loss, max_gradient_norm=spec.clip)
        if left <= max(_SETTLING, spec.steps // 2):
            # No step reads the running statistics.
            update_running_statistics(task.model, task.objective, remain)
        return value

    def steps() -> Iterator[Callable[[], Tensor]]:
        batches = dealt(lambda: torch.randperm(len(task.forget), generator=generator).tolist(), spec.batch_size)
        for number, places in zip(range(spec.steps), batches, strict=False):
            index = torch.tensor(places)
            remain = task.remain.draw(remaining_size(len(index)), generator)
            yield partial(step, index, remain, left=spec.steps - number)

    return (yield from run_schedule(task, optimiser, steps(), total=spec.steps))
