"""The operating characteristics of audits with reference predictions: what they find, by model and number of forgotten samples.

`python -m benchmarks.verdicts --few` and `--tests` run it; see there. Finished audits are kept in `.bench/`: a run that was
interrupted goes on, and one with more sets adds to it.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch import nn

from benchmarks import judging
from benchmarks.cases import (
    Case,
    all_settings,
    case,
    ids_digest,
    key,
    keys,
    references_of,
    stored,
    subset,
    without,
)  # fmt: skip
from benchmarks.judging import task_of
from benchmarks.known_models import ascended, collapsed, half_way, over_forgotten, still_knows
from benchmarks.machine import identity, seconds
from benchmarks.methods import WITH_REFERENCES
from benchmarks.writing import Row, clustered_share_row, row, share_row
from unlearning.audit.nearness import nearness
from unlearning.audit.reference_test import reference_test, signals_by_reference
from unlearning.data.references import References
from unlearning.data.samples import SampleSet
from unlearning.methods.registry import unlearn
from unlearning.specs.audit import AuditSpec, Thresholds
from unlearning.steps import run_to_completion
from unlearning.training.references import sample_signals

SIZES = (1, 3, 10, 30, 100, 300)
"""Numbers of forgotten samples."""
TESTED = 100
"""Sets of each size and seed on which the tests that read answers alone are counted, which cost little."""
Result = Mapping[str, object]
"""Of an audit: its verdict, the tests that failed the model, and processor seconds."""


def few(name: str, seeds: Sequence[int], sets: int, methods: Sequence[str] = tuple(WITH_REFERENCES)) -> list[Row]:
    """Audit models on `sets` random sets of each size and seed; count verdicts, and processor seconds."""
    found: dict[tuple[int, str], dict[int, list[Result]]] = {}
    cases = {seed: case(name, seed) for seed in seeds}
    for number in range(sets):
        for seed, one in cases.items():
            models = {"still_knows": still_knows(one), "retrain": one.again.model}
            if number == 0:
                models |= {"original": one.original.model, "collapsed": collapsed(one)}
            for size in SIZES:
                if size >= len(one.forget) and number:
                    continue  # there is one such set
                forget = subset(one.forget, size, np.random.default_rng([seed, size, number, 3]))
                runs = {label: partial(audited, one, label, model, forget) for label, model in models.items()}
                runs["over_forgotten"] = partial(audited, one, "over_forgotten", partial(over_forgotten, one), forget)
                if number == 0:
                    runs["gradient_ascent"] = partial(audited, one, "gradient_ascent", partial(ascended, one), forget)
                    runs |= {label: partial(unlearned, one, label, forget) for label in methods}
                for label, run in runs.items():
                    result = run()
                    found.setdefault((size, label), {}).setdefault(seed, []).append(result)
                    print(f"{name} {seed} {size} {number} {label}: {result}", flush=True)
    rows: list[Row] = []
    for (size, label), by_seed in sorted(found.items(), key=lambda item: item[0][0]):
        rows += verdict_rows_by_seed(by_seed, case=f"{name}, {size} samples", method=label)
    return rows


def tests(name: str, seeds: Sequence[int]) -> list[Row]:
    """Count what the reference test and nearness find on known models, on `TESTED` sets of each size and seed."""
    rows: list[Row] = []
    for size in SIZES:
        tested = {seed: tests_of(case(name, seed), size) for seed in seeds}
        rows += test_rows(tested, case=f"{name}, {size} samples")
    return rows


def verdict_rows_by_seed(by_seed: Mapping[int, Sequence[Result]], *, case: str, method: str) -> list[Row]:
    """Count the verdicts of one model and size, and what relearning found where it ran.

    Seconds are stated of audits that other models would have too: the others have failed before anything is relearned.
    """
    what = {"case": case, "method": method}
    rows = [
        clustered_share_row(
            [[each["verdict"] == verdict for each in results] for results in by_seed.values()], **what, metric=verdict
        )
        for verdict in ("verified", "inconclusive", "failed")
    ]
    relearned = [
        [bool(each["relearn_failed"]) for each in results if each["relearned"]] for results in by_seed.values()
    ]
    if any(relearned):
        rows.append(clustered_share_row([each for each in relearned if each], **what, metric="relearn_failed"))
    for metric in ("audit_seconds", "method_seconds") if method in ("retrain", *WITH_REFERENCES) else ():
        spent = [float(str(each[metric])) for results in by_seed.values() for each in results if metric in each]
        rows += [row(spent, **what, metric=metric, unit="seconds")] if spent else []
    return rows


def test_rows(tested: Mapping[int, Mapping[str, Sequence[tuple[bool | None, bool]]]], *, case: str) -> list[Row]:
    """Count what the reference test and nearness found on each model."""
    meanings: dict[str, Callable[[bool | None, bool], bool]] = {
        "reference_passed": lambda passed, near: passed is True,
        "reference_failed": lambda passed, near: passed is False,
        "nearer_to_original": lambda passed, near: near,
        "passed_and_not_nearer": lambda passed, near: passed is True and not near,
    }
    rows = [
        clustered_share_row(
            [[hit(*each) for each in outcomes[label]] for outcomes in tested.values()],
            case=case, method=label, metric=metric,
        )
        for label in next(iter(tested.values()))
        for metric, hit in meanings.items()
    ]  # fmt: skip
    for seed, outcomes in tested.items():
        hits = [passed is False for passed, _ in outcomes["retrain"]]
        rows.append(share_row(hits, case=case, method=f"retrain, seed {seed}", metric="reference_failed_by_seed"))
    return rows


def tests_of(one: Case, size: int) -> dict[str, list[tuple[bool | None, bool]]]:
    """Run the reference test and nearness on random sets of one size: whether it passes, and whether the original is nearer."""

    def run() -> dict[str, list[tuple[bool | None, bool]]]:
        made = references_of(one)
        samples = {"forget": one.forget, "remain": one.remain, "held_out": one.held_out.audit}
        rows = {name: made.take(keys(part)) for name, part in samples.items()}
        models = {"original": one.original.model, "half_way": half_way(one), "retrain": one.again.model}
        margins = {
            label: {
                name: sample_signals(copy.deepcopy(model).eval(), part, one.workload.objective)[0]
                .double()
                .cpu()
                .numpy()
                for name, part in samples.items()
            }
            for label, model in models.items()
        }
        found: dict[str, list[tuple[bool | None, bool]]] = {}
        for label, signals in margins.items():
            judged = {name: signals_by_reference(signals[name], rows[name]) for name in samples}
            rng = np.random.default_rng([one.seed, size, 5])
            for _ in range(1 if size >= len(one.forget) else TESTED):
                chosen = rng.permutation(len(one.forget))[:size]
                forget, others = judged["forget"].take(chosen), {name: judged[name] for name in ("held_out", "remain")}
                test = reference_test(forget=forget, **others, thresholds=Thresholds(), seed=one.seed)
                near = nearness(
                    forget=forget,
                    original=margins["original"]["forget"][chosen],
                    held_out=judged["held_out"],
                    thresholds=Thresholds(),
                    seed=one.seed,
                )
                found.setdefault(label, []).append((test.passed, near.to_original))
        return found

    of_case = {"case": one.name, "seed": one.seed, "size": size, "sets": TESTED}
    return stored("few_tests", {**of_case, **identity()}, run)


def audited(one: Case, label: str, model: nn.Module | Callable[[SampleSet], nn.Module], forget: SampleSet) -> Result:
    """Audit a known model, or one that is made for a set, with references, or read what an earlier run of the same code found."""

    def run() -> Result:
        found = model if isinstance(model, nn.Module) else model(forget)
        return _audit(one, found, forget, one.remain, references_of(one))

    return _stored(one, forget, {"model": label}, run)


def unlearned(one: Case, label: str, forget: SampleSet) -> Result:
    """Let a method forget one set, and audit the result, or read what an earlier run of the same code found."""
    spec = WITH_REFERENCES[label]

    def run() -> Result:
        made, task = references_of(one), task_of(one)
        task.forget, task.remain = forget, without(one.workload.train, forget)
        task.references = made.for_method(keys(forget), key=key)
        begun = seconds()
        run_to_completion(unlearn(spec, task))
        spent = seconds() - begun
        return {**_audit(one, task.model.eval(), forget, task.remain, made), "method_seconds": spent}

    return _stored(one, forget, {"model": all_settings(spec)}, run)


def _audit(one: Case, model: nn.Module, forget: SampleSet, remain: SampleSet, made: References) -> dict[str, object]:
    """Audit a model as a worker does, which relearns only if no other test has failed it."""
    of_set = replace(one, forget=forget, remain=remain)
    spec, begun = AuditSpec.with_references(), seconds()
    findings = judging.audited(of_set, model, spec=spec, references=made, until_failed=True)
    spent, verdict = seconds() - begun, findings.verdict
    failed = [each.code for each in verdict.findings if each.deciding and each.passed is False]
    return {
        "verdict": verdict.value,
        "reason": verdict.reason,
        "failed": failed,
        "relearned": bool(findings.relearnings),
        "relearn_failed": any(code.startswith("relearn") for code in failed),
        "audit_seconds": spent,
    }


def _stored(one: Case, forget: SampleSet, what: Mapping[str, object], run: Callable[[], Result]) -> Result:
    spec = all_settings(AuditSpec.with_references())
    of_case = {"case": one.name, "seed": one.seed, "forget": ids_digest(forget), "audit": spec}
    return stored("few", {**of_case, **what, **identity()}, run)
