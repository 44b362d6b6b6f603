"""The methods that are compared, each with the parameters that the same budgeted search found on a validation forget split.

The search (`unlearning/tuning.py`) forgets samples that need not be forgotten, on seeds that no table reports, judged against
models retrained without them; it sees neither the evaluating attack nor the test set. What it found is in `results/tuned.json`.
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
from unlearning.specs import IEU, LTU, SPECS, Spec
from unlearning.specs.parsing import restored
from unlearning.task import Task
from unlearning.tuning import Judge, against_oracle, search, validation

ALL = tuple(kind for kind in SPECS if kind != "retrain")
AT_DEFAULTS: dict[str, Spec] = {"ltu": LTU(), "ieu": IEU()}
"""The project's own methods as they come, unsearched."""
SEEDS = (50,)
"""The validation seeds, in no table: one model and one forget split of each."""
FILE = RESULTS / "tuned.json"


def tuned(name: str) -> dict[str, Spec]:
    """The spec of each method for a case; the defaults for what was not searched."""
    found = _read().get(name, {})
    return {kind: restored(found[kind]["spec"]) if kind in found else SPECS[kind]() for kind in ALL}


def main() -> None:
    """Search each method's parameters on each case that is named: the best by the mean gap over the seeds."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--case", default="digits")
    arguments.add_argument("--budget", type=int, default=8)
    arguments.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    arguments.add_argument("--methods", nargs="+", choices=ALL, default=ALL)
    given = arguments.parse_args()
    splits = [_split(given.case, seed) for seed in given.seeds]
    for kind in given.methods:
        tries = zip(
            *(search(SPECS[kind](), make, judge, budget=given.budget, seed=SEEDS[0]) for make, judge in splits),
            strict=True,
        )
        scores: dict[Spec, float] = {}
        for trials in tries:
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
    make = validation(task_of(prepared), size=len(prepared.forget), seed=seed)
    return make, against_oracle(make(), trained(prepared.workload, make().remain, seed=seed).model)


def _read(path: Path = FILE) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}
    return found


if __name__ == "__main__":
    main()
