"""What reference predictions bring to requests of a few samples: the cost of matching, and the reference test's decisions.

    python -m benchmarks.few_samples --case digits --seeds 100 101 102

Each case but the digits has a file of results of its own. A case's forget set is drawn as in the other tables. Random subsets of it
are put to the reference test on the original, which must fail, on the retrained model, which never saw them, and on a second
retrained one. Matching then forgets some by themselves. No default was chosen on these seeds.
"""

import copy
from collections.abc import Sequence

import numpy as np
from torch import nn

from benchmarks.cases import Case, case, keys, references_of, subset, without
from benchmarks.command_line import case_parser, chosen
from benchmarks.judging import task_of
from benchmarks.machine import seconds
from benchmarks.verdicts import DECISIONS, verdict_rows
from benchmarks.writing import Row, of_case, row, write
from unlearning.audit.reference_test import ReferenceTest, reference_test, signals_by_reference
from unlearning.data.references import References
from unlearning.data.samples import SampleSet
from unlearning.methods.registry import unlearn
from unlearning.specs import Matching
from unlearning.specs.audit import Thresholds
from unlearning.steps import run_to_completion
from unlearning.training.references import sample_signals

SIZES = (1, 3, 10, 30, 100, 300)
SUBSETS = 20
"""Random subsets of each size and seed that are tested."""
FORGOTTEN = 3
"""Random subsets of each size and seed that matching forgets by itself."""


def main() -> None:
    """Measure all seeds of all cases and write the rows."""
    parser = case_parser(__doc__, cases=("digits",))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of the subsets")
    given = parser.parse_args()
    for name, seeds in chosen(given):
        file = of_case("few_samples", name)
        cases = [case(name, seed) for seed in seeds]
        references = [references_of(one) for one in cases]
        rows: list[Row] = []
        for size in given.sizes:
            rows += decisions(cases, references, size) + alone(cases, references, size)
            write(file, rows)


def decisions(cases: Sequence[Case], references: Sequence[References], size: int) -> list[Row]:
    """Count how the reference test decides on random subsets of one size, by model."""
    outcomes: dict[str, list[bool | None]] = {}
    for one, made in zip(cases, references, strict=True):
        models = {"original": one.original.model, "retrained": one.retrained.model, "retrain": one.again.model}
        rng = np.random.default_rng([one.seed, size])
        subsets = [subset(one.forget, size, rng) for _ in range(1 if size >= len(one.forget) else SUBSETS)]
        for label, model in models.items():
            tests = [test_of(one, model, made, forget, one.remain) for forget in subsets]
            outcomes.setdefault(label, []).extend(found.passed for found in tests)
    name = f"{cases[0].name}, {size} samples"
    return [
        one_row
        for label, found in outcomes.items()
        for one_row in verdict_rows([DECISIONS[passed] for passed in found], case=name, method=label)
    ]


def alone(cases: Sequence[Case], references: Sequence[References], size: int) -> list[Row]:
    """Let matching forget random subsets by themselves: its share of retraining, and the reference test on the result."""
    shares: list[float] = []
    outcomes: list[bool | None] = []
    for one, made in zip(cases, references, strict=True):
        rng = np.random.default_rng([one.seed, size, 1])
        for _ in range(1 if size >= len(one.forget) else FORGOTTEN):
            task = task_of(one)
            task.forget = subset(one.forget, size, rng)
            task.remain = without(one.workload.train, task.forget)
            task.references = made.for_method(keys(task.forget))
            begun = seconds()
            run_to_completion(unlearn(Matching(), task))
            shares.append((seconds() - begun) / one.retrained.seconds)
            outcomes.append(test_of(one, task.model, made, task.forget, task.remain).passed)
    name = f"{cases[0].name}, {size} samples"
    return [
        row(shares, case=name, method="matching", metric="retrain_ratio", unit="ratio"),
        *verdict_rows([DECISIONS[passed] for passed in outcomes], case=name, method="matching"),
    ]


def test_of(one: Case, model: nn.Module, made: References, forget: SampleSet, remain: SampleSet) -> ReferenceTest:
    """Run the reference test on a model."""
    sets = {"forget": forget, "held_out": one.held_out.audit, "remain": remain}
    frozen = copy.deepcopy(model).eval()
    signals = {
        name: signals_by_reference(
            sample_signals(frozen, samples, one.workload.objective)[0].double().numpy(),
            made.take(keys(samples)),
        )
        for name, samples in sets.items()
    }
    return reference_test(**signals, thresholds=Thresholds(), seed=one.seed)


if __name__ == "__main__":
    main()
