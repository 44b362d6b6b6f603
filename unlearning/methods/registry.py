"""The registry of methods: METHODS has a row for each, and `unlearn` runs the one that a spec names."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload
from unlearning.errors import MethodRefused
from unlearning.hardware import mixed
from unlearning.methods.amnesiac_relabel import amnesiac_relabel
from unlearning.methods.bad_teacher import bad_teacher
from unlearning.methods.certified import certified, trained_head
from unlearning.methods.ct import ct
from unlearning.methods.drop_adapter import drop_adapter
from unlearning.methods.fine_tune import fine_tune
from unlearning.methods.fisher_noise import fisher_noise
from unlearning.methods.grad_diff import grad_diff
from unlearning.methods.gradient_ascent import gradient_ascent
from unlearning.methods.ieu import ieu
from unlearning.methods.ltu.method import ltu
from unlearning.methods.matching import matching
from unlearning.methods.msg import msg
from unlearning.methods.neggrad_plus import neggrad_plus
from unlearning.methods.npo import npo
from unlearning.methods.random_labels import random_labels
from unlearning.methods.retrain import retrain
from unlearning.methods.rewind import rewind
from unlearning.methods.rmu import rmu
from unlearning.methods.salun import salun
from unlearning.methods.sim_npo import sim_npo
from unlearning.methods.ssd import ssd
from unlearning.networks import differentiable_kernels, square_kernels
from unlearning.random_state import isolated
from unlearning.sharding import is_sharded
from unlearning.specs import Spec
from unlearning.specs.suitability import NEEDS, Need
from unlearning.steps import Steps, each_step_in, with_waiting
from unlearning.task import Task

METHODS: dict[str, Callable[[Any, Task], Steps]] = {
    "ltu": ltu,
    "ieu": ieu,
    "matching": matching,
    "gradient_ascent": gradient_ascent,
    "retrain": retrain,
    "rewind": rewind,
    "drop_adapter": drop_adapter,
    "certified": certified,
    "fine_tune": fine_tune,
    "neggrad_plus": neggrad_plus,
    "grad_diff": grad_diff,
    "npo": npo,
    "sim_npo": sim_npo,
    "rmu": rmu,
    "random_labels": random_labels,
    "amnesiac_relabel": amnesiac_relabel,
    "fisher_noise": fisher_noise,
    "ssd": ssd,
    "bad_teacher": bad_teacher,
    "salun": salun,
    "msg": msg,
    "ct": ct,
}


def check_needs(kind: str, *, remain: SampleSet, sharded: bool) -> None:
    """Raise MethodRefused for a method that a stream, or a sharded model, does not allow."""
    if Need.RANDOM_ACCESS in NEEDS[kind]:
        remain.check_random_access(f"Steps of {kind}")
    if sharded and Need.WHOLE_MODEL in NEEDS[kind]:
        raise MethodRefused(
            f"The workload's model is sharded, and {kind} needs all of it in each process: it differentiates twice, or by single "
            "samples, or reads single parameters or layers. Use IEU, matching or Retrain, or leave `sharded` out of the workload."
        )


def find_lacks(workload: Workload, model: nn.Module) -> frozenset[Need]:
    """Find what methods may need and a workload's model does not have.

    model: in evaluation mode; it does not change. Slices and references are not among these: they may come.
    """
    objective = workload.objective
    lacks = {
        Need.CLASSES: objective.classes is None,
        Need.CLASS_PROBABILITIES: objective.logits is None,
        Need.RANDOM_TARGETS: objective.scramble is None,
        Need.RANDOM_ACCESS: not workload.train.random_access,
        Need.ADAPTERS: workload.adapters is None,
        Need.WHOLE_MODEL: bool(workload.sharded),
        Need.CONVEX_LOSS: objective.curvature is None,
        Need.CONVOLUTIONS: not square_kernels(model),
        Need.HEAD: objective.curvature is None or not _has_head(workload, model),
    }
    return frozenset(need for need, holds in lacks.items() if holds)


def _has_head(workload: Workload, model: nn.Module) -> bool:
    """Return whether one linear layer, which gives the outputs, is all that training moves."""
    device = next(model.parameters()).device
    batch = workload.train.select(torch.arange(min(2, len(workload.train)))).to(device)
    try:
        trained_head(model, workload.objective, batch, build=workload.build)
    except MethodRefused:
        return False
    return True


def unlearn(spec: Spec, task: Task) -> Steps:
    """Run the method that `spec` names on `task`. It changes `task.model` in place, and nothing else.

    Yields after each step; closing the generator early leaves finite weights. Same seed, same weights on the same machine; the
    process's random state does not change. A run whose `task.state` holds a training checkpoint continues from it. Raises
    MethodRefused before the first step if the method cannot run.
    """
    task.check()
    check_needs(spec.kind, remain=task.remain, sharded=is_sharded(task.model))
    steps = mixed(METHODS[spec.kind](spec, task), device=task.forget.device, precision=task.recipe.precision)
    steps = each_step_in(with_waiting(steps), lambda: differentiable_kernels(task.model))
    return isolated(steps, seed=task.seed, state=task.state)
