"""What preparing a language model in training gains later: Ready2Unlearn compared with plain training.

    python -m benchmarks.language_readiness --seeds 100 101 102

The GPT of `examples/authors.py`, trained plainly and with Ready2Unlearn in first order. Two kinds of requests, each with a
preparation for its kind: a tenth of the people with all of their texts ("people"), and a tenth of single texts ("texts"), both
drawn from the half that the preparation calls revocable. The same ascent then runs on the forget set until its mean loss is that of
a plainly retrained model, and a fine-tuning on remaining texts until the forget set is known again. Perplexities before the ascent
are given too: if they differ by more than a hundredth, "forgets faster" only means "learned less".

`retrain` is a second plainly retrained model, which ascends by no step and is relearned as the others are: up to where the plain
original would be known again. A perplexity is calibrated by the temperature that suits the held-out texts best: what is left of a
difference then is not that one model is surer of what it guesses.
"""

import argparse
import copy
import functools
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, case, trained
from benchmarks.machine import DEVICE
from benchmarks.writing import Row, metric_rows, write
from examples import authors
from unlearning.audit.relearning import mean_loss
from unlearning.data.samples import SampleSet
from unlearning.gradients import flat_gradient, step_along, trainable
from unlearning.specs.training import Ready2Unlearn
from unlearning.training.readiness import revocable_split

CASE = "authors"
KINDS: dict[str, Literal["subject", "sample"]] = {"people": "subject", "texts": "sample"}
"""The kinds of requests, and what a simulated one names."""
PREPARATIONS = {
    "ready2unlearn": authors.READINESS,
    "ready2unlearn_often": replace(authors.READINESS, every=1),
    "ready2unlearn_strong": Ready2Unlearn(order="first", efficiency=3.0, retention=4.0, longest=None, every=2),
}
"""Chosen on seed 20: what changes the perplexity of new text least, what recovers slowest, and what saves most steps."""
SHARE = 0.1
"""Of the people or of the texts in the training set that are forgotten."""
BATCH = 32
TEMPERATURES = tuple(1 + 0.1 * step for step in range(11))
"""Those that a calibration chooses from, 1 to 2."""
RATE = Ready2Unlearn().ascent_rate
"""Learning rate of the ascent: the one that is prepared for."""
MAX_STEPS = 800
"""Of the ascent, and of each fine-tuning."""
RELEARNING_RATE = 0.01
KNOWN_AGAIN = 0.1
"""The forget set is known again where a tenth is left of the way from the retrained model's loss back to the original's."""
UNITS = {
    "training_ratio": "ratio",
    "perplexity_remain": "perplexity",
    "perplexity_test": "perplexity",
    "perplexity_calibrated": "perplexity",
    "forget_loss": "nats",
    "steps": "steps",
    "perplexity_lost_remain": "percent",
    "perplexity_lost_test": "percent",
    "relearn_delay": "steps",
    "relearn_delay_similar": "steps",
}


