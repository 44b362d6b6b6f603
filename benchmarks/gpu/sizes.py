"""What unlearning the same samples costs beside retraining, by the size of the training set."""

from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.cases import WITH_REFERENCES, Bench, Case, trained, unlearned
from benchmarks.gpu.quality import SHARES, rows
from benchmarks.gpu.session import Budget, Session
from unlearning.data.samples import SampleSet, partition


def sizes(bench: Bench, session: Session, budget: Budget) -> None:
    """Compare the cost of unlearning 1 % of the data with retraining on a quarter, a half and all of them."""
    found: dict[str, Any] = {}
    session.facts["training_set_sizes"] = found
    if SHARES[-1] not in bench.cases:
        budget.left_out.append("the first seed did not come so far")
        return
    whole = bench.cases[SHARES[-1]]
    for part in (4, 2, 1):
        count = len(whole.workload.train) // part - len(whole.forget)
        if not budget.begins(f"{count + len(whole.forget)} samples"):
            continue
        case = whole if part == 1 else _smaller(session, whole, count)
        name = f"CIFAR-10 JPEG, {len(whole.forget)} of {count + len(whole.forget)} forgotten"
        runs = bench.figures.setdefault(name, {})
        runs["retrain"] = [{"seed": case.seed, "seconds": case.retrained.seconds, "retrain_ratio": 1.0}]
        for method in WITH_REFERENCES:
            if bench.references is None and method == "matching":
                continue
            if budget.begins(f"{count + len(whole.forget)} samples: {method}"):
                _, seconds, outcome = unlearned(session, bench, case, method, bench.specs[method])
                ratio = seconds / case.retrained.seconds
                runs[method] = [{"seed": case.seed, "seconds": seconds, "retrain_ratio": ratio, **outcome}]
        found[name] = "its models are those of the step quality" if part == 1 else "its models are its own"
        session.rows = rows(bench.figures)
        session.write()


def _smaller(session: Session, whole: Case, count: int) -> Case:
    (remain,) = partition(whole.remain, (count,), seed=whole.seed)
    train = SampleSet(
        ids=whole.forget.ids + remain.ids,
        inputs=torch.cat([whole.forget.inputs, remain.inputs]),
        targets=torch.cat([whole.forget.targets, remain.targets]),
    )
    return replace(
        whole,
        workload=replace(whole.workload, train=train),
        remain=remain,
        original=trained(session, whole.workload, train, seed=whole.seed),
        retrained=trained(session, whole.workload, remain, seed=whole.seed),
    )
