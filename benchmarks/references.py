"""What attacks with reference models find that a threshold attack does not, on a network small enough for dozens of shadow models.

    python -m benchmarks.references --seeds 0 1 2

A perceptron that memorises noisy 8 x 8 digits; 120 of 800 samples forgotten, 64 shadow models unlearned by each method, 16 repeats.
Controls: the original, in which LiRA must recognise the forget set, and a retrained model, in which U-LiRA must not.
membership_auc is the threshold attack on the loss.
"""

import argparse
import tempfile
from pathlib import Path

from torch import nn

from benchmarks.cells import noisy_digits
from benchmarks.cells import perceptron as network
from benchmarks.writing import Row, row, write
from unlearning.audit.attacks.findings import ReferenceFindings, audit_with_references
from unlearning.audit.attacks.study import make_study
from unlearning.audit.measures import measure
from unlearning.data.objectives import classification
from unlearning.data.samples import SampleSet, partition
from unlearning.data.workload import split_held_out
from unlearning.methods.registry import unlearn
from unlearning.specs import SPECS
from unlearning.specs.audit import ReferenceSpec
from unlearning.specs.training import Recipe
from unlearning.task import Task, run_to_completion
from unlearning.training.loop import fit

CASE = "small digits"
METHODS = ("ltu", "ieu", "salun", "gradient_ascent")
OBJECTIVE = classification(10)
RECIPE = Recipe(epochs=20, batch_size=64, learning_rate=0.1, precision="float32")
NOISE = 0.25
"""Standard deviation, of pixels from 0 to 1."""
UNITS = {"forgetting_score": "score", "forgetting_null": "score", "klom": "nats", "klom_null": "nats"}
"""The unit of all other metrics is AUC."""

Figures = dict[str, dict[str, float]]
"""Values by method and metric."""


def main() -> None:
    """Run all methods and both controls and write the rows."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--shadows", type=int, default=64)
    arguments.add_argument("--repeats", type=int, default=16)
    given = arguments.parse_args()
    spec = ReferenceSpec(shadows=given.shadows, repeats=given.repeats)
    with tempfile.TemporaryDirectory() as folder:
        runs = [one(seed, spec=spec, folder=Path(folder)) for seed in given.seeds]
    rows: list[Row] = []
    for method in runs[0]:
        for metric in runs[0][method]:
            values = [run[method][metric] for run in runs]
            rows.append(row(values, case=CASE, method=method, metric=metric, unit=UNITS.get(metric, "AUC")))
    write("references", rows)


def one(seed: int, *, spec: ReferenceSpec, folder: Path) -> Figures:
    """Run every method on one seed's split, with its original and its retrained model."""
    train, held_out, test = partition(samples(), (800, 500, 400), seed=seed)
    forget, remain = partition(train, (120, 680), seed=seed)
    parts = split_held_out(held_out)
    original, retrained = (
        fit(network, samples_, RECIPE, objective=OBJECTIVE, seed=s)
        for samples_, s in ((train, seed), (remain, seed + 1000))
    )
    figures: Figures = {}

    def task() -> Task:
        model = network()
        model.load_state_dict(original.state_dict())
        return Task(
            model=model.eval(),
            build=network,
            objective=OBJECTIVE,
            recipe=RECIPE,
            forget=forget,
            remain=remain,
            guide=parts.guide,
            criterion=parts.criterion,
            seed=seed,
        )

    def population(model: nn.Module) -> float:
        found = measure(
            model, forget=forget, remain=remain, held_out=parts.audit, test=test, objective=OBJECTIVE, seed=seed
        )
        return found["membership_auc"]

    for kind in METHODS:
        given = task()
        run_to_completion(unlearn(SPECS[kind](), given))
        of = make_study(SPECS[kind](), task(), parts.audit, seed=seed)
        found = run_to_completion(audit_with_references(of, unlearned=given.model, spec=spec, folder=folder))
        figures[kind] = {"membership_auc": population(given.model), **_aucs(found, "unlearned"), **_distances(found)}
        if "original" not in figures:
            control = run_to_completion(audit_with_references(of, unlearned=retrained, spec=spec, folder=folder))
            figures["original"] = {"membership_auc": population(original), **_aucs(found, "original")}
            figures["retrained"] = {"membership_auc": population(retrained), **_aucs(control, "unlearned")}
        print(f"seed {seed}, {kind}: {figures[kind]}", flush=True)
    return figures


def samples() -> SampleSet:
    """Load scikit-learn's digits, (n, 64), and add noise."""
    images, targets = noisy_digits(NOISE)
    return SampleSet(ids=tuple(map(str, range(len(images)))), inputs=images.flatten(1), targets=targets)


def _aucs(found: ReferenceFindings, which: str) -> dict[str, float]:
    return {f"{name}_auc": attack.auc.value for name, attack in getattr(found, which).items()}


def _distances(found: ReferenceFindings) -> dict[str, float]:
    if found.klom is None or found.forgetting is None:
        return {}
    return {
        "klom": found.klom.mean,
        "klom_null": found.klom.null_mean,
        "forgetting_score": found.forgetting.score,
        "forgetting_null": found.forgetting.null,
    }


if __name__ == "__main__":
    main()
