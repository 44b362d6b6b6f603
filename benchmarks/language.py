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
from dataclasses import asdict, replace

import numpy as np
import torch
from scipy.stats import ks_2samp  # type: ignore[import-untyped]  # scipy ships no type information
from torch import Tensor, nn

from benchmarks.cases import Case, case, keys, references_of
from benchmarks.judging import task_of
from benchmarks.machine import seconds
from benchmarks.verdicts import verdict_rows
from benchmarks.writing import RESULTS, Row, row, write
from unlearning.audit.audit import audit
from unlearning.audit.findings import Findings
from unlearning.data.references import References
from unlearning.data.samples import SampleSet, joined
from unlearning.hardware import batched_answers
from unlearning.methods.registry import unlearn
from unlearning.specs import IEU, LTU, NPO, GradDiff, GradientAscent, Matching, NegGradPlus, SimNPO, Spec
from unlearning.specs.audit import AuditSpec
from unlearning.specs.parsing import parse_any
from unlearning.specs.references import ReferencePlan
from unlearning.specs.spaces import SPACES, Range, Space
from unlearning.task import Task, run_to_completion
from unlearning.tuning import Judge, search

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
AUDIT = AuditSpec(
    replicates=100,
    vector_seeds=1,
    vector_samples=200,
    extraction_samples=16,
    relearners=("sgd",),
    relearn_samples=16,
    relearn_steps=8,
    relearn_limit=2.0,
    relearn_controls=3,
)
"""A short audit, because each method has one: its verdict is that of fewer samples than a job's."""
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
    verdicts: dict[str, list[str]] = {}
    for seed in given.seeds:
        for name, (figures, verdict) in everything(seed).items():
            runs.setdefault(name, []).append(figures)
            verdicts.setdefault(name, []).append(verdict)
        write("language", rows(runs, verdicts))


def rows(runs: Mapping[str, Sequence[Mapping[str, float]]], verdicts: Mapping[str, Sequence[str]]) -> list[Row]:
    """Make a row for each figure that all runs of a method have, and for the verdicts."""
    found = [
        row([figures[metric] for figures in every], case=CASE, method=name, metric=metric, unit=unit)
        for name, every in runs.items()
        for metric, unit in UNITS.items()
        if all(metric in figures for figures in every)
    ]
    for name, every in verdicts.items():
        if name != "references":
            found += verdict_rows(every, case=CASE, method=name)
    return found


def everything(seed: int) -> dict[str, tuple[dict[str, float], str]]:
    """Run all methods on a seed: each one's figures and verdict, with both ends of the scale and the cost of references."""
    prepared = authors_case(seed)
    retraining, made = prepared.retrained.seconds, references_of(prepared, plan=PLAN)
    cost = float(made.details["processor_seconds"])
    found: dict[str, tuple[dict[str, float], str]] = {
        "references": ({"seconds": cost, "retrain_ratio": cost / retraining}, ""),
        "original": measured(prepared, prepared.original.model),
        "retrain": measured(prepared, prepared.again.model),
    }
    found["retrain"][0]["seconds"] = retraining
    for name, spec in tuned().items():
        task = task_for(prepared, name, made)
        begun = seconds()
        run_to_completion(unlearn(spec, task))
        spent = seconds() - begun
        figures, verdict = measured(prepared, task.model)
        found[name] = {**figures, "seconds": spent, "retrain_ratio": spent / retraining}, verdict
        print(f"{seed} {name}: {spent:.1f} s, forget loss gap {figures['forget_loss_gap']:.2f}, {verdict}", flush=True)
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


def judge_by_losses(prepared: Case) -> Judge:
    """Score a model by its distance from a retrained one, nats a token: the mean over forget, remaining and held-out losses."""
    sets = (prepared.forget, prepared.remain, joined(prepared.held_out.guide, prepared.held_out.criterion))

    def means(model: nn.Module) -> list[float]:
        return [float(losses(prepared, model, samples).mean()) for samples in sets]

    wanted = means(prepared.retrained.model)
    return lambda model: float(np.mean(np.abs(np.subtract(means(model.eval()), wanted))))


def measured(prepared: Case, model: nn.Module) -> tuple[dict[str, float], str]:
    """Audit a model beside the retrained one; give its figures and the verdict."""
    findings = run_to_completion(
        audit(
            original=prepared.original.model,
            unlearned=model,
            reference=prepared.retrained.model,
            forget=prepared.forget,
            remain=prepared.remain,
            held_out=prepared.held_out.audit,
            test=prepared.workload.test,
            objective=prepared.workload.objective,
            spec=AUDIT,
            seed=prepared.seed,
        )
    )
    retrained = prepared.retrained.model
    of_forget, wanted = (losses(prepared, one, prepared.forget) for one in (model, retrained))
    figures = {
        "forget_loss": float(of_forget.mean()),
        "forget_loss_gap": abs(float(of_forget.mean() - wanted.mean())),
        "forget_ks": float(ks_2samp(of_forget.numpy(), wanted.numpy()).statistic),
        **audited(findings),
    }
    for name, samples in (("remain", prepared.remain), ("test", prepared.workload.test)):
        of_set, reference = (float(losses(prepared, one, samples).mean()) for one in (model, retrained))
        figures[f"perplexity_ratio_{name}"] = float(np.exp(of_set - reference))
    return figures, findings.verdict.value


def audited(findings: Findings) -> dict[str, float]:
    """Take the figures of an audit that the table shows."""
    figures = {
        "membership_auc": findings.membership.unlearned["loss"].auc.value,
        "min_k_plus_auc": findings.membership.unlearned["min_k_plus"].auc.value,
        **{name: 100 * share.value for name, share in findings.extraction["unlearned"]["forget"].items()},
    }
    for relearning in findings.relearnings:
        if relearning.reference_ratio is not None and relearning.relearner is not None:
            figures[f"relearn_delay_ratio_{relearning.kind}"] = relearning.reference_ratio
    return figures


def losses(prepared: Case, model: nn.Module, samples: SampleSet) -> Tensor:
    """Compute the loss of each text, (n,), nats a token."""
    return batched_answers(prepared.workload.objective, model, samples).losses.cpu()


def authors_case(seed: int) -> Case:
    """Make the case of a seed: a tenth of the people in the training set is forgotten, with all of their texts."""
    return case(CASE, seed, forget=_a_tenth_of_the_people)


def _a_tenth_of_the_people(train: SampleSet, seed: int) -> Tensor:
    people = sorted(set(train.subjects or ()))
    gone = set(random.Random(seed).sample(people, max(1, round(0.1 * len(people)))))
    return torch.tensor([subject in gone for subject in train.subjects or ()])


def task_for(prepared: Case, name: str, made: References) -> Task:
    """Make a method's task, with references if its name says so."""
    task = task_of(prepared)
    references = made.for_method(keys(prepared.forget)) if name.endswith("references") else None
    return replace(task, references=references)


if __name__ == "__main__":
    main()
