"""How language models forget: every method on every measure, beside the original and a second retrained model.

    python -m benchmarks.language --tune                          choose parameters on seed 20 (results/language_tuned.json)
    python -m benchmarks.language --seeds 100 101 102

The GPT of `examples/authors.py` on facts about made-up authors; with `EXPUNGE_PLAY` on passages of a play too. A tenth of them
is forgotten, drawn by the seed. Methods whose row says "references" aim at reference predictions, whose cost has a row of its own.
Each method's parameters are the best of as many trials on a seed that no table reports. Times are processor seconds.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch
from scipy.stats import ks_2samp  # type: ignore[import-untyped]  # scipy ships no type information
from torch import Tensor, nn

from benchmarks.cases import Case, case, references_of
from benchmarks.judging import judge_by_losses, losses, task_for
from benchmarks.machine import seconds
from benchmarks.writing import RESULTS, Row, metric_rows, write
from unlearning.audit.extraction import measure_extraction
from unlearning.audit.membership import auc
from unlearning.audit.relearning import Relearner, calibrate_relearner, mean_loss, relearn
from unlearning.audit.signals import audit_copy, observe
from unlearning.data.samples import SampleSet
from unlearning.methods.registry import unlearn
from unlearning.specs import IEU, LTU, NPO, GradDiff, GradientAscent, Matching, NegGradPlus, SimNPO, Spec
from unlearning.specs.parsing import parse_any
from unlearning.specs.references import ReferencePlan
from unlearning.specs.spaces import SPACES, Range, Space
from unlearning.task import Task, run_to_completion
from unlearning.tuning import search

CASE = "authors"

METHODS: dict[str, Spec] = {
    "matching, references": Matching(steps=20, batch_size=32, passes=0.0),
    "ieu, references": IEU(steps=20, repair_steps=40, batch_size=32, passes=0.0),
    "ltu, references": LTU(order="first", steps=12, repair_steps=60, query_size=32, batch_size=32, passes=0.0),
    "ieu": IEU(steps=20, repair_steps=40, batch_size=32, passes=0.0),
    "ltu": LTU(order="first", steps=20, repair_steps=60, query_size=32, batch_size=32, passes=0.0),
    "gradient_ascent": GradientAscent(steps=30, batch_size=32),
    "grad_diff": GradDiff(batch_size=32),
    "npo": NPO(batch_size=32),
    "sim_npo": SimNPO(batch_size=32),
    "neggrad_plus": NegGradPlus(batch_size=32, epochs=1),
}
"""Schedules are short: the whole training is about 340 steps of 32 texts."""
_EPOCHS, _RATE = Range(low=2, high=20, whole=True), Range(low=1e-4, high=3e-3)
SPACES_OF: dict[str, Space] = {
    **SPACES,
    "matching": {"learning_rate": Range(low=0.02, high=0.4), "steps": Range(low=10, high=60, whole=True)},
    "gradient_ascent": {"learning_rate": Range(low=0.003, high=0.1)},
    "grad_diff": {"learning_rate": _RATE, "epochs": _EPOCHS, "forget_weight": Range(low=0.1, high=1)},
    "npo": {"learning_rate": _RATE, "epochs": _EPOCHS, "beta": Range(low=0.02, high=1)},
    "sim_npo": {"learning_rate": _RATE, "epochs": _EPOCHS, "beta": Range(low=0.5, high=5)},
    "neggrad_plus": {
        "learning_rate": Range(low=0.003, high=0.1),
        "remain_weight": Range(low=0.5, high=1, scale="linear"),
    },
}
"""The ranges of the search, for such schedules."""
TUNED_ON = 20
"""The validation seed, which is in no table: one model and one forget set."""
TUNED = RESULTS / "language_tuned.json"
PLAN = ReferencePlan(rounds=2, audit_rounds=1)
RELEARN_STEPS = 12
"""In about so many steps the original learns as many texts that it never saw."""
UNITS = {
    "forget_loss": "nats",
    "forget_loss_gap": "nats",
    "forget_ks": "",
    "membership_auc": "AUC",
    "min_k_plus_auc": "AUC",
    "exact_memorisation": "percent",
    "extraction_strength": "percent",
    "greedy_extraction": "percent",
    "sampled_extraction": "percent",
    "relearn_delay_ratio_sgd": "ratio",
    "perplexity_ratio_remain": "ratio",
    "perplexity_ratio_test": "ratio",
    "seconds": "seconds",
    "retrain_ratio": "ratio",
}


def main() -> None:
    """Tune on the validation seed, or run all methods on all seeds and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--budget", type=int, default=4, help="trials of each method in a tuning")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="those to tune")
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    given = parser.parse_args()
    if given.tune:
        tune(given.methods, budget=given.budget)
        return
    runs: dict[str, list[dict[str, float]]] = {}
    for seed in given.seeds:
        for name, figures in everything(seed).items():
            runs.setdefault(name, []).append(figures)
        write("language", rows(runs))


def rows(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Row]:
    """Make a row for each figure that all runs of a method have."""
    return [row for name, every in runs.items() for row in metric_rows(every, case=CASE, method=name, units=UNITS)]


