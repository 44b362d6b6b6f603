"""How an image generator forgets, a class and images that it reproduces: every method beside the original and retrained models.

    python -m benchmarks.generative --tune                        choose parameters on seed 20 (results/generative_tuned.json)
    python -m benchmarks.generative --seeds 100 101 102           results/generative_class.json, results/generative_samples.json
    python -m benchmarks.generative --workload mnist_diffusion    with or without --tune: results/generative_mnist_….json. Its
                                                                  case "samples" was not tuned: it has the small images' parameters

The diffusion model of `examples/diffusion.py` or of `examples/mnist_diffusion.py`. Case "class": one of the ten digits is
forgotten, all images of it: the seed's last digit. Case "samples": eight of the twenty people are forgotten, drawn by the seed,
each with the 24 copies of an image. Methods whose row says "references" aim at reference predictions, whose cost has a row of its
own; a class needs none. Each method's parameters are the best of as many trials on a seed that no table reports. Times are
processor seconds. Every figure is stored when it is known, so that a run that is stopped goes on.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cases import Case, case, cost_of_references, references_of
from benchmarks.judging import Scale, judge_by_losses, losses, task_for
from benchmarks.writing import RESULTS, Row, metric_rows, write
from unlearning.audit.generation import GenerationSets, measure_generation, prepare_generation
from unlearning.audit.membership import auc
from unlearning.audit.relearning import Relearner, calibrate_relearner, mean_loss, relearn
from unlearning.audit.signals import audit_copy, observe
from unlearning.data.samples import SampleSet, joined
from unlearning.specs import IEU, LTU, GradDiff, GradientAscent, Matching, SalUn, Spec
from unlearning.specs.audit import AuditSpec
from unlearning.specs.parsing import parse_any
from unlearning.specs.references import ReferencePlan
from unlearning.steps import run_to_completion
from unlearning.task import Task
from unlearning.tuning import SPACES, Range, Space, search

FILES = {"diffusion": "generative", "mnist_diffusion": "generative_mnist"}
"""By the name of a workload: how its files begin. `…_class.json` and `…_samples.json` are results, `…_tuned.json` parameters."""
CLASS, SAMPLES = "class", "samples"
FORGOTTEN_PEOPLE = 8

METHODS: dict[str, Spec] = {
    "matching": Matching(steps=40, batch_size=64, passes=0.0),
    "ieu": IEU(steps=30, repair_steps=50, passes=0.0),
    "ltu": LTU(order="first", steps=12, repair_steps=100, query_size=64, passes=0.0, learning_rate=0.05),
    "gradient_ascent": GradientAscent(steps=30),
    "grad_diff": GradDiff(epochs=15, learning_rate=0.0001, forget_weight=0.3),
    "salun": SalUn(epochs=15, learning_rate=0.05),
}
"""Schedules are short: a whole training is about 1,200 steps of 64 images, or 3,100 of 32."""
REFERENCED = ("matching", "ieu", "ltu")
"""In the case "samples" these run with reference predictions, and IEU and LTU without them too."""
SPACES_OF: dict[str, Space] = {
    **SPACES,
    "matching": {"learning_rate": Range(low=0.01, high=0.3), "steps": Range(low=20, high=80, whole=True)},
    "ieu": {
        "learning_rate": Range(low=0.01, high=0.2),
        "ascent": Range(low=0.2, high=5),
        "noise": Range(low=0.002, high=0.05),
    },
    "gradient_ascent": {"learning_rate": Range(low=0.001, high=0.1)},
    "ltu": {
        "learning_rate": Range(low=0.003, high=0.1),
        "inner_rate": Range(low=0.002, high=0.1),
        "forgetting_weight": Range(low=0.05, high=2),
    },
    "grad_diff": {"learning_rate": Range(low=1e-5, high=1e-3), "forget_weight": Range(low=0.03, high=1)},
    "salun": {"learning_rate": Range(low=0.003, high=0.3), "epochs": Range(low=5, high=30, whole=True)},
}
"""The ranges of the search, for such schedules."""
ASCENT_RATES = {"diffusion": 1.0, "mnist_diffusion": 0.1}
"""By workload, what plain ascent's rates are multiplied by: at those of linear layers a U-Net loses what it knows of all images."""
TUNED_ON = 20
"""The validation seed, which is in no table."""
PLAN = ReferencePlan(rounds=1, audit_rounds=1)
RELEARN_STEPS = 20
"""In about so many steps a retrained model learns the forgotten images."""
GENERATED = AuditSpec(generated_samples=400)
UNITS = {
    "forgotten_class": "percent",
    "regeneration": "percent",
    "other_classes": "percent",
    "frechet_distance": "",
    "frechet_ratio": "ratio",
    "forget_loss": "",
    "forget_loss_gap": "",
    "membership_auc": "AUC",
    "proximal_auc": "AUC",
    "relearn_delay_ratio_sgd": "ratio",
    "relearn_delay_ratio_adam": "ratio",
    "explained_remain_gap": "points",
    "explained_test_gap": "points",
    "seconds": "seconds",
    "retrain_ratio": "ratio",
}


