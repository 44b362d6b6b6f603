"""LTU without each of its parts, as in the paper's ablation: the average gap to retraining.

    python -m benchmarks.ablation --case digits --seeds 100 101 102 103 104

Once at LTU's defaults, and once with the longer inner step of `FAR`, by which the order of the parts and
the ways of combining them can tell.
"""

import dataclasses

from benchmarks.cases import case
from benchmarks.command_line import cases_and_seeds
from benchmarks.judging import Judged, judged
from benchmarks.quality import UNITS, figures
from benchmarks.writing import Row, row, write
from unlearning.specs import LTU

ABLATIONS: dict[str, dict[str, object]] = {
    "ltu": {},
    "sum": {"combine": "sum"},
    "alternate": {"combine": "alternate"},
    "no_forgetting_feedback": {"forgetting": False},
    "no_remembering_feedback": {"remembering": False},
    "no_meta": {"meta": False},
    "first_order": {"order": "first"},
    "remain_30": {"remain_share": 0.3, "remain_least": 1},
    "remain_10": {"remain_share": 0.1, "remain_least": 1},
}
FAR = 0.1
"""An inner rate as large as the outer one."""
ORDERS = ("ltu", "sum", "alternate", "first_order")
"""What the inner rate bears on."""


def main() -> None:
    """Judge LTU and each ablation on all seeds and write the rows."""
    rows: list[Row] = []
    for name, seeds in cases_and_seeds(__doc__):
        variants = [(name, LTU(), label) for label in ABLATIONS]
        variants += [(f"{name}, inner rate {FAR:g}", LTU(inner_rate=FAR), label) for label in ORDERS]
        for told, given, label in variants:
            spec = dataclasses.replace(given, **ABLATIONS[label])  # type: ignore[arg-type]  # each change is one of the switches
            runs: list[Judged] = []
            for seed in seeds:
                runs.append(judged(case(name, seed), spec))
                print(f"{told} {seed} {label}: average gap {runs[-1].figures['average_gap']:.2f}", flush=True)
            rows += figures(runs, case=told, method=label, units=UNITS)
            rows.append(
                row([r.processor_seconds for r in runs], case=told, method=label, metric="seconds", unit="seconds")
            )
    write("ablation", rows)


if __name__ == "__main__":
    main()