def everything(seed: int) -> dict[str, dict[str, float]]:
    """Run all methods on a seed: each one's figures, with both ends of the scale and the cost of references."""
    prepared = authors_case(seed)
    retraining, made, relearner = (
        prepared.retrained.seconds,
        references_of(prepared, plan=PLAN),
        relearner_of(prepared),
    )
    cost = float(made.details["processor_seconds"])
    found = {
        "references": {"seconds": cost, "retrain_ratio": cost / retraining},
        "original": measured(prepared, prepared.original.model, relearner),
        "retrain": {**measured(prepared, prepared.again.model, relearner), "seconds": retraining},
    }
    for name, spec in tuned().items():
        task = task_for(prepared, name, made)
        begun = seconds()
        run_to_completion(unlearn(spec, task))
        spent = seconds() - begun
        figures = measured(prepared, task.model, relearner)
        found[name] = {**figures, "seconds": spent, "retrain_ratio": spent / retraining}
        print(f"{seed} {name}: {spent:.1f} s, forget loss gap {figures['forget_loss_gap']:.2f}", flush=True)
    return found


def tune(methods: Sequence[str], *, budget: int) -> None:
    """Choose each method's parameters: the best of `budget` trials by the mean gap of the losses to a retrained model's."""
    prepared = authors_case(TUNED_ON)
    made = references_of(prepared, plan=PLAN)
    judge = judge_by_losses(prepared)
    content = json.loads(TUNED.read_text()) if TUNED.exists() else {"methods": {}}
    content |= {"seed": TUNED_ON, "budget": budget}
    for name in methods:
        spec = METHODS[name]

        def task(name: str = name) -> Task:
            return task_for(prepared, name, made)

        result = run_to_completion(search(spec, task, judge, budget=budget, seed=TUNED_ON, space=SPACES_OF[spec.kind]))
        scores = [round(trial.score, 4) for trial in result.trials]
        print(f"{name}: {scores}", flush=True)
        content["methods"][name] = {"spec": asdict(result.spec), "scores": scores}
        TUNED.write_text(json.dumps(content, indent=2) + "\n")


def tuned() -> dict[str, Spec]:
    """Return each method with the parameters that the tuning found, or its defaults."""
    found = json.loads(TUNED.read_text())["methods"] if TUNED.exists() else {}
    return {name: parse_any(found[name]["spec"]) if name in found else spec for name, spec in METHODS.items()}


def measured(prepared: Case, model: nn.Module, relearner: Relearner | None) -> dict[str, float]:
    """Measure a model, beside the retrained one where that is the scale."""
    objective, retrained = prepared.workload.objective, prepared.retrained.model
    of_forget, wanted = (losses(prepared, one, prepared.forget) for one in (model, retrained))
    figures = {
        "forget_loss": float(of_forget.mean()),
        "forget_loss_gap": abs(float(of_forget.mean() - wanted.mean())),
        "forget_ks": float(ks_2samp(of_forget.numpy(), wanted.numpy()).statistic),
    }
    for name, samples in (("remain", prepared.remain), ("test", prepared.workload.test)):
        of_set, reference = (float(losses(prepared, one, samples).mean()) for one in (model, retrained))
        figures[f"perplexity_ratio_{name}"] = float(np.exp(of_set - reference))
    forget, unseen = (
        observe(audit_copy(model, samples), samples, objective=objective)
        for samples in (prepared.forget, prepared.held_out.audit)
    )
    sizes = np.ones((1, len(forget))), np.ones((1, len(unseen)))
    for attack, metric in (("loss", "membership_auc"), ("min_k_plus", "min_k_plus_auc")):
        figures[metric] = float(auc(forget.membership(attack), unseen.membership(attack), *sizes)[0])
    extracted = measure_extraction(
        audit_copy(model, prepared.forget), {"forget": prepared.forget}, objective=objective, max_samples=1000,
        confidence=0.95, seed=prepared.seed,
    )  # fmt: skip
    figures |= {name: 100 * share.value for name, share in extracted["forget"].items()}
    if relearner is not None:
        steps, reference_steps = (
            relearn(one, prepared.forget.batch, objective=objective, relearner=relearner, seed=prepared.seed).delay
            for one in (model, retrained)
        )
        figures["relearn_delay_ratio_sgd"] = steps / max(1, reference_steps)
    return figures


def relearner_of(prepared: Case) -> Relearner | None:
    """Calibrate plain SGD on the original and as many held-out texts as are forgotten, as an audit does."""
    objective, original = prepared.workload.objective, prepared.original.model
    control = prepared.held_out.audit.select(torch.arange(len(prepared.forget)))
    known, unseen = (mean_loss(original, batch, objective) for batch in (prepared.forget.batch, control))
    return calibrate_relearner(
        original, control, objective=objective, kind="sgd", target=known + 0.1 * (unseen - known), steps=RELEARN_STEPS,
        limit=3.0, batch_size=32, seed=prepared.seed,
    )  # fmt: skip


def authors_case(seed: int) -> Case:
    """Make the case of a seed: a tenth of the people in the training set is forgotten, with all of their texts."""
    return case(CASE, seed, forget=_a_tenth_of_the_people)


def _a_tenth_of_the_people(train: SampleSet, seed: int) -> Tensor:
    people = sorted(set(train.subjects or ()))
    gone = set(random.Random(seed).sample(people, max(1, round(0.1 * len(people)))))
    return torch.tensor([subject in gone for subject in train.subjects or ()])


if __name__ == "__main__":
    main()
