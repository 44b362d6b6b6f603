"""What preparing a model in training gains later: Ready2Unlearn compared with plain training and loss reweighting.

    python -m benchmarks.readiness --case digits digits_group_norm --seeds 100 101 102 103 104

The second case includes DP-SGD, which cannot train a network with batch norm. Architecture, data, seed and number of epochs are
the same; then the same ascent runs on the forget set until its mean loss is that of held-out data. The accuracy before the
ascent is given too: if it is lower by more than half a point, "forgets faster" only means "learned less". training_ratio is the
training time relative to plain training; start without stored models (`EXPUNGE_BENCH`), so that one run measures both.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from benchmarks.cases import MILD, WORKLOADS, Case, case, recipe_of
from benchmarks.command_line import cases_and_seeds
from benchmarks.writing import Row, metric_rows, write
from unlearning.audit.relearning import Relearner, mean_loss, relearn
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload
from unlearning.gradients import flat_gradient, step_along, trainable
from unlearning.networks import batch_norm_layers
from unlearning.specs.training import DPSGD, Ready2Unlearn, Recipe, Reweighting

RATE = Ready2Unlearn().ascent_rate
"""Learning rate of the ascent: the one that Ready2Unlearn prepared for."""
MAX_STEPS = 400
"""Of the ascent, and of the relearning."""
RELEARNING_RATE = 0.005
PRIVATE: dict[str, Any] = {"privacy": DPSGD(noise=0.5), "learning_rate": 0.2}
"""Gradients clipped to 1 need a higher learning rate. Chosen on seed 20."""
UNITS = {
    "training_ratio": "ratio",
    "ra_before": "percent",
    "revocable_accuracy_before": "percent",
    "ta_before": "percent",
    "steps": "steps",
    "ra": "percent",
    "ta": "percent",
    "ra_lost": "points",
    "ta_lost": "points",
    "relearn_delay": "steps",
    "relearn_delay_similar": "steps",
}


def recipes(workload: Workload) -> dict[str, Recipe]:
    """List the compared recipes; DP-SGD only if the network has no batch norm."""
    plain = dataclasses.replace(recipe_of(workload), readiness=None)
    private = {} if batch_norm_layers(workload.build()) else {"dp_sgd": dataclasses.replace(plain, **PRIVATE)}
    return {
        "plain": plain,
        "ready2unlearn": dataclasses.replace(plain, readiness=Ready2Unlearn()),
        "ready2unlearn_first_order": dataclasses.replace(plain, readiness=Ready2Unlearn(order="first")),
        "ready2unlearn_mild": dataclasses.replace(plain, readiness=MILD),
        "reweighting": dataclasses.replace(plain, reweighting=Reweighting()),
        **private,
    }


def main() -> None:
    """Train, ascend and relearn on all seeds, and write the rows."""
    rows: list[Row] = []
    for name, seeds in cases_and_seeds(__doc__):
        compared = recipes(WORKLOADS[name]())
        found: dict[str, list[Mapping[str, float]]] = {}
        for seed in seeds:
            seconds: dict[str, float] = {}
            for label, recipe in compared.items():
                prepared = case(name, seed, recipe=recipe)
                seconds[label] = prepared.original.seconds
                figures = {"training_ratio": seconds[label] / seconds["plain"], **measured(prepared)}
                found.setdefault(label, []).append(figures)
                print(f"{name} {seed} {label}:", {k: round(v, 2) for k, v in figures.items()}, flush=True)
        for label, runs in found.items():
            rows += metric_rows(runs, case=name, method=label, units=UNITS)
        write("readiness", rows)


def measured(prepared: Case) -> dict[str, float]:
    """Measure accuracies before and after the ascent, its steps, and the relearn delay."""
    objective = prepared.workload.objective
    model = copy.deepcopy(prepared.original.model).eval()
    sets = {"ra": prepared.remain, "ta": prepared.workload.test}
    before = {name: accuracy(model, samples) for name, samples in sets.items()}
    known = mean_loss(model, prepared.forget.batch, objective)
    unseen = mean_loss(model, prepared.held_out.criterion.batch, objective)
    revocable = accuracy(model, prepared.forget)
    generator = torch.Generator().manual_seed(prepared.seed)
    steps = 0
    while steps < MAX_STEPS and mean_loss(model, prepared.forget.batch, objective) < unseen:
        parameters = trainable(model)
        loss = objective.losses(model, prepared.forget.draw(64, generator)).mean()
        step_along(parameters.values(), flat_gradient(loss, parameters), rate=-RATE)
        steps += 1
    after = {name: accuracy(model, samples) for name, samples in sets.items()}
    relearner = Relearner(
        kind="sgd", learning_rate=RELEARNING_RATE, target=known + 0.1 * (unseen - known), limit=MAX_STEPS, batch_size=64
    )
    curve = relearn(model, prepared.forget.batch, objective=objective, relearner=relearner, seed=prepared.seed)
    return {
        "ra_before": before["ra"],
        "ta_before": before["ta"],
        "revocable_accuracy_before": revocable,
        "steps": float(steps),
        "ra": after["ra"],
        "ta": after["ta"],
        "ra_lost": before["ra"] - after["ra"],
        "ta_lost": before["ta"] - after["ta"],
        "relearn_delay": float(curve.delay),
        "relearn_delay_similar": float(_delay_by_similar(model, prepared, relearner)),
    }


def _delay_by_similar(model: nn.Module, prepared: Case, relearner: Relearner) -> int:
    """Count the steps of fine-tuning on remaining data until the forget set's loss reaches the target."""
    objective, learner = prepared.workload.objective, copy.deepcopy(model)
    generator = torch.Generator().manual_seed(prepared.seed)
    optimiser = torch.optim.SGD(learner.parameters(), lr=relearner.learning_rate)
    for step in range(MAX_STEPS):
        if mean_loss(learner, prepared.forget.batch, objective) <= relearner.target:
            return step
        optimiser.zero_grad()
        loss = objective.losses(learner, prepared.remain.draw(64, generator)).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        optimiser.step()
    return MAX_STEPS


@torch.no_grad()
def accuracy(model: nn.Module, samples: SampleSet) -> float:
    """Compute the accuracy in percent."""
    found = torch.cat([model(part).argmax(-1) for part in torch.split(samples.inputs, 1024)])
    return 100 * float((found == samples.targets).float().mean())


if __name__ == "__main__":
    main()
