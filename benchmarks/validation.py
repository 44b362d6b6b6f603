"""How near LTU and IEU come to retraining at their defaults, on the validation seeds, on which the defaults are chosen.

    python -m benchmarks.validation --case digits cifar=50
    python -m benchmarks.validation --references --seeds 20 21

For small and large forget sets. The gap is the tuning's score (`unlearning.tuning.judge_by_retrained`): it uses neither the
evaluating attack nor the test set. LTU with a longer inner step is given beside its default.

The second writes `validation_references`: methods with reference predictions, and LTU without one of its parts, audited beside the
retrained model.
"""

from benchmarks.ablation import LARGE_INNER_RATE
from benchmarks.cases import case, references_of, share_of
from benchmarks.command_line import Chosen, case_parser, chosen
from benchmarks.judging import Judged, judged, judged_model, task_of
from benchmarks.methods import AT_DEFAULTS
from benchmarks.quality import UNITS
from benchmarks.relearn import UNITS as DELAYS
from benchmarks.verdicts import verdict_rows
from benchmarks.writing import Row, metric_rows, row, write
from unlearning.methods.registry import unlearn
from unlearning.specs import LTU, Matching, Spec
from unlearning.steps import run_to_completion
from unlearning.tuning import judge_by_retrained

SEEDS = (20, 21, 22, 23, 24, 25)
METHODS = {**AT_DEFAULTS, f"ltu, inner rate {LARGE_INNER_RATE:g}": LTU(inner_rate=LARGE_INNER_RATE)}
SMALL = {"digits": (0.02,)}
"""Smaller shares of the training set to forget too."""


WITH_REFERENCES: dict[str, Spec] = {
    "matching": Matching(),
    "ltu": LTU(),
    "ltu, guides of pairs": LTU(guide="pairs"),
    "ltu, no forgetting feedback": LTU(forgetting=False),
}


def main() -> None:
    """Run the methods on all seeds and write the rows."""
    parser = case_parser(__doc__, default=SEEDS)
    parser.add_argument("--references", action="store_true", help="of methods with reference predictions")
    given = parser.parse_args()
    if given.references:
        write("validation_references", with_references(chosen(given)))
    else:
        write("validation", without_references(chosen(given)))


def without_references(cases: list[Chosen]) -> list[Row]:
    """Unlearn on all seeds and make the rows of the gaps."""
    rows: list[Row] = []
    for name, seeds in cases:
        for share in [*SMALL.get(name, ()), share_of(name)]:
            gaps: dict[str, list[float]] = {}
            for seed in seeds:
                prepared = case(name, seed, share=share)
                judge = judge_by_retrained(task_of(prepared), prepared.retrained.model)
                gaps.setdefault("original", []).append(judge(prepared.original.model))
                for method, spec in METHODS.items():
                    task = task_of(prepared)
                    run_to_completion(unlearn(spec, task))
                    gaps.setdefault(method, []).append(judge(task.model))
                print(f"{name} {share:.0%} {seed}:", {m: round(found[-1], 2) for m, found in gaps.items()}, flush=True)
            for method, found in gaps.items():
                rows.append(row(found, case=f"{name}, {share:.0%}", method=method, metric="gap", unit="points"))
    return rows


def with_references(cases: list[Chosen]) -> list[Row]:
    """Unlearn with references on all seeds, audit the results and make the rows."""
    rows: list[Row] = []
    for name, seeds in cases:
        runs: dict[str, list[Judged]] = {}
        for seed in seeds:
            prepared = case(name, seed)
            references = references_of(prepared)
            runs.setdefault("original", []).append(judged_model(prepared, prepared.original.model))
            runs.setdefault("retrain", []).append(judged_model(prepared, prepared.again.model))
            for method, spec in WITH_REFERENCES.items():
                runs.setdefault(method, []).append(judged(prepared, spec, references=references))
                found = runs[method][-1]
                print(name, seed, method, found.verdict, f"{found.processor_seconds:.1f} s", found.figures, flush=True)
        for method, judgements in runs.items():
            figures = [{**found.figures, "seconds": found.processor_seconds} for found in judgements]
            rows += metric_rows(figures, case=name, method=method, units=UNITS | DELAYS | {"seconds": "seconds"})
            rows += verdict_rows([found.verdict for found in judgements], case=name, method=method)
    return rows


if __name__ == "__main__":
    main()
