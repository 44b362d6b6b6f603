"""The methods that are compared, each with the parameters that the same budgeted search found on a validation forget split.

The search (`unlearning/search.py`) forgets samples that need not be forgotten, on a seed that no table reports, judged against a
model retrained without them; it sees neither the evaluating attack nor the test set. What it found is in `results/tuned.json`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.cases import case, trained
from benchmarks.judging import task_of
from benchmarks.writing import RESULTS
from unlearning.search import against_oracle, search, validation
from unlearning.specs import IEU, LTU, SPECS, Spec, to_json
from unlearning.specs.parsing import restored

ALL = tuple(kind for kind in SPECS if kind != "retrain")
AT_DEFAULTS: dict[str, Spec] = {"ltu": LTU(), "ieu": IEU()}
"""The project's own methods as they come, unsearched."""
SEED = 50
"""The validation seed, in no table."""
FILE = RESULTS / "tuned.json"


def tuned(name: str) -> dict[str, Spec]:
    """The spec of each method for a case; the defaults for what was not searched."""
    found = _read().get(name, {})
    return {kind: restored(found[kind]["spec"]) if kind in found else SPECS[kind]() for kind in ALL}


def main() -> None:
    """Search each method's parameters on each case that is named."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--case", default="digits")
    arguments.add_argument("--budget", type=int, default=8)
    arguments.add_argument("--methods", nargs="*", default=ALL)
    given = arguments.parse_args()
    prepared = case(given.case, SEED)
    make = validation(task_of(prepared), size=len(prepared.forget), seed=SEED)
    oracle = trained(prepared.workload, make().remain, seed=SEED).model
    for kind in given.methods:
        steps = search(SPECS[kind](), make, against_oracle(make(), oracle), budget=given.budget, seed=SEED)
        while True:
            try:
                trial = next(steps)
            except StopIteration as end:
                found = end.value
                break
            print(f"{given.case} {kind}: {trial.score:.2f} points in {trial.seconds:.1f} s", flush=True)
        content = _read()
        content.setdefault(given.case, {})[kind] = {
            "spec": to_json(found.spec),
            "budget": given.budget,
            "scores": [round(trial.score, 3) for trial in found.trials],
        }
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(json.dumps(content, indent=2) + "\n")


def _read(path: Path = FILE) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}
    return found


if __name__ == "__main__":
    main()
