"""How often the audit's verdict is right about models whose truth is known.

    python -m benchmarks.verdicts --case digits digits_prepared --seeds 100 101 102 103 104
    python -m benchmarks.verdicts --methods ltu ieu --case digits     these methods alone
    python -m benchmarks.verdicts --few 8 --case digits --seeds 100 101 102 103 104
    python -m benchmarks.verdicts --tests --case digits --seeds 100 101 102 103 104
    python -m benchmarks.verdicts --parts 1 4 --case digits --seeds 20 21 22 23
    python -m benchmarks.verdicts --limits 3 6 --case digits --seeds 20 21 22 23

The original, a hardly changed copy of it and a collapsed model must be `failed`. A retrained model must never be `failed`, and
should be `verified` if there are enough data. The methods have no known truth: their verdicts are only counted.

With `--few` audits with reference predictions are counted in a file of their own, `verdicts_few.json`, on so many random sets of 1
to 300 samples for each seed; the whole forget set of the digits is one set, and a seed's model is retrained without it. One that
`still_knows` is the original after some steps on all training data, because the original itself fails by not having changed; one
that is `over_forgotten` is a retrained model that has learned wrong labels of the set. Only the first set of each size has audits
of the original, a collapsed model, one whose mean loss on the set `gradient_ascent` raised to that of held-out data, and methods,
which forget a set by itself.

With `--tests` the parts that cost little, the reference test and nearness, are counted on 100 sets of each size and seed, in
`verdicts_tests.json`, also of a model that is `half_way`: its logits are the means of the original's and the retrained model's.

With `--parts` the audits have no reference predictions and relearn at most so many parts of the forget set, in
`verdicts_parts.json`, or `verdicts_parts_validation.json` for other seeds than those of the tables. With `--limits` they relearn
for at most so many times the control's steps, in `verdicts_limits.json` or `verdicts_limits_validation.json`.

Finished audits are kept in `.bench/`. No default was chosen on the seeds from 100 on.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import torch
from torch import nn

from benchmarks.cases import Case, all_settings, case, stored
from benchmarks.characteristics import few, tests
from benchmarks.command_line import BOTH_DIGITS, SEEDS, case_parser, chosen
from benchmarks.judging import Judged, audited, judged_model, task_of
from benchmarks.known_models import collapsed, no_op, still_knows
from benchmarks.machine import identity, seconds
from benchmarks.methods import COMPARED, WITH_REFERENCES, tuned, without_references
from benchmarks.quality import everything
from benchmarks.writing import Row, of_case, row, share_row, write
from unlearning.methods.registry import unlearn
from unlearning.specs import IEU, Spec
from unlearning.specs.audit import AuditSpec
from unlearning.steps import run_to_completion

VERDICTS = ("verified", "inconclusive", "failed")
CERTAIN = ("original", "no_op", "collapsed")
"""Models that an audit fails without relearning them."""
DECISIONS = {True: "verified", None: "inconclusive", False: "failed"}
"""The verdict that a reference test's outcome alone would give."""


def main() -> None:
    """Count the verdicts of all models and write them as shares."""
    parser = case_parser(__doc__, cases=BOTH_DIGITS)
    parser.add_argument("--few", type=int, help="random sets of each size that audits with references test")
    parser.add_argument("--methods", nargs="+", choices=COMPARED, help="these alone (default: all)")
    parser.add_argument("--tests", action="store_true", help="the reference test and nearness alone, on more sets")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--parts", type=int, nargs="+", help="most parts that audits without references relearn")
    one.add_argument(
        "--limits", type=float, nargs="+", help="T_max of audits without references, in times of the control's steps"
    )
    given = parser.parse_args()
    unknown = set(given.methods or ()) - set(WITH_REFERENCES if given.few else COMPARED)
    if unknown:
        parser.error(f"not among these models: {', '.join(sorted(unknown))}")
    if given.few or given.tests or given.parts or given.limits:
        torch.set_num_threads(1)
    if given.few:
        found = (few(name, seeds, given.few, given.methods or tuple(WITH_REFERENCES)) for name, seeds in chosen(given))
        write("verdicts_few", [made for rows in found for made in rows])
        return
    if given.tests:
        write("verdicts_tests", [made for name, seeds in chosen(given) for made in tests(name, seeds)])
        return
    if given.parts or given.limits:
        file, specs = ("parts", of_parts(given.parts)) if given.parts else ("limits", of_limits(given.limits))
        cases = chosen(given)
        reported = {seed for _, seeds in cases for seed in seeds} <= set(SEEDS)
        rows = [made for name, seeds in cases for made in by_audit(name, seeds, specs)]
        write(f"verdicts_{file}" if reported else f"verdicts_{file}_validation", rows)
        return
    for name, seeds in chosen(given):
        write(of_case("verdicts", name), verdicts(name, seeds, given.methods or COMPARED))


