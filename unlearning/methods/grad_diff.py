"""GradDiff: ascend on the forget set and descend on as many remaining samples in the same step."""

from functools import partial

from unlearning.methods.fixed_schedule import ascent, learn_and_forget_epochs
from unlearning.specs import GradDiff
from unlearning.steps import Steps
from unlearning.task import Task


def grad_diff(spec: GradDiff, task: Task) -> Steps:
    """Minimise L(B_r; θ) − γ·L(B_f; θ), in place (Liu, Liu, Stone, CoLLAs 2022; "gradient difference" of TOFU, arXiv 2401.06121).

    An epoch goes through D_f once; each of its steps draws as many remaining samples.
    """
    return (
        yield from learn_and_forget_epochs(
            spec, task, loss=partial(ascent, task, weight=spec.forget_weight), remain_weight=1.0
        )
    )
