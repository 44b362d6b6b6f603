"""How near each method comes to retraining: the average gap over UA, RA, TA and MI, and the gap between two retrained models.

    python -m benchmarks.quality --case digits digits_prepared cifar --seeds 100 101 102 103 104

Matching, LTU and IEU, with and without reference predictions, have their defaults; each baseline has what the same search found for
it on the case. No default and no tuned parameter was chosen on these seeds. Each case but the digits has a file of results of its
own. Finished runs are kept in `.bench/`; `benchmarks.relearn` and `benchmarks.verdicts` make tables of the same runs.
"""

from collections.abc import Sequence

from benchmarks.cases import Case, case, cost_of_references, references_of, trained, with_recipe
from benchmarks.command_line import BOTH_DIGITS, case_parser, chosen
from benchmarks.judging import Judged, judged, judged_model
from benchmarks.methods import COMPARED, WITH_REFERENCES, spec_of
from benchmarks.writing import Row, metric_rows, of_case, row, write

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
    """Run the methods on all seeds of each case, and write the rows."""
    parser = case_parser(__doc__, cases=BOTH_DIGITS)
    parser.add_argument("--methods", nargs="+", choices=COMPARED, default=COMPARED, help="these alone")
    given = parser.parse_args()
    for name, seeds in chosen(given):
        write(of_case("quality", name), quality(name, seeds, given.methods))


def quality(name: str, seeds: Sequence[int], methods: Sequence[str] = COMPARED) -> list[Row]:
    """Make the rows of a case: nearness and accuracies, seconds, and what reference predictions cost."""
    cases = [case(name, seed) for seed in seeds]
    retraining = [one.retrained.seconds for one in cases]
    rows: list[Row] = []
    for method, runs in everything(name, seeds, methods).items():
        rows += metric_rows([run.figures for run in runs], case=name, method=method, units=UNITS)
        if runs[0].steps:
            spent = [run.processor_seconds for run in runs]
            rows += [
                row(spent, case=name, method=method, metric="seconds", unit="seconds"),
                row(_ratios(spent, retraining), case=name, method=method, metric="retrain_ratio", unit="ratio"),
            ]
    return rows + (preparation(cases) if set(methods) & set(WITH_REFERENCES) else [])


def everything(name: str, seeds: Sequence[int], methods: Sequence[str] = COMPARED) -> dict[str, list[Judged]]:
    """Run methods on all seeds of a case, with the original and a second retrained model as the ends of the scale."""
    found: dict[str, list[Judged]] = {}
    for seed in seeds:
        prepared = case(name, seed)
        references = references_of(prepared) if set(methods) & set(WITH_REFERENCES) else None
        found.setdefault("original", []).append(judged_model(prepared, prepared.original.model))
        found.setdefault("retrain", []).append(judged_model(prepared, prepared.again.model))
        for method in methods:
            spec, uses_references = spec_of(method, name)
            run = judged(prepared, spec, references=references if uses_references else None)
            found.setdefault(method, []).append(run)
            print(
                f"{name} {seed} {method}: average gap {run.figures['average_gap']:.2f}, {run.processor_seconds:.1f} s, "
                f"{run.verdict}",
                flush=True,
            )
    return found


def preparation(cases: Sequence[Case]) -> list[Row]:
    """Compare what references cost with retraining by the recipe, and with a plain training, in processor seconds.

    Of cases whose preparation was interrupted the cost is left out: only its end was timed.
    """
    name = cases[0].name
    rows = [
        row([one.retrained.seconds for one in cases], case=name, method="retrain", metric="seconds", unit="seconds")
    ]
    timed = [(one, spent) for one in cases if (spent := cost_of_references(references_of(one))) is not None]
    if not timed:
        return rows
    cost = [spent for _, spent in timed]
    by_recipe = [one.retrained.seconds for one, _ in timed]
    plain = [plain_seconds(one) for one, _ in timed]
    return [
        *rows,
        row(cost, case=name, method="references", metric="seconds", unit="seconds"),
        row(_ratios(cost, by_recipe), case=name, method="references", metric="retrain_ratio", unit="ratio"),
        row(_ratios(cost, plain), case=name, method="references", metric="plain_retrain_ratio", unit="ratio"),
    ]


def plain_seconds(one: Case) -> float:
    """Return the processor seconds of training on the remaining set by the plain recipe, which may be the case's own."""
    plain = with_recipe(one.workload, readiness=None, reweighting=None)
    if plain.recipe == one.workload.recipe:
        return one.retrained.seconds
    return trained(plain, one.remain, seed=one.seed).seconds


def _ratios(values: Sequence[float], by: Sequence[float]) -> list[float]:
    return [value / other for value, other in zip(values, by, strict=True)]


if __name__ == "__main__":
    main()