def main() -> None:
    """Tune on the validation seed, or run all methods on all seeds and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=FILES, default="diffusion")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--budget", type=int, default=3, help="trials of each method in a tuning")
    parser.add_argument("--cases", nargs="+", choices=(CLASS, SAMPLES), default=[CLASS, SAMPLES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    given = parser.parse_args()
    if given.tune:
        for name in given.cases:
            tune(given.workload, name, budget=given.budget)
        return
    for name in given.cases:
        runs: dict[str, list[dict[str, float]]] = {}
        for seed in given.seeds:
            for method, figures in everything(given.workload, name, seed).items():
                runs.setdefault(method, []).append(figures)
            write(f"{FILES[given.workload]}_{name}", rows(name, runs))


def rows(name: str, runs: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Row]:
    """Make a row for each figure that all runs of a method have."""
    return [row for method, every in runs.items() for row in metric_rows(every, case=name, method=method, units=UNITS)]


def everything(workload: str, name: str, seed: int) -> dict[str, dict[str, float]]:
    """Run all methods on a case and a seed: each one's figures, with both ends of the scale and the cost of references."""
    prepared = forgetting(workload, name, seed)
    retraining, scale = prepared.retrained.seconds, GenerativeScale(prepared)
    found = {
        "original": scale.of_model(prepared.original.model),
        "retrain": {**scale.of_model(prepared.again.model), "seconds": retraining},
    }
    made = None
    if name == SAMPLES:
        made = references_of(prepared, plan=PLAN)
        if (cost := cost_of_references(made)) is not None:
            found["references"] = {"seconds": cost, "retrain_ratio": cost / retraining}
    for method, spec in tuned(workload, name).items():
        figures = scale.of_method(method, spec, made)
        found[method] = {**figures, "retrain_ratio": figures["seconds"] / retraining}
        print(f"{name} {seed} {method}: {figures['seconds']:.1f} s", flush=True)
    return found


def forgetting(workload: str, name: str, seed: int) -> Case:
    """Make the case of a seed."""
    return case(workload, seed, forget=_of_a_class if name == CLASS else _of_people)


def _of_a_class(train: SampleSet, seed: int) -> Tensor:
    return train.targets.cpu() == seed % 10


def _of_people(train: SampleSet, seed: int) -> Tensor:
    people = sorted({name for name in train.subjects or () if name.startswith("person")})
    gone = set(random.Random(seed).sample(people, FORGOTTEN_PEOPLE))
    return torch.tensor([name in gone for name in train.subjects or ()])


def methods(workload: str, name: str) -> dict[str, Spec]:
    """List a case's methods; those that aim at reference predictions say so in their name."""
    ascent = METHODS["gradient_ascent"]
    assert isinstance(ascent, GradientAscent)
    slowed = replace(ascent, learning_rate=ASCENT_RATES[workload] * ascent.learning_rate)
    found = {**METHODS, "gradient_ascent": slowed}
    if name == CLASS:
        return found
    named = {f"{method}, references": found[method] for method in REFERENCED}
    return named | {method: spec for method, spec in found.items() if method != "matching"}


def space_of(workload: str, kind: str) -> Space:
    """Return the ranges of a method's search."""
    given = SPACES_OF[kind]
    if kind != "gradient_ascent":
        return given
    low, high = (ASCENT_RATES[workload] * end for end in (given["learning_rate"].low, given["learning_rate"].high))
    return {**given, "learning_rate": Range(low=low, high=high)}


def tune(workload: str, name: str, *, budget: int) -> None:
    """Choose each method's parameters: the best of `budget` trials by the mean gap of the losses to a retrained model's."""
    prepared, file = forgetting(workload, name, TUNED_ON), tuned_file(workload)
    made = references_of(prepared, plan=PLAN) if name == SAMPLES else None
    judge = judge_by_losses(prepared, log=True)
    for method, spec in methods(workload, name).items():
        content = json.loads(file.read_text()) if file.exists() else {}
        content = {"seed": TUNED_ON, "budget": budget, "cases": content.get("cases", {})}
        of_case = content["cases"].setdefault(name, {})
        if method in of_case:
            continue

        def task(method: str = method) -> Task:
            return task_for(prepared, method, made)

        result = run_to_completion(
            search(spec, task, judge, budget=budget, seed=TUNED_ON, space=space_of(workload, spec.kind))
        )
        scores = [round(trial.score, 4) for trial in result.trials]
        print(f"{name} {method}: {scores}", flush=True)
        of_case[method] = {"spec": asdict(result.spec), "scores": scores}
        file.write_text(json.dumps(content, indent=2) + "\n")


def tuned_file(workload: str) -> Path:
    """Return where the tuning of a workload writes what it found."""
    return RESULTS / f"{FILES[workload]}_tuned.json"


def tuned(workload: str, name: str) -> dict[str, Spec]:
    """Return each method with the parameters that a tuning found: the workload's own of the case, or that of small images."""
    cases = (
        json.loads(file.read_text())["cases"] for file in map(tuned_file, (workload, "diffusion")) if file.exists()
    )
    found: Mapping[str, Any] = next((case[name] for case in cases if name in case), {})
    return {
        method: parse_any(found[method]["spec"]) if method in found else spec
        for method, spec in methods(workload, name).items()
    }