def main() -> None:
    """Train, ascend and relearn on all seeds, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    found: dict[str, list[Mapping[str, float]]] = {}
    for seed in parser.parse_args().seeds:
        for kind in KINDS:
            for method, figures in compared(kind, seed).items():
                found.setdefault(f"{method}, {kind}", []).append(figures)
                print(seed, kind, method, {name: round(value, 2) for name, value in figures.items()}, flush=True)
        write("language_readiness", rows(found))


def rows(found: Mapping[str, list[Mapping[str, float]]]) -> list[Row]:
    """Make a row for each method and figure."""
    return [row for method, runs in found.items() for row in metric_rows(runs, case=CASE, method=method, units=UNITS)]


def compared(kind: str, seed: int) -> dict[str, Mapping[str, float]]:
    """Measure the plain and the prepared models of a seed on the same forget set."""
    plain = case(CASE, seed, forget=functools.partial(_revocable, unit=KINDS[kind]))
    aim = mean_loss(plain.retrained.model, plain.forget.batch, plain.workload.objective)
    trainers = {"plain": authors.train} | {
        name: functools.partial(authors.train, readiness=replace(spec, unit=KINDS[kind]))
        for name, spec in PREPARATIONS.items()
    }
    found: dict[str, Mapping[str, float]] = {"retrain": _retrained(plain, aim=aim)}
    for method, trainer in trainers.items():
        one = replace(plain, workload=replace(plain.workload, trainer=trainer))
        original = trained(one.workload, one.workload.train, seed=seed)
        ratio = original.seconds / plain.original.seconds
        found[method] = {"training_ratio": ratio, **measured(one, original.model, aim=aim)}
    return found


def _retrained(one: Case, *, aim: float) -> dict[str, float]:
    """Measure a second plainly retrained model, which needs no ascent."""
    model, objective = one.again.model, one.workload.objective
    known = mean_loss(one.original.model, one.forget.batch, objective)
    return {
        **_perplexities(one, model),
        "perplexity_calibrated": _calibrated_perplexity(one, model),
        "forget_loss": mean_loss(model, one.forget.batch, objective),
        **_delays(one, model, target=_relearn_target(known, aim=aim)),
    }


def measured(one: Case, original: nn.Module, *, aim: float) -> dict[str, float]:
    """Measure perplexities before and after the ascent, its steps, and both relearn delays."""
    objective = one.workload.objective
    model = copy.deepcopy(original).eval()
    before, known = _perplexities(one, model), mean_loss(model, one.forget.batch, objective)
    generator = torch.Generator().manual_seed(one.seed)
    steps = 0
    while steps < MAX_STEPS and mean_loss(model, one.forget.batch, objective) < aim:
        parameters = trainable(model)
        loss = objective.losses(model, one.forget.draw(BATCH, generator)).mean()
        ascent_step(one, model, flat_gradient(loss, parameters), rate=RATE, aim=aim)
        steps += 1
    after = _perplexities(one, model)
    lost = {
        f"perplexity_lost_{part}": 100 * (after[f"perplexity_{part}"] / before[f"perplexity_{part}"] - 1)
        for part in ("remain", "test")
    }
    return {
        **before,
        "perplexity_calibrated": _calibrated_perplexity(one, original),
        "forget_loss": known,
        "steps": float(steps),
        **lost,
        **_delays(one, model, target=_relearn_target(known, aim=aim)),
    }


def _perplexities(one: Case, model: nn.Module) -> dict[str, float]:
    """Compute the perplexities of the remaining and of the test texts."""
    sets = {"perplexity_remain": one.remain, "perplexity_test": one.workload.test}
    return {name: math.exp(mean_loss(model, samples.batch, one.workload.objective)) for name, samples in sets.items()}


def _calibrated_perplexity(one: Case, model: nn.Module) -> float:
    """Compute the perplexity of the test texts by the temperature at which that of the held-out texts is least."""
    objective, held_out = one.workload.objective, one.workload.held_out.batch
    scaled = [Tempered(model, temperature).eval() for temperature in TEMPERATURES]
    calibrated = min(scaled, key=lambda candidate: mean_loss(candidate, held_out, objective))
    return math.exp(mean_loss(calibrated, one.workload.test.batch, objective))


class Tempered(nn.Module):
    """A model whose logits are divided by a temperature."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the logits, of the model's own shape."""
        logits: Tensor = self.model(inputs)
        return logits / self.temperature


def _relearn_target(known: float, *, aim: float) -> float:
    return known + KNOWN_AGAIN * (aim - known)


def _delays(one: Case, model: nn.Module, *, target: float) -> dict[str, float]:
    """Count the steps until the forget set is known again: of training on it, and of training on similar texts that remain."""
    return {
        "relearn_delay": float(delay(one, model, one.forget, target=target)),
        "relearn_delay_similar": float(delay(one, model, one.remain, target=target)),
    }


def ascent_step(one: Case, model: nn.Module, gradient: Tensor, *, rate: float, aim: float) -> None:
    """Take one step of ascent; the last is shortened until the forget set's loss is the aim, because a long one would exceed it."""
    start = copy.deepcopy(model.state_dict())
    low, high = 0.0, rate
    step_along(trainable(model).values(), gradient, rate=-high)
    if mean_loss(model, one.forget.batch, one.workload.objective) <= aim:
        return
    for _ in range(10):
        middle = (low + high) / 2
        model.load_state_dict(start)
        step_along(trainable(model).values(), gradient, rate=-middle)
        reached = mean_loss(model, one.forget.batch, one.workload.objective) >= aim
        low, high = (low, middle) if reached else (middle, high)
    model.load_state_dict(start)
    step_along(trainable(model).values(), gradient, rate=-high)


def delay(one: Case, model: nn.Module, texts: SampleSet, *, target: float) -> int:
    """Count the steps of plain SGD on the given texts until the forget set's loss is at the target."""
    objective, learner = one.workload.objective, copy.deepcopy(model)
    generator = torch.Generator().manual_seed(one.seed)
    for step in range(MAX_STEPS):
        if mean_loss(learner, one.forget.batch, objective) <= target:
            return step
        parameters = trainable(learner)
        loss = objective.losses(learner, texts.draw(BATCH, generator)).mean()
        step_along(parameters.values(), flat_gradient(loss, parameters), rate=RELEARNING_RATE)
    return MAX_STEPS


def _revocable(train: SampleSet, seed: int, *, unit: Literal["subject", "sample"]) -> Tensor:
    """Mark a tenth of the revocable people's texts, or of the revocable texts, by the same split as the training's."""
    split = revocable_split(train, share=Ready2Unlearn().revocable_share, seed=seed, unit=unit)
    of_train, of_revocable = ((s.subjects if unit == "subject" else s.ids) or () for s in (train, split.revocable))
    gone = random.Random(seed).sample(sorted(set(of_revocable)), max(1, round(SHARE * len(set(of_train)))))
    return torch.tensor([name in set(gone) for name in of_train], device=DEVICE)


if __name__ == "__main__":
    main()
