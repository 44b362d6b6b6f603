"""What attacks with shadow models recognise after unlearning, with and without reference predictions.

    python -m benchmarks.attacks --seeds 100 101 102

A perceptron that memorises noisy 8 x 8 digits; 120 of 800 samples forgotten, 64 shadow models unlearned by each method, and 16
repeats of the whole run for KLoM. With references every shadow model and every repeat unlearns with references of its own,
which models without a part of its own training set made. Controls: the original, in which LiRA must recognise the forget set,
and a retrained model, in which no attack must. membership_auc is the threshold attack on the loss; klom_null compares retrained
models with other retrained ones. One model says little of so few samples, so every shadow model is attacked too, with the
others as its shadow models: ulira_of_all_auc is the mean AUC after unlearning, lira_of_all_auc that before. No default was
chosen on these seeds. Finished runs are kept in `.bench/`.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.cases import bench_folder
from benchmarks.cells import noisy_digits
from benchmarks.cells import perceptron as network
from benchmarks.writing import Row, row, write
from unlearning.audit.attacks.findings import ReferenceFindings, audit_with_references
from unlearning.audit.attacks.study import make_study, own_references, run_method
from unlearning.audit.measures import measure
from unlearning.data.objectives import classification
from unlearning.data.samples import SampleSet, partition
from unlearning.data.workload import HeldOut, split_held_out
from unlearning.specs import SPECS
from unlearning.specs.audit import ReferenceSpec
from unlearning.specs.references import ReferencePlan
from unlearning.specs.training import Recipe
from unlearning.steps import run_to_completion
from unlearning.task import Task
from unlearning.training.loop import fit

CASE = "small digits"
METHODS: dict[str, tuple[str, ReferencePlan | None]] = {
    "matching": ("matching", ReferencePlan()),
    "ieu": ("ieu", ReferencePlan()),
    "ltu": ("ltu", ReferencePlan()),
    "ieu_without_references": ("ieu", None),
    "ltu_without_references": ("ltu", None),
    "salun": ("salun", None),
    "gradient_ascent": ("gradient_ascent", None),
}
"""By the name in the table: the method at its defaults, and its references."""
OBJECTIVE = classification(10)
RECIPE = Recipe(epochs=20, batch_size=64, learning_rate=0.1, precision="float32")
NOISE = 0.25
"""Standard deviation, of pixels from 0 to 1."""
UNITS = {"forgetting_score": "score", "forgetting_null": "score", "klom": "nats", "klom_null": "nats"}
"""The unit of all other metrics is AUC."""

Figures = dict[str, float]
"""Values by metric."""


def main() -> None:
    """Run all methods and both controls and write the rows after each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--shadows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=16)
    given = parser.parse_args()
    torch.set_num_threads(1)
    spec = ReferenceSpec(shadows=given.shadows, repeats=given.repeats)
    runs: dict[str, list[Figures]] = {}
    for method in given.methods:
        for seed in given.seeds:
            for name, figures in one(method, seed, spec=spec, folder=_folder(seed)).items():
                if method == given.methods[0] or name == method:
                    runs.setdefault(name, []).append(figures)
                    print(f"seed {seed}, {name}: {figures}", flush=True)
        write("attacks", rows_of(runs))


def rows_of(runs: dict[str, list[Figures]]) -> list[Row]:
    """Make the rows of all methods."""
    return [
        row([run[metric] for run in found], case=CASE, method=method, metric=metric, unit=UNITS.get(metric, "AUC"))
        for method, found in runs.items()
        for metric in found[0]
    ]


def one(method: str, seed: int, *, spec: ReferenceSpec, folder: Path) -> dict[str, Figures]:
    """Audit a method on one seed's split; gives the figures of the original and a retrained model too."""
    train, held_out, test = partition(samples(), (800, 500, 400), seed=seed)
    forget, remain = partition(train, (120, 680), seed=seed)
    parts = split_held_out(held_out)
    original, retrained = (
        fit(network, samples_, RECIPE, objective=OBJECTIVE, seed=s)
        for samples_, s in ((train, seed), (remain, seed + 1000))
    )
    kind, plan = METHODS[method]
    given = task(original, forget, remain, parts, seed)
    study = make_study(SPECS[kind](), given, parts.audit, seed=seed, plan=plan)
    unlearned = network()
    unlearned.load_state_dict(original.state_dict())
    references = run_to_completion(own_references(study, forget, seed=seed, folder=folder / "references"))
    run_to_completion(run_method(study, unlearned.eval(), forget, seed=seed, references=references))

    def population(model: nn.Module) -> Figures:
        found = measure(
            model, forget=forget, remain=remain, held_out=parts.audit, test=test, objective=OBJECTIVE, seed=seed
        )
        return {"membership_auc": found["membership_auc"]}

    found = run_to_completion(audit_with_references(study, unlearned=unlearned, spec=spec, folder=folder))
    control = run_to_completion(
        audit_with_references(study, unlearned=retrained, spec=replace(spec, repeats=0), folder=folder)
    )
    return {
        method: population(unlearned)
        | _aucs(found, "unlearned")
        | {"ulira_of_all_auc": found.each_shadow["u_lira"].value}
        | _distances(found),
        "original": population(original)
        | _aucs(found, "original")
        | {"lira_of_all_auc": found.each_shadow["lira"].value},
        "retrained": population(retrained) | _aucs(control, "unlearned"),
    }


def task(original: nn.Module, forget: SampleSet, remain: SampleSet, held_out: HeldOut, seed: int) -> Task:
    """Make the task of the audited run."""
    return Task(
        model=original.eval(),
        build=network,
        objective=OBJECTIVE,
        recipe=RECIPE,
        forget=forget,
        remain=remain,
        guide=held_out.guide,
        criterion=held_out.criterion,
        seed=seed,
    )


def samples() -> SampleSet:
    """Load scikit-learn's digits, (n, 64), and add noise."""
    images, targets = noisy_digits(NOISE)
    return SampleSet(ids=tuple(map(str, range(len(images)))), inputs=images.flatten(1), targets=targets)


def _folder(seed: int) -> Path:
    return bench_folder() / f"attacks-{seed}"


def _aucs(found: ReferenceFindings, which: str) -> Figures:
    attacks = getattr(found, which).items()
    return {f"{name.replace('u_lira', 'ulira')}_auc": attack.auc.value for name, attack in attacks}


def _distances(found: ReferenceFindings) -> Figures:
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
