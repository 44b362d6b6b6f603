"""The compared methods: the project's own at their defaults, baselines as a budgeted search tuned them on a validation split.

The search (`unlearning/tuning.py`) uses seeds that no table reports and compares with models retrained without the split; it sees
neither the evaluating attack nor the test set. Its results are in `results/tuned.json`.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cases import case, trained
from benchmarks.judging import task_of
from benchmarks.writing import RESULTS
from unlearning.specs import IEU, LTU, SPECS, Matching, Spec
from unlearning.specs.parsing import parse_any
from unlearning.task import Task
from unlearning.tuning import Judge, judge_by_retrained, search, validation_task

ALL = (
    "ltu",
    "ieu",
    "gradient_ascent",
    "fine_tune",
    "neggrad_plus",
    "random_labels",
    "amnesiac_relabel",
    "fisher_noise",
    "ssd",
    "bad_teacher",
    "salun",
    "msg",
    "ct",
)
"""The methods for image classifiers that need nothing beside the model, such as references or slices."""
AT_DEFAULTS: dict[str, Spec] = {"ltu": LTU(), "ieu": IEU()}
"""The project's own methods without reference predictions. Where all methods are compared, these are not tuned."""
WITH_REFERENCES: dict[str, Spec] = {"matching": Matching(), **AT_DEFAULTS}
"""The methods that use reference predictions, at their defaults."""


def without_references(kind: str) -> str:
    """Return the name that a method without reference predictions has in the tables."""
    return f"{kind}_without_references" if kind in WITH_REFERENCES else kind


COMPARED = (*WITH_REFERENCES, *map(without_references, ALL))
"""All methods by their names in the tables: those with references first, then those without."""
SEEDS = (50,)
"""The validation seeds, which are in no table: one model and one forget split each."""
FILE = RESULTS / "tuned.json"


def tuned(name: str) -> dict[str, Spec]:
    """Return the spec of each method for a case: the tuned one, or the defaults if it was not tuned."""
    found = _read().get(name, {})
    return {kind: parse_any(found[kind]["spec"]) if kind in found else SPECS[kind]() for kind in ALL}


def spec_of(method: str, case_name: str) -> tuple[Spec, bool]:
    """Return the spec that a compared method has on a case, and whether it gets reference predictions. method: of `COMPARED`."""
    if method in WITH_REFERENCES:
        return WITH_REFERENCES[method], True
    kind = method.removesuffix("_without_references")
    return AT_DEFAULTS.get(kind) or tuned(case_name)[kind], False


def main() -> None:
    """Tune each method on a case: choose the parameters with the least mean gap over the seeds."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--case", default="digits")
    arguments.add_argument("--budget", type=int, default=8)
    arguments.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    arguments.add_argument("--methods", nargs="+", choices=ALL, default=ALL)
    given = arguments.parse_args()
    splits = [_split(given.case, seed) for seed in given.seeds]
    for kind in given.methods:
        rounds = zip(
            *(search(SPECS[kind](), make, judge, budget=given.budget, seed=SEEDS[0]) for make, judge in splits),
            strict=True,
        )
        scores: dict[Spec, float] = {}
        for trials in rounds:
            scores[trials[0].spec] = sum(trial.score for trial in trials) / len(trials)
            print(f"{given.case} {kind}: {[round(trial.score, 2) for trial in trials]} points", flush=True)
        content = _read()
        content.setdefault(given.case, {})[kind] = {
            "spec": asdict(min(scores, key=lambda spec: scores[spec])),
            "budget": given.budget,
            "seeds": list(given.seeds),
            "scores": [round(score, 3) for score in scores.values()],
        }
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(json.dumps(content, indent=2) + "\n")


def _split(name: str, seed: int) -> tuple[Callable[[], Task], Judge]:
    prepared = case(name, seed)
    make = validation_task(task_of(prepared), size=len(prepared.forget), seed=seed)
    return make, judge_by_retrained(make(), trained(prepared.workload, make().remain, seed=seed).model)


def _read(path: Path = FILE) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}
    return found


if __name__ == "__main__":
    main()
