"""Full CIFAR-10: the models, how near each method comes to retraining, what it costs, and how soon the forget set is relearned."""

import itertools
import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from benchmarks.cases import Case, trained
from benchmarks.gpu.cases import Bench, prepare, unlearned
from benchmarks.gpu.session import Budget, Session
from benchmarks.judging import TABLE
from benchmarks.quality import UNITS as QUALITY_UNITS
from benchmarks.writing import Row, row
from unlearning.audit.controls import class_sizes, draw_by_class
from unlearning.audit.measures import measures_of
from unlearning.audit.relearning import Relearner, calibrate_relearner, mean_loss, relearn
from unlearning.audit.signals import audit_copy, observe
from unlearning.data.batches import Batch
from unlearning.data.samples import partition
from unlearning.data.workload import split_held_out
from unlearning.specs import IEU, LTU, FineTune, Matching, NegGradPlus, SalUn, Spec
from unlearning.specs.audit import AuditSpec

DATA = "CIFAR-10 JPEG"
SHARES = (0.1, 0.01)
"""Of the training set, drawn at random, that are forgotten."""
SEEDS = (100, 101, 102, 103, 104)
SPECS: dict[str, Spec] = {
    "matching": Matching(batch_size=256),
    "ltu": LTU(batch_size=256, query_size=256),
    "ieu": IEU(batch_size=256),
    "neggrad_plus": NegGradPlus(epochs=3, batch_size=512, learning_rate=0.02),
    "salun": SalUn(epochs=3, batch_size=512, learning_rate=0.02),
    "fine_tune": FineTune(epochs=3, batch_size=512, learning_rate=0.02),
}
"""The defaults but for larger batches, and fewer epochs of the baselines. None is tuned: nothing has run on a GPU."""
UNITS = {metric: QUALITY_UNITS[metric] for metric in ("average_gap", *TABLE)} | {
    "seconds": "seconds",
    "retrain_ratio": "ratio",
    "relearn_delay_ratio_sgd": "ratio",
    "forget_loss": "nats",
    "forget_loss_gap": "nats",
    "exact_memorisation": "percent",
    "greedy_extraction": "percent",
    "perplexity_ratio_test": "ratio",
}
"""The last five are a language model's (`benchmarks.gpu.language`)."""
AUDIT = AuditSpec(vector_samples=1000, vector_seeds=1, relearners=("sgd",))


def more_seeds(bench: Bench, session: Session, budget: Budget) -> None:
    """Take as many further seeds as fit."""
    for number in SEEDS[1:2] if session.dry_run else SEEDS[1:]:
        if not budget.begins(f"seed {number}"):
            return
        seed(bench, number, session, budget)


def seed(bench: Bench, number: int, session: Session, budget: Budget) -> None:
    """Train one original; for each share retrain, unlearn by each method, and note the figures as they come.

    With the first seed the references are prepared on the way.
    """
    workload = bench.workload
    if not budget.begins(f"{number}: original"):
        return
    original = trained(workload, workload.train, seed=number)
    for share in SHARES:
        if not budget.begins(f"{number}, {share:.0%}: retraining"):
            return
        count = max(2, round(share * len(workload.train)))
        forget, remain = partition(workload.train, (count, len(workload.train) - count), seed=number)
        case = Case(
            name=f"{DATA}, {share:.0%} forgotten", seed=number, workload=workload, forget=forget, remain=remain,
            held_out=split_held_out(workload.held_out),
        )  # fmt: skip
        if number == SEEDS[0]:
            bench.cases[share] = case
        judge = Judge(session, bench, case)
        judge.note("original", original.model, {"seconds": original.seconds})
        judge.note("retrained", case.retrained.model, {"seconds": case.retrained.seconds})
        if budget.begins(f"{number}, {share:.0%}: second retraining"):
            judge.note("retrain", case.again.model, judge.cost(case.again.seconds))
        if bench.references is None and budget.begins("references"):
            judge.note("references", None, judge.cost(prepare(session, bench)))
        for method, spec in bench.specs.items():
            if budget.begins(f"{number}, {share:.0%}: {method}"):
                judge.run(method, spec)


