"""What unlearning the same samples costs beside retraining, by the size of the training set."""

from dataclasses import replace
from typing import Any

from benchmarks.cases import Case
from benchmarks.gpu.cases import WITH_REFERENCES, Bench, unlearned
from benchmarks.gpu.quality import DATA, SHARES, rows
from benchmarks.gpu.session import Budget, Session
from unlearning.data.samples import joined, partition


def sizes(bench: Bench, session: Session, budget: Budget) -> None:
    """Compare the cost of unlearning 1 % of the data with retraining on a quarter, a half and all of them."""
    found: dict[str, Any] = {}
    session.facts["training_set_sizes"] = found
    if SHARES[-1] not in bench.cases:
        budget.left_out.append("the first seed did not come so far")
        return
    whole = bench.cases[SHARES[-1]]
    for part in (4, 2, 1):
        size = len(whole.workload.train) // part
        if not budget.begins(f"{size} samples"):
            continue
        case = whole if part == 1 else _smaller(whole, size - len(whole.forget))
        name = f"{DATA}, {len(whole.forget)} of {size} forgotten"
        runs = bench.figures.setdefault(name, {})
        runs["retrain"] = [{"seed": case.seed, "seconds": case.retrained.seconds, "retrain_ratio": 1.0}]
        for method in WITH_REFERENCES:
            if bench.references is None and method == "matching":
                continue
            if budget.begins(f"{size} samples: {method}"):
                _, seconds, outcome = unlearned(bench, case, method, bench.specs[method])
                ratio = seconds / case.retrained.seconds
                runs[method] = [{"seed": case.seed, "seconds": seconds, "retrain_ratio": ratio, **outcome}]
        found[name] = "its models are those of the step quality" if part == 1 else "its models are its own"
        session.rows = rows(bench.figures)
        session.write()


def _smaller(whole: Case, count: int) -> Case:
    """Forget the same samples out of a training set with `count` of the remaining ones."""
    (remain,) = partition(whole.remain, (count,), seed=whole.seed)
    return replace(whole, workload=replace(whole.workload, train=joined(whole.forget, remain)), remain=remain)
