"""How fast the device trains: by its own arithmetic, by the library's loop, and whether compiling pays.

Run as a module it measures training with and without `torch.compile` in a process of its own, so that a compiler that takes too
long, or fails, costs the command nothing. It prints JSON after each measurement; the last line has all of them.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import recipe_of
from benchmarks.gpu.session import Budget, Session
from benchmarks.machine import DEVICE, seconds
from examples import cifar
from unlearning.data.objectives import classification
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload
from unlearning.specs.training import Augmentation, Recipe
from unlearning.training.loop import fresh, train

RECIPE = Recipe(
    epochs=10, batch_size=512, learning_rate=0.4, weight_decay=5e-4, precision="bfloat16", augmentation=Augmentation()
)
"""The fast recipe: ten epochs at a one-cycle rate with random crops and mirroring, in bf16. Not tuned, because nothing has run."""
SMALL = replace(RECIPE, epochs=2, batch_size=32, learning_rate=0.05, precision="float32")
"""The dry run's."""
_WARM, _TIMED = 5, 20
"""Steps of training before the clock starts, and steps that are timed."""
_WARM_SMALL, _TIMED_SMALL = 1, 2
"""The same in a dry run."""
_PLANNED = 12
"""Trainings on the whole set that the command makes before further seeds, roughly: five models of the first seed, references that
cost as much as six (`benchmarks.gpu.cases.PLAN`), and one and a half in the step `sizes`."""


def small_network() -> nn.Module:
    """Build the dry run's network: (n, 3, 16, 16) → logits (n, 10)."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), cifar.Residual(16, 32, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def speed(workload: Workload, session: Session, budget: Budget) -> str | None:
    """Measure the device and the loop, note both, and return the compiler to train with, or None where it does not pay."""
    found: dict[str, Any] = {"recipe": repr(workload.recipe)}
    session.facts["training"] = found
    found["matmul_tflops"] = _matmul_tflops(session)
    found["flops_per_image"] = flops = _flops_per_image(workload)
    plain = replace(recipe_of(workload), compiler=None)
    own = "as the recipe says"
    variants = {own: plain, "float32": replace(plain, precision="float32")}
    for name, recipe in variants.items():
        if budget.begins(f"training, {name}"):
            steps = timed_steps(workload.build, workload.train, recipe, small=session.dry_run)
            rate = recipe.batch_size / steps["step_seconds"]
            found[name] = steps | {"images_per_second": rate, "tflops": flops * rate / 1e12}
    if own in found:
        found["arithmetic_share"] = found[own]["tflops"] / found["matmul_tflops"]
    found["compiler"] = chosen = _compiler_that_pays(session, workload)
    print(f"  {json.dumps(found)}", flush=True)
    return chosen


def _compiler_that_pays(session: Session, workload: Workload) -> str | None:
    """Return the compiler if it saves more over the planned trainings than it takes."""
    measured = session.facts.get("compiler", {})
    if not {"eager", "compiled", "second_model"} <= measured.keys():
        return None
    eager, compiled, again = (measured[name]["step_seconds"] for name in ("eager", "compiled", "second_model"))
    recipe = recipe_of(workload)
    steps = recipe.epochs * workload.train.batch_count(recipe.batch_size)
    saved = _PLANNED * steps * (eager - max(compiled, again))
    spent = measured["compiled"]["first_seconds"] + _PLANNED * measured["second_model"]["first_seconds"]
    measured["saves_seconds"] = saved - spent
    return str(measured["backend"]) if saved > spent else None


def timed_steps(build: Callable[[], nn.Module], samples: SampleSet, recipe: Recipe, *, small: bool) -> dict[str, float]:
    """Train a few steps: the seconds of the first one, which compiles, and the mean of later ones, fewer if `small`."""
    warm, timed = (_WARM_SMALL, _TIMED_SMALL) if small else (_WARM, _TIMED)
    recipe = replace(recipe, epochs=max(1, -(-(warm + timed + 1) // samples.batch_count(recipe.batch_size))))
    steps = train(fresh(build, seed=0).to(DEVICE), samples, recipe, objective=classification(10), seed=0)
    marks = [seconds()]
    next(steps)
    marks.append(seconds())
    for _ in range(warm):
        next(steps)
    marks.append(seconds())
    for _ in range(timed):
        next(steps)
    marks.append(seconds())
    steps.close()
    return {"first_seconds": marks[1] - marks[0], "step_seconds": (marks[3] - marks[2]) / timed}


def _matmul_tflops(session: Session) -> float:
    """Multiply large bf16 matrices: what the device can do by its own arithmetic, 10¹² operations a second."""
    size, times = (128, 2) if session.dry_run else (8192, 20)
    one, other = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    one @ other
    begun = seconds()
    for _ in range(times):
        one @ other
    return 2 * size**3 * times / (seconds() - begun) / 1e12


def _flops_per_image(workload: Workload) -> float:
    """Count the operations of one image's forward and backward pass."""
    count = 4
    model = fresh(workload.build, seed=0).to(DEVICE).train()
    batch = workload.train.select(torch.arange(count))
    with FlopCounterMode(display=False) as counter:
        workload.objective.losses(model, batch).mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return float(counter.get_total_flops()) / count


def main() -> None:
    """Measure training with and without the compiler, and with it on a second model of the same architecture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", required=True, help="of torch.compile")
    parser.add_argument("--small", action="store_true", help="the dry run's network")
    given = parser.parse_args()
    recipe, build, side = (SMALL, small_network, 16) if given.small else (RECIPE, cifar.resnet18, 32)
    images = torch.randn(4 * recipe.batch_size, 3, side, side).contiguous(memory_format=torch.channels_last)
    samples = SampleSet(
        ids=tuple(map(str, range(len(images)))), inputs=images, targets=torch.arange(len(images)) % 10
    ).to(DEVICE)
    found: dict[str, Any] = {"backend": given.backend}
    compiled = replace(recipe, compiler=given.backend)
    for name, chosen in {"eager": recipe, "compiled": compiled, "second_model": compiled}.items():
        found[name] = timed_steps(build, samples, chosen, small=given.small)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
