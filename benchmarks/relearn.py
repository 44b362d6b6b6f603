"""Relearn delay: how long each method's model takes to learn the forget set again, with its accuracies.

    python -m benchmarks.relearn --case digits digits_prepared cifar --seeds 100 101 102 103 104

T in steps, with SGD and with Adam; relative to the retrained model's T; normalised, so that the original has 0 and the retrained
model 1; and relative to the control's T, which is all that a service has. A damaged model also learns slowly, so RA and TA are
given with every delay. The runs are those of `benchmarks.quality`.
"""

from benchmarks.command_line import BOTH_DIGITS, case_parser, chosen
from benchmarks.methods import COMPARED
from benchmarks.quality import everything
from benchmarks.writing import Row, metric_rows, of_case, write

UNITS = {
    f"{metric}_{kind}": unit
    for kind in ("sgd", "adam")
    for metric, unit in {
        "relearn_delay": "steps",
        "relearn_delay_ratio": "ratio",
        "relearn_delay_normalised": "ratio",
        "relearn_delay_to_control": "ratio",
    }.items()
} | {"ra": "percent", "ta": "percent", "ra_gap": "points", "ta_gap": "points", "ua": "percent"}


def main() -> None:
    """Write the rows of all methods."""
    parser = case_parser(__doc__, cases=BOTH_DIGITS)
    parser.add_argument("--methods", nargs="+", choices=COMPARED, default=COMPARED, help="these alone")
    given = parser.parse_args()
    for name, seeds in chosen(given):
        rows: list[Row] = []
        for method, runs in everything(name, seeds, given.methods).items():
            rows += metric_rows([run.figures for run in runs], case=name, method=method, units=UNITS)
        write(of_case("relearn", name), rows)


if __name__ == "__main__":
    main()