class Judge:
    """Runs methods on a case and notes figures. The relearner is calibrated once, on the original and held-out data alone."""

    def __init__(self, session: Session, bench: Bench, case: Case) -> None:
        self.session, self.bench, self.case = session, bench, case
        self.wanted = self._measured(case.retrained.model)
        self.batch, self.relearner = relearning(case)
        self.retrained_delay = self._delay(case.retrained.model)

    def run(self, method: str, spec: Spec) -> None:
        """Run a method and note its figures; one that fails is noted and does not end the others."""
        try:
            model, seconds, outcome = unlearned(self.bench, self.case, method, spec)
            self.note(method, model, self.cost(seconds) | outcome)
        except Exception as error:
            print(f"    {method} failed: {type(error).__name__}: {error}", flush=True)
            failures = self.session.facts.setdefault("failed_methods", [])
            failures.append({"case": self.case.name, "method": method, "error": f"{type(error).__name__}: {error}"})
            self.session.write()

    def cost(self, seconds: float) -> dict[str, float]:
        """Put seconds beside those of retraining."""
        return {"seconds": seconds, "retrain_ratio": seconds / self.case.retrained.seconds}

    def note(self, method: str, model: nn.Module | None, figures: Mapping[str, float]) -> None:
        """Measure a model, note its figures beside what it cost, and write the results so far."""
        found = dict(figures)
        if model is not None:
            measured = self._measured(model)
            found |= measured
            if model is not self.case.retrained.model:
                gaps = [abs(measured[name] - self.wanted[name]) for name in measured]
                found["average_gap"] = float(np.mean(gaps))
            delay = self._delay(model)
            if delay is not None and self.retrained_delay:
                found |= {"relearn_delay_sgd": delay, "relearn_delay_ratio_sgd": delay / self.retrained_delay}
        self.bench.figures.setdefault(self.case.name, {}).setdefault(method, []).append(
            {"seed": self.case.seed, **found}
        )
        print(f"    {method}: {json.dumps({name: round(value, 3) for name, value in found.items()})}", flush=True)
        self.session.facts["runs"] = self.bench.figures
        self.session.rows = rows(self.bench.figures)
        self.session.write()

    def _measured(self, model: nn.Module) -> dict[str, float]:
        case, copied = self.case, audit_copy(model, self.case.forget)
        sets = {"forget": case.forget, "remain": case.remain, "test": case.workload.test}
        signals = {name: observe(copied, each, objective=case.workload.objective) for name, each in sets.items()}
        return measures_of(signals, spec=AUDIT, seed=case.seed).table

    def _delay(self, model: nn.Module) -> int | None:
        if self.relearner is None:
            return None
        objective = self.case.workload.objective
        return relearn(model, self.batch, objective=objective, relearner=self.relearner, seed=self.case.seed).delay


def relearning(case: Case) -> tuple[Batch, Relearner | None]:
    """Draw what is relearned, and calibrate plain SGD; None if the original knows held-out data as well as the forget set."""
    objective = case.workload.objective
    labels = [samples.targets.cpu().numpy() for samples in (case.forget, case.held_out.audit)]
    sizes = class_sizes(*labels, max_samples=AUDIT.relearn_samples)
    rng = np.random.default_rng([case.seed, 0])
    known, control = (
        samples.select(torch.from_numpy(draw_by_class(samples, sizes, rng)[0]))
        for samples in (case.forget, case.held_out.audit)
    )
    loss, control_loss = (mean_loss(case.original.model, batch, objective) for batch in (known, control))
    delta = AUDIT.relearn_delta * (control_loss - loss)
    if delta <= 0:
        return known, None
    return known, calibrate_relearner(
        case.original.model, control, objective=objective, kind="sgd", target=loss + delta, steps=AUDIT.relearn_steps,
        limit=AUDIT.relearn_limit, batch_size=AUDIT.relearn_batch, seed=case.seed,
    )  # fmt: skip


def rows(figures: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> list[Row]:
    """Make a row for each case, method and metric, over the seeds that have it."""
    found = []
    for (name, methods), (metric, unit) in itertools.product(figures.items(), UNITS.items()):
        for method, runs in methods.items():
            values = [run[metric] for run in runs if metric in run]
            if values:
                found.append(row(values, case=name, method=method, metric=metric, unit=unit))
    return found
