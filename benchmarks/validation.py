"""How near LTU and IEU come at their defaults on the validation seeds, those on which the defaults are chosen.

    python -m benchmarks.validation --case digits cifar=50

Small forget sets and large ones. The gap is what the search of parameters goes by: against a model retrained without the forget
set, over accuracy on the forget set, on the remaining and on held-out data, and the probability of the forget set's classes.
Neither the evaluating attack nor the test set is looked at. LTU with a longer inner step stands beside its default.
"""

from benchmarks.ablation import LARGE_INNER_RATE
from benchmarks.cases import case, share_of
from benchmarks.command_line import cases_and_seeds
from benchmarks.judging import task_of
from benchmarks.methods import AT_DEFAULTS
from benchmarks.writing import Row, row, write
from unlearning.methods.registry import unlearn
from unlearning.specs import LTU
from unlearning.training.loop import drain
from unlearning.tuning import against_oracle

SEEDS = (20, 21, 22, 23, 24, 25)
METHODS = {**AT_DEFAULTS, f"ltu, inner rate {LARGE_INNER_RATE:g}": LTU(inner_rate=LARGE_INNER_RATE)}
SMALL = {"digits": (0.02,)}
"""Smaller shares of the training set that are forgotten too."""


def main() -> None:
    """Unlearn on all seeds and write the gaps."""
    rows: list[Row] = []
    for name, seeds in cases_and_seeds(__doc__, default=SEEDS):
        for share in [*SMALL.get(name, ()), share_of(name)]:
            gaps: dict[str, list[float]] = {}
            for seed in seeds:
                prepared = case(name, seed, share=share)
                judge = against_oracle(task_of(prepared), prepared.retrained.model)
                gaps.setdefault("original", []).append(judge(prepared.original.model))
                for method, spec in METHODS.items():
                    task = task_of(prepared)
                    drain(unlearn(spec, task))
                    gaps.setdefault(method, []).append(judge(task.model))
                print(f"{name} {share:.0%} {seed}:", {m: round(found[-1], 2) for m, found in gaps.items()}, flush=True)
            for method, found in gaps.items():
                rows.append(row(found, case=f"{name}, {share:.0%}", method=method, metric="gap", unit="points"))
    write("validation", rows)


if __name__ == "__main__":
    main()
