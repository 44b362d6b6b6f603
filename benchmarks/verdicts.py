"""How often the audit's verdict is right about models whose truth is known.

    python -m benchmarks.verdicts --case digits digits_prepared --seeds 100 101 102 103 104

The original, a hardly changed copy of it and a collapsed model must be `failed`. A retrained model must never be `failed`, and
should be `verified` if there are enough data. The methods have no known truth: their verdicts are only counted.
"""

import copy
from collections.abc import Sequence

from benchmarks.cases import Case, case
from benchmarks.command_line import BOTH_DIGITS, cases_and_seeds
from benchmarks.judging import Judged, judged_model
from benchmarks.machine import DEVICE
from benchmarks.quality import everything
from benchmarks.writing import Row, share_row, write
from unlearning.training.loop import fresh

VERDICTS = ("verified", "inconclusive", "failed")


def main() -> None:
    """Count the verdicts of all models and write them as shares."""
    rows: list[Row] = []
    for name, seeds in cases_and_seeds(__doc__, cases=BOTH_DIGITS):
        runs = everything(name, seeds)
        for seed in seeds:
            for label, judged in known(case(name, seed)).items():
                runs.setdefault(label, []).append(judged)
        for method, judgements in runs.items():
            rows += verdict_rows([judged.verdict for judged in judgements], case=name, method=method)
    write("verdicts", rows)


def verdict_rows(verdicts: Sequence[str], *, case: str, method: str) -> list[Row]:
    """Compute the share of each verdict."""
    return [share_row([v == value for v in verdicts], case=case, method=method, metric=value) for value in VERDICTS]


def known(prepared: Case) -> dict[str, Judged]:
    """Audit models that need no method: one that hardly changed, and a collapsed one."""
    original = prepared.original.model
    moved = copy.deepcopy(original)
    for parameter in moved.parameters():
        parameter.data.mul_(1 + 1e-7)
    return {
        "no_op": judged_model(prepared, moved),
        "collapsed": judged_model(prepared, fresh(prepared.workload.build, seed=prepared.seed).to(DEVICE).eval()),
    }


if __name__ == "__main__":
    main()
