"""What an erasure costs from the claim to the published result, audits included, as a share of retraining.

    python -m benchmarks.cost --case digits --seeds 100 101 102 --without 1

The worker's own `run_job` runs each job, on a model that was registered with the default policy, with and without reference
predictions; so methods, audits, fallbacks and the report are those of the service. A job forgets a random part of the case's forget
set. Its processor seconds are compared with those of retraining without the whole forget set, by the model's own recipe and by the
plain one. References are prepared before, and are not part of a job's cost; the table `few_samples` has
theirs. Finished jobs are kept in `.bench/`, so that an interrupted run goes on. No default was chosen on these seeds.
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch

from benchmarks import machine
from benchmarks.cases import WORKLOADS, Case, all_settings, case, ids_digest, references_of, stored, subset
from benchmarks.command_line import case_parser, chosen
from benchmarks.few_samples import SIZES
from benchmarks.jobs import Service, Spent, service
from benchmarks.methods import without_references
from benchmarks.quality import plain_seconds
from benchmarks.verdicts import verdict_rows
from benchmarks.writing import Row, row, share_row, write
from ledger.states import Phase
from unlearning.specs import DEFAULT_POLICY, DEFAULT_WITH_REFERENCES
from unlearning.specs.audit import AuditSpec

KINDS = {"with_references": True, "without_references": False}


def main() -> None:
    """Run the jobs of all cases, seeds and sizes, draw by draw, and write the rows after each draw."""
    parser = case_parser(__doc__)
    parser.add_argument("--draws", type=int, default=1, help="random forget sets of each size, seed and kind")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument(
        "--without", type=int, help="seeds that run without references too, which takes much longer (default: all)"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[Row]] = {}
    with service() as running:
        for name, seeds in chosen(given):
            cases = [case(name, seed) for seed in seeds]
            found: dict[tuple[int, str], list[tuple[Case, Spent]]] = {}
            for draw in range(given.draws):
                for number, one in enumerate(cases):
                    alone = given.without is None or number < given.without
                    for size in given.sizes:
                        for kind in KINDS if alone else ["with_references"]:
                            spent = job(one, size, kind, draw, running)
                            found.setdefault((size, kind), []).append((one, spent))
                            print(f"{name} {one.seed} {size} {kind} {draw}: {spent}", flush=True)
                rows[name] = [made for key in sorted(found) for made in rows_of(name, *key, found[key])]
                write("cost", [made for of_case in rows.values() for made in of_case])


def rows_of(name: str, size: int, kind: str, found: Sequence[tuple[Case, Spent]]) -> list[Row]:
    """Make the rows of one size and kind: of the whole jobs, and of each method and its audit."""
    spent = [one for _, one in found]
    what = {"case": f"{name}, {size} samples", "method": kind}
    total = [one.total for one in spent]
    rows = [
        row(total, **what, metric="seconds", unit="seconds"),
        row([one.total / of.retrained.seconds for of, one in found], **what, metric="retrain_ratio", unit="ratio"),
        row([one.total / plain_seconds(of) for of, one in found], **what, metric="plain_retrain_ratio", unit="ratio"),
        *verdict_rows([str(one.verdict) for one in spent], **what),
        share_row(["retrain" in one.methods for one in spent], **what, metric="retrained"),
    ]
    for method in dict.fromkeys(method for one in spent for method in one.methods):
        ran = [one for one in spent if method in one.methods]
        label = method if KINDS[kind] else without_references(method)
        of_method = {"case": what["case"], "method": label}
        unlearning = [one.seconds[method].get(Phase.UNLEARN, 0.0) for one in ran]
        audits = [one.audit(method) for one in ran]
        rows += [
            row(unlearning, **of_method, metric="seconds", unit="seconds"),
            row(audits, **of_method, metric="audit_seconds", unit="seconds"),
            row(
                [audit / max(method_took, 1e-9) for audit, method_took in zip(audits, unlearning, strict=True)],
                **of_method,
                metric="audit_ratio",
                unit="ratio",
            ),
        ]
    return rows


def job(one: Case, size: int, kind: str, draw: int, running: Service) -> Spent:
    """Run a job by the worker's code, or read how an earlier run of the same job ended."""
    forget = subset(one.forget, size, np.random.default_rng([one.seed, size, draw, 2]))
    what = {
        "case": one.name,
        "seed": one.seed,
        "forget": ids_digest(forget),
        "kind": kind,
        "policy": [all_settings(method) for method in (DEFAULT_WITH_REFERENCES if KINDS[kind] else DEFAULT_POLICY)],
        "audit": all_settings(AuditSpec.with_references() if KINDS[kind] else AuditSpec()),
        **machine.identity(),
    }

    def run() -> dict[str, object]:
        factory = WORKLOADS[one.name]
        spent, _ = running.erase(
            one.workload,
            reference=f"{factory.__module__}:{factory.__name__}",
            model=one.original.model,
            ids=forget.ids,
            references=references_of(one) if KINDS[kind] else None,
        )
        return asdict(spent)

    return Spent(**stored("job", what, run))


if __name__ == "__main__":
    main()
