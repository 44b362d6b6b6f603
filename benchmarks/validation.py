"""How near LTU and IEU come to retraining at their defaults, on the validation seeds, on which the defaults are chosen.

    python -m benchmarks.validation --case digits cifar=50

For small and large forget sets. The gap is the tuning's score (`unlearning.tuning.judge_by_retrained`): it uses neither the
evaluating attack nor the test set. LTU with a longer inner step is given beside its default.
"""

from benchmarks.ablation import LARGE_INNER_RATE
from benchmarks.cases import case, share_of
from benchmarks.command_line import cases_and_seeds
from benchmarks.judging import task_of
from benchmarks.methods import AT_DEFAULTS
from benchmarks.writing import Row, row, write
from unlearning.methods.registry import unlearn
from unlearning.specs import LTU
from unlearning.steps import run_to_completion
from unlearning.tuning import judge_by_retrained

SEEDS = (20, 21, 22, 23, 24, 25)
METHODS = {**AT_DEFAULTS, f"ltu, inner rate {LARGE_INNER_RATE:g}": LTU(inner_rate=LARGE_INNER_RATE)}
SMALL = {"digits": (0.02,)}
"""Smaller shares of the training set to forget too."""


def main() -> None:
    """Unlearn on all seeds and write the gaps."""
    rows: list[Row] = []
    for name, seeds in cases_and_seeds(__doc__, default=SEEDS):
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
    write("validation", rows)


if __name__ == "__main__":
    main()
