"""Ablation of LTU, as in the paper: the average gap to retraining without each of its parts.

    python -m benchmarks.ablation --case digits --seeds 100 101 102 103 104

First at LTU's defaults; then, for the parts that the inner step affects, with an inner rate as large as the outer one.
"""

import dataclasses

from benchmarks.cases import case
from benchmarks.command_line import cases_and_seeds
from benchmarks.judging import Judged, judged
from benchmarks.quality import UNITS
from benchmarks.writing import Row, metric_rows, row, write
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
LARGE_INNER_RATE = LTU().learning_rate
AT_A_LARGE_INNER_RATE = ("ltu", "sum", "alternate", "first_order")


def main() -> None:
    """Run LTU and each ablation on all seeds and write the rows."""
    rows: list[Row] = []
    for name, seeds in cases_and_seeds(__doc__):
        variants = [(name, LTU(), label) for label in ABLATIONS]
        variants += [
            (f"{name}, inner rate {LARGE_INNER_RATE:g}", LTU(inner_rate=LARGE_INNER_RATE), label)
            for label in AT_A_LARGE_INNER_RATE
        ]
        for block, given, label in variants:
            spec = dataclasses.replace(given, **ABLATIONS[label])  # type: ignore[arg-type]  # each change is one of the switches
            runs: list[Judged] = []
            for seed in seeds:
                runs.append(judged(case(name, seed), spec))
                print(f"{block} {seed} {label}: average gap {runs[-1].figures['average_gap']:.2f}", flush=True)
            rows += metric_rows([run.figures for run in runs], case=block, method=label, units=UNITS)
            rows.append(
                row([r.processor_seconds for r in runs], case=block, method=label, metric="seconds", unit="seconds")
            )
    write("ablation", rows)


if __name__ == "__main__":
    main()