class GenerativeScale(Scale):
    """What the models of a case are measured by, made when it is first needed: classifier, relearners, the retrained model."""

    def __init__(self, prepared: Case) -> None:
        super().__init__("generative", prepared, PLAN)
        self._made: tuple[GenerationSets, dict[str, Relearner | None], dict[str, float]] | None = None

    def measured(self, model: nn.Module) -> dict[str, float]:
        prepared, objective = self.prepared, self.prepared.workload.objective
        asked, relearners, retrained = self._scale()
        shares, _ = measure_generation(audit_copy(model, prepared.forget), asked)
        figures = {
            name: one.value if name == "frechet_distance" else 100 * one.value
            for name, one in shares.items()
            if name != "regeneration_unseen"
        }
        figures["frechet_ratio"] = figures["frechet_distance"] / retrained["frechet_distance"]
        figures["forget_loss"] = float(losses(prepared, model, prepared.forget).mean())
        figures["forget_loss_gap"] = abs(figures["forget_loss"] - retrained["forget_loss"])
        for name, samples in (("remain", prepared.remain), ("test", comparable_test(prepared))):
            explained = 100 - 100 * float(losses(prepared, model, samples).mean())
            figures[f"explained_{name}_gap"] = explained - retrained[f"explained_{name}"]
        forget, unseen = (
            observe(audit_copy(model, samples), samples, objective=objective)
            for samples in (prepared.forget, never_seen(prepared))
        )
        sizes = np.ones((1, len(forget))), np.ones((1, len(unseen)))
        for attack, metric in (("loss", "membership_auc"), ("proximal", "proximal_auc")):
            figures[metric] = float(auc(forget.membership(attack), unseen.membership(attack), *sizes)[0])
        for kind, relearner in relearners.items():
            if relearner is not None:
                steps = delay(prepared, model, relearner)
                figures[f"relearn_delay_ratio_{kind}"] = steps / max(1.0, retrained[f"delay_{kind}"])
        return figures

    def _scale(self) -> tuple[GenerationSets, dict[str, Relearner | None], dict[str, float]]:
        if self._made is None:
            self._made = _scale_of(self.prepared)
        return self._made


def _scale_of(prepared: Case) -> tuple[GenerationSets, dict[str, Relearner | None], dict[str, float]]:
    """Train the classifier, calibrate the relearners on the retrained model, and measure that."""
    objective, retrained = prepared.workload.objective, prepared.retrained.model
    sets = {
        "forget": prepared.forget,
        "remain": prepared.remain,
        "held_out": prepared.workload.held_out,
        "test": prepared.workload.test,
    }
    asked = prepare_generation(sets, objective=objective, spec=GENERATED, seed=prepared.seed)
    assert asked is not None
    known, unseen = (mean_loss(one, prepared.forget.batch, objective) for one in (prepared.original.model, retrained))
    relearners = {
        kind: calibrate_relearner(
            retrained, prepared.forget.batch, objective=objective, kind=kind, target=known + 0.1 * (unseen - known),
            steps=RELEARN_STEPS, limit=3.0, batch_size=32, seed=prepared.seed,
        )
        for kind in ("sgd", "adam")
    }  # fmt: skip
    figures = {
        "frechet_distance": measure_generation(audit_copy(retrained, prepared.forget), asked)[0][
            "frechet_distance"
        ].value,
        "forget_loss": float(losses(prepared, retrained, prepared.forget).mean()),
        "explained_remain": 100 - 100 * float(losses(prepared, retrained, prepared.remain).mean()),
        "explained_test": 100 - 100 * float(losses(prepared, retrained, comparable_test(prepared)).mean()),
    } | {f"delay_{kind}": float(delay(prepared, retrained, one)) for kind, one in relearners.items() if one is not None}
    return asked, relearners, figures


def never_seen(prepared: Case) -> SampleSet:
    """Return held-out samples of the forgotten ones' kind: of their class, or images of people."""
    held_out = joined(prepared.held_out.audit, prepared.held_out.criterion)
    people = torch.tensor([name.startswith("person") for name in held_out.ids])
    forgets_people = all(name.startswith("person") for name in prepared.forget.ids)
    chosen = people if forgets_people else held_out.targets.cpu() == int(prepared.forget.targets[0])
    return held_out.take(chosen.nonzero().flatten())


def comparable_test(prepared: Case) -> SampleSet:
    """Return the test samples of the classes that remain."""
    remaining = torch.isin(prepared.workload.test.targets, torch.unique(prepared.remain.targets)).cpu()
    return prepared.workload.test.take(remaining.nonzero().flatten())


def delay(prepared: Case, model: nn.Module, relearner: Relearner) -> int:
    """Count the steps in which a model learns the forgotten images again. Computing all losses takes longer than some steps."""
    objective = prepared.workload.objective
    return relearn(
        model, prepared.forget.batch, objective=objective, relearner=relearner, seed=prepared.seed, every=8
    ).delay


if __name__ == "__main__":
    main()
