"""How near each method comes to retraining: the average gap over UA, RA, TA and MI, and the gap between two retrained models.

    python -m benchmarks.quality --case digits digits_prepared cifar --seeds 100 101 102 103 104

With `--methods neggrad_plus msg ct` these alone, in a file of their own, `quality_neggrad_plus_msg_ct.json`. No default and no
tuned parameter was chosen on these seeds.
"""

from collections.abc import Sequence

from benchmarks.cases import case
from benchmarks.command_line import BOTH_DIGITS, case_parser, chosen
from benchmarks.judging import Judged, judged, judged_model
from benchmarks.methods import ALL, tuned
from benchmarks.writing import Row, metric_rows, row, write

UNITS = {
    "average_gap": "points",
    "ua": "percent",
    "ra": "percent",
    "ta": "percent",
    "mi": "percent",
    "ua_gap": "points",
    "ra_gap": "points",
    "ta_gap": "points",
    "mi_gap": "points",
    "ta_lost": "points",
    "tow": "ratio",
    "membership_auc": "ratio",
}


def main() -> None:
    """Run the methods on all seeds and write the rows."""
    parser = case_parser(__doc__, cases=BOTH_DIGITS)
    parser.add_argument("--methods", nargs="+", choices=ALL, help="these alone (default: all)")
    given = parser.parse_args()
    rows: list[Row] = []
    for name, seeds in chosen(given):
        for method, runs in everything(name, seeds, given.methods or ALL).items():
            rows += metric_rows([run.figures for run in runs], case=name, method=method, units=UNITS)
            if runs[0].steps:
                rows.append(
                    row([r.processor_seconds for r in runs], case=name, method=method, metric="seconds", unit="seconds")
                )
    write("_".join(["quality", *(given.methods or ())]), rows)


def everything(name: str, seeds: Sequence[int], methods: Sequence[str] = ALL) -> dict[str, list[Judged]]:
    """Run methods on all seeds of a case, with the original and a second retrained model as the ends of the scale."""
    found: dict[str, list[Judged]] = {}
    for seed in seeds:
        prepared = case(name, seed)
        found.setdefault("original", []).append(judged_model(prepared, prepared.original.model))
        found.setdefault("retrain", []).append(judged_model(prepared, prepared.again.model))
        specs = tuned(name)
        for method in methods:
            run = judged(prepared, specs[method])
            found.setdefault(method, []).append(run)
            print(
                f"{name} {seed} {method}: average gap {run.figures['average_gap']:.2f}, {run.processor_seconds:.1f} s, "
                f"{run.verdict}",
                flush=True,
            )
    return found


if __name__ == "__main__":
    main()
