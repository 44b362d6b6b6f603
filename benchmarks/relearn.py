"""Relearn delay: how long each method's model takes to learn the forget set again, with its accuracies.

    python -m benchmarks.relearn --case digits digits_prepared cifar --seeds 100 101 102 103 104

T in steps, with SGD and with Adam; relative to the retrained model's T; normalised, so that the original has 0 and the retrained
model 1; and relative to the control's T, which is all that a service has. A damaged model also learns slowly, so RA and TA are
given with every delay. The tuning searches for the nearest model and not for the slowest to relearn, so on the digits IEU is run
a second time, with the stronger ascent and noise that were found on the CIFAR case.
"""

from collections.abc import Mapping, Sequence

from benchmarks.cases import case
from benchmarks.command_line import BOTH_DIGITS, cases_and_seeds
from benchmarks.judging import Judged, judged
from benchmarks.methods import tuned
from benchmarks.quality import everything
from benchmarks.writing import Row, metric_rows, write

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
    rows: list[Row] = []
    for name, seeds in cases_and_seeds(__doc__, cases=BOTH_DIGITS):
        for method, runs in {**everything(name, seeds), **_noisier(name, seeds)}.items():
            rows += metric_rows([run.figures for run in runs], case=name, method=method, units=UNITS)
    write("relearn", rows)


def _noisier(name: str, seeds: Sequence[int]) -> Mapping[str, Sequence[Judged]]:
    spec = tuned("cifar")["ieu"]
    return {} if tuned(name)["ieu"] == spec else {"ieu_as_on_cifar": [judged(case(name, seed), spec) for seed in seeds]}


if __name__ == "__main__":
    main()
