"""Which order of methods costs least until the audit verifies one: methods and audits are measured once, and orders are replayed.

    python -m benchmarks.policy --case digits digits_group_norm --seeds 20 21 22
    python -m benchmarks.policy --references

Each method forgets the same set of samples on a copy of the same model, and the result is audited as in a job. A job under an order
of methods costs the processor seconds of each method and its audit, up to the one after which a job goes no further: it is
verified, or its verdict is inconclusive for a reason that no method could change. A method that refuses costs what it had done by
then. So outcomes of one set stay together; nothing is taken to be independent. Every order ends in Retrain, whose cost is that
of a training without the set, and an audit. Costs are shares of that training. An interval is over models: the sets of one model
count as their mean. Files are named `policy` for the seeds of the tables and `policy_validation` for others, on which the
default order was chosen; with `--references` `policy_references` and `policy_references_validation`. The names of other cases than
the digits follow. `distance` is the mean over the forgotten samples of |p − q|, the probabilities of the true class by the model
and by a retrained one.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import nn

from benchmarks import machine
from benchmarks.cases import Case, all_settings, case, ids_digest, references_of, stored, subset, without
from benchmarks.command_line import SEEDS, Chosen, case_parser, chosen
from benchmarks.deletions import one_class
from benchmarks.judging import audited, digest_of, task_of
from benchmarks.methods import WITH_REFERENCES, tuned
from benchmarks.transfer import confidence
from benchmarks.verdicts import verdict_rows
from benchmarks.writing import Row, row, share_row, write
from unlearning.audit.findings import Findings
from unlearning.audit.verdict import Verdict
from unlearning.data.references import References
from unlearning.errors import MethodRefused
from unlearning.methods.registry import unlearn
from unlearning.specs import LTU, Spec
from unlearning.specs.audit import AuditSpec
from unlearning.steps import run_to_completion
from unlearning.tuning import judge_by_retrained

SMALL_REQUEST = 10
"""Samples of a small request."""
SETS = ("a tenth", f"{SMALL_REQUEST} samples", "a class")
OWN: dict[str, Spec] = {**WITH_REFERENCES, "ltu_first_order": LTU(order="first")}
"""The project's own methods, at their defaults. The others are as tuned for the case."""
WITHOUT = ("ltu", "ltu_first_order", "ieu", "ct", "neggrad_plus", "msg")
"""The candidates for models without reference predictions."""
WITH = (*WITH_REFERENCES, "ct")
"""The candidates for models with them."""
ONE_OF = {"ltu", "ltu_first_order"}
"""An order has one of these at most."""
UNITS = {"gap": "points", "distance": "probability", "ta_lost": "points", "relearn_delay_to_control_sgd": "ratio"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Situation:
    """A set to forget on one model. one: the case with it. retrained: never saw it, and took so many seconds."""

    name: str
    one: Case
    retrained: nn.Module
    seconds: float
    references: References | None
    audit: AuditSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What a method did in a situation. seconds, audit_seconds: of the processor. verdict: None if the method refused.

    ends: whether a job goes no further. figures: metric → value.
    """

    seconds: float
    audit_seconds: float
    verdict: str | None
    ends: bool
    figures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """How a job under an order of methods would have ended. share: of a retraining's seconds. gap: of what was published."""

    share: float
    verdict: str
    retrained: bool
    gap: float


Trials = Mapping[str, Trial]
"""The trials of a situation by method, Retrain's under `retrain`."""


def main() -> None:
    """Measure the candidates in all situations, seed by seed, and write the rows after each."""
    parser = case_parser(__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="what the cases forget")
    parser.add_argument("--references", action="store_true", help="of models with reference predictions")
    parser.add_argument("--methods", nargs="+", choices=sorted({*WITHOUT, *WITH}), help="these alone (default: all)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    possible = WITH if given.references else WITHOUT
    candidates = [method for method in possible if method in (given.methods or possible)]
    cases = chosen(given)
    validation = not {seed for _, seeds in cases for seed in seeds} <= set(SEEDS)
    others = [name for name, _ in cases if name != "digits"]
    file = "_".join(["policy", *(["references"] * given.references), *(["validation"] * validation), *others])
    found: dict[tuple[str, int], dict[str, Trials]] = {}
    for name, seed, situation in situations(cases, given):
        trials = {method: trial(situation, candidate(method, name), method) for method in candidates}
        trials["retrain"] = trial(situation, None, "retrain")
        found.setdefault((name, seed), {})[situation.name] = trials
        said = {method: f"{one.seconds:.1f}+{one.audit_seconds:.1f} s {one.verdict}" for method, one in trials.items()}
        print(f"{name} {seed} {situation.name}: {said}", flush=True)
        rows = [*rows_of_methods(found), *rows_of_orders(found, candidates)]
        write(file, rows)


def candidate(method: str, case_name: str) -> Spec:
    """Return the spec that a method is tried with on a case."""
    return OWN.get(method) or tuned(case_name)[method]


def situations(cases: Sequence[Chosen], given: argparse.Namespace) -> Iterator[tuple[str, int, Situation]]:
    """Make the situations seed by seed: the sets of each case."""
    for number in range(max(len(seeds) for _, seeds in cases)):
        for name, seeds in cases:
            for seed in seeds[number : number + 1]:
                for which in given.sets:
                    yield name, seed, of_case(name, seed, which, references=given.references)


def of_case(name: str, seed: int, which: str, *, references: bool) -> Situation:
    """Make a case's situation: a tenth of the training set at random, a few samples of that, or a class."""
    whole = case(name, seed, forget=one_class if which == "a class" else None)
    one = whole
    if which.endswith("samples"):
        few = subset(whole.forget, SMALL_REQUEST, np.random.default_rng([seed, SMALL_REQUEST, 0, 2]))
        one = dataclasses.replace(whole, forget=few, remain=without(whole.workload.train, few))
    return Situation(
        name=which,
        one=one,
        retrained=whole.retrained.model,  # it never saw the few samples either
        seconds=whole.retrained.seconds,
        references=references_of(whole) if references else None,
        audit=AuditSpec.with_references() if references else AuditSpec(),
    )


def trial(situation: Situation, spec: Spec | None, method: str) -> Trial:
    """Run a method and audit the result, or read what an earlier run of the same code found. spec: None for the retrained model."""
    one = situation.one
    what = {
        "case": one.name,
        "seed": one.seed,
        "train": ids_digest(one.workload.train),
        "forget": ids_digest(one.forget),
        "network": str(one.workload.build()),
        "recipe": all_settings(one.workload.training),
        "method": method if spec is None else all_settings(spec),
        "references": None if situation.references is None else digest_of(situation.references),
        "audit": all_settings(situation.audit),
        **machine.identity(),
    }
    return Trial(**stored("trial", what, lambda: dataclasses.asdict(tried(situation, spec))))


def tried(situation: Situation, spec: Spec | None) -> Trial:
    """Run a method, or take the retrained model, and audit the result as a job does."""
    one, references = situation.one, situation.references
    task = task_of(one, references)
    spent = situation.seconds
    if spec is None:
        task.model = situation.retrained
    else:
        begun = machine.seconds()
        try:
            run_to_completion(unlearn(spec, task))
        except MethodRefused:
            return Trial(seconds=machine.seconds() - begun, audit_seconds=0.0, verdict=None, ends=False, figures={})
        spent = machine.seconds() - begun
    begun = machine.seconds()
    findings = audited(
        one, task.model.eval(), spec=situation.audit, references=references, until_failed=spec is not None
    )
    audit_seconds = machine.seconds() - begun
    verdict = findings.verdict
    return Trial(
        seconds=spent,
        audit_seconds=audit_seconds,
        verdict=verdict.value,
        ends=goes_no_further(verdict),
        figures=figures(situation, task.model, findings, gap=judge_by_retrained(task, situation.retrained)(task.model)),
    )


def goes_no_further(verdict: Verdict) -> bool:
    """Return whether a job under the policy ends with this verdict: `worker.run.should_escalate` says when it escalates."""
    return verdict.value == "verified" or (verdict.value == "inconclusive" and verdict.reason != "open")


def figures(situation: Situation, model: nn.Module, findings: Findings, *, gap: float) -> dict[str, float]:
    """List how far a model is from a retrained one, and what the audit measured of its use and of relearning."""
    forget, workload = situation.one.forget, situation.one.workload
    said, wanted = (confidence(each, forget, workload) for each in (model, situation.retrained))
    measures = findings.measures
    ratios = {
        f"relearn_delay_to_control_{each.kind}": each.ratio.value
        for each in findings.relearnings
        if each.ratio is not None
    }
    return {
        "gap": gap,
        "distance": float(np.abs(said - wanted).mean()),
        "ta_lost": measures["original"].table["ta"] - measures["unlearned"].table["ta"],
        **ratios,
    }


def replayed(order: Sequence[str], trials: Trials) -> Replay:
    """Replay a job under an order of methods, which ends in Retrain."""
    spent = 0.0
    for method in order:
        one = trials[method]
        spent += one.seconds + one.audit_seconds
        if one.ends or method == "retrain":
            break
    return Replay(
        share=spent / trials["retrain"].seconds,
        verdict=str(one.verdict),
        retrained=method == "retrain",
        gap=0.0 if method == "retrain" else one.figures["gap"],
    )


def orders_of(candidates: Sequence[str]) -> list[tuple[str, ...]]:
    """List every order of any of the candidates, with Retrain at the end."""
    return [
        (*chosen_methods, "retrain")
        for count in range(len(candidates) + 1)
        for chosen_methods in permutations(candidates, count)
        if len(ONE_OF.intersection(chosen_methods)) < 2
    ]


def rows_of_orders(found: Mapping[tuple[str, int], Mapping[str, Trials]], candidates: Sequence[str]) -> list[Row]:
    """Replay all orders, on all models and on each kind of set, and make rows of the cheapest and of the defaults."""
    rows: list[Row] = []
    kinds = list(dict.fromkeys(kind for sets in found.values() for kind in sets))
    for label, names in {"all sets": kinds, **{kind: [kind] for kind in kinds}}.items():
        models = [[sets[kind] for kind in names if kind in sets] for sets in found.values()]
        models = [trials for trials in models if trials]
        ranked = sorted(orders_of(candidates), key=lambda order: (_cost(order, models), len(order)))
        always = [order for order in ALWAYS if set(order) <= {*candidates, "retrain"} and order not in ranked[:SHOWN]]
        for order in [*ranked[:SHOWN], *always]:
            rows += rows_of_order(order, models, case=label)
    return rows


SHOWN = 8
"""Orders in the table of each kind of set."""
ALWAYS = (
    ("retrain",),
    ("ieu", "retrain"),
    ("ieu", "ltu", "retrain"),
    ("ltu", "ieu", "retrain"),
    ("matching", "ieu", "retrain"),
    ("matching", "ieu", "ltu", "retrain"),
    ("matching", "ltu", "ieu", "retrain"),
)
"""Orders that are in the tables whatever they cost: the defaults, the earlier ones, and those with a method less."""


def _cost(order: Sequence[str], models: Sequence[Sequence[Trials]]) -> float:
    return float(np.mean([np.mean([replayed(order, trials).share for trials in sets]) for sets in models]))


def rows_of_order(order: Sequence[str], models: Sequence[Sequence[Trials]], *, case: str) -> list[Row]:
    """Make the rows of one order: the mean over the models of the means over their sets."""
    of_models = [[replayed(order, trials) for trials in sets] for sets in models]
    what = {"case": case, "method": ", ".join(order)}

    def mean(values: Sequence[Sequence[float]], metric: str, unit: str) -> Row:
        return row([float(np.mean(each)) for each in values], **what, metric=metric, unit=unit)

    ended = [one for sets in of_models for one in sets]
    return [
        mean([[one.share for one in sets] for sets in of_models], "retrain_ratio", "ratio"),
        share_row([one.verdict == "verified" for one in ended], **what, metric="verified"),
        share_row([one.retrained for one in ended], **what, metric="retrained"),
        mean([[one.gap for one in sets] for sets in of_models], "gap", "points"),
    ]


def rows_of_methods(found: Mapping[tuple[str, int], Mapping[str, Trials]]) -> list[Row]:
    """Make the rows of each method by case and set."""
    groups: dict[tuple[str, str, str], list[tuple[Trial, float]]] = {}
    for (name, _), sets in found.items():
        for kind, trials in sets.items():
            for method, one in trials.items():
                groups.setdefault((f"{name}, {kind}", kind, method), []).append((one, trials["retrain"].seconds))
    rows: list[Row] = []
    for (name, _, method), results in groups.items():
        what = {"case": name, "method": method}
        ran = [(one, retraining) for one, retraining in results if one.verdict is not None]
        if not ran:
            rows.append(share_row([True] * len(results), **what, metric="refused"))
            continue
        rows += [
            row([one.seconds for one, _ in ran], **what, metric="seconds", unit="seconds"),
            row([one.audit_seconds for one, _ in ran], **what, metric="audit_seconds", unit="seconds"),
            row(
                [(one.seconds + one.audit_seconds) / retraining for one, retraining in ran],
                **what,
                metric="retrain_ratio",
                unit="ratio",
            ),
            *verdict_rows([str(one.verdict) for one, _ in ran], **what),
        ]
        for metric, unit in UNITS.items():
            values = [one.figures[metric] for one, _ in ran if metric in one.figures]
            if values:
                rows.append(row(values, **what, metric=metric, unit=unit))
    return rows


if __name__ == "__main__":
    main()