def verdicts(name: str, seeds: Sequence[int], methods: Sequence[str]) -> list[Row]:
    """Count the verdicts of the runs of `benchmarks.quality` on a case, and of models that need no method."""
    runs = everything(name, seeds, methods)
    for seed in seeds:
        for label, judged in known(case(name, seed)).items():
            runs.setdefault(label, []).append(judged)
    return [
        made
        for method, judgements in runs.items()
        for made in verdict_rows([judged.verdict for judged in judgements], case=name, method=method)
    ]


def verdict_rows(verdicts: Sequence[str], *, case: str, method: str) -> list[Row]:
    """Compute the share of each verdict."""
    return [share_row([v == value for v in verdicts], case=case, method=method, metric=value) for value in VERDICTS]


def known(prepared: Case) -> dict[str, Judged]:
    """Audit models that need no method: one that hardly changed, and a collapsed one."""
    return {
        "no_op": judged_model(prepared, no_op(prepared)),
        "collapsed": judged_model(prepared, collapsed(prepared)),
    }


def _original(one: Case) -> nn.Module:
    return one.original.model


def _retrained(one: Case) -> nn.Module:
    return one.retrained.model


def of_parts(counts: Sequence[int]) -> dict[str, AuditSpec]:
    """Return audits that relearn at most so many parts of the forget set."""
    more = AuditSpec().relearn_parts_more
    return {
        f"{count} {'part' if count == 1 else 'parts'}": AuditSpec(
            relearn_parts=count, relearn_parts_more=min(count, more)
        )
        for count in counts
    }


def of_limits(limits: Sequence[float]) -> dict[str, AuditSpec]:
    """Return audits that relearn for at most so many times the control's steps."""
    return {f"{limit:g} times": AuditSpec(relearn_limit=limit) for limit in limits}


def by_audit(name: str, seeds: Sequence[int], specs: Mapping[str, AuditSpec]) -> list[Row]:
    """Audit models without references, in several ways; count verdicts and what relearning found."""
    found: dict[str, list[dict[str, object]]] = {}
    for seed in seeds:
        one = case(name, seed)
        models: dict[str, Callable[[], nn.Module]] = {
            "original": partial(_original, one),
            "no_op": partial(no_op, one),
            "still_knows": partial(still_knows, one),
            "retrained": partial(_retrained, one),
            "collapsed": partial(collapsed, one),
            **{
                without_references(spec.kind): cache(partial(_unlearned, one, spec))
                for spec in (IEU(), tuned(name)["ct"])
            },
        }
        for (way, spec), (label, make) in itertools.product(specs.items(), models.items()):
            result = _audit_relearning(one, label, make, spec)
            found.setdefault(f"{label}, {way}", []).append(result)
            print(f"{name} {seed} {way} {label}: {result}", flush=True)
    rows: list[Row] = []
    for label, results in found.items():
        what = {"case": name, "method": label}
        rows += verdict_rows([str(result["verdict"]) for result in results], **what)
        for metric, wanted in {"relearn_passed": True, "relearn_failed": False}.items():
            hits = [result[kind] is wanted for result in results for kind in ("sgd", "adam") if kind in result]
            rows += [share_row(hits, **what, metric=metric)] if hits else []
        spent = [float(str(result["audit_seconds"])) for result in results]
        rows.append(row(spent, **what, metric="audit_seconds", unit="seconds"))
    return rows


def _unlearned(one: Case, spec: Spec) -> nn.Module:
    task = task_of(one)
    run_to_completion(unlearn(spec, task))
    return task.model.eval()


def _audit_relearning(one: Case, label: str, make: Callable[[], nn.Module], spec: AuditSpec) -> dict[str, object]:
    """Audit a model, or read what an earlier run found; by relearner, whether it passed."""
    of_case = {"case": one.name, "seed": one.seed, "model": label}
    what = {**of_case, "audit": all_settings(spec), **identity()}

    def run() -> dict[str, object]:
        model = make()
        begun = seconds()
        findings = audited(one, model, spec=spec, references=None, until_failed=label in CERTAIN)
        spent = seconds() - begun
        passed = {each.code: each.passed for each in findings.verdict.findings}
        found = {each.kind: passed[f"relearn_delay_{each.kind}"] for each in findings.relearnings}
        return {"verdict": findings.verdict.value, "audit_seconds": spent, **found}

    return stored("parts", what, run)


if __name__ == "__main__":
    main()
