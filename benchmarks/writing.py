"""Results of benchmarks: `benchmarks/results/<name>.json`, one row a figure, from which the tables are generated."""

import dataclasses
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats  # type: ignore[import-untyped]  # scipy ships no type information

from benchmarks.machine import description

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure. n: independent seeds or runs. low, high: a 95 % interval of the mean; equal to the mean if n is 1."""

    case: str
    method: str
    metric: str
    unit: str
    n: int
    mean: float
    low: float
    high: float


def row(values: Sequence[float], *, case: str, method: str, metric: str, unit: str) -> Row:
    """Compute the mean of independent values with Student's 95 % interval."""
    found = np.asarray(values, dtype=np.float64)
    half = 0.0
    if len(found) > 1:
        half = float(stats.t.ppf(0.975, len(found) - 1)) * float(found.std(ddof=1)) / math.sqrt(len(found))
    mean = float(found.mean())
    return Row(
        case=case, method=method, metric=metric, unit=unit, n=len(found), mean=mean, low=mean - half, high=mean + half
    )


def metric_rows(runs: Sequence[Mapping[str, float]], *, case: str, method: str, units: Mapping[str, str]) -> list[Row]:
    """Make a row for each metric that all independent runs have. units: by metric, in the order of the rows."""
    return [
        row([run[metric] for run in runs], case=case, method=method, metric=metric, unit=unit)
        for metric, unit in units.items()
        if all(metric in run for run in runs)
    ]


def share_row(hits: Sequence[bool], *, case: str, method: str, metric: str) -> Row:
    """Compute the share of independent hits with Clopper and Pearson's exact 95 % interval, which stays between 0 and 1."""
    found = stats.binomtest(sum(hits), len(hits))
    low, high = found.proportion_ci(0.95, method="exact")
    return Row(
        case=case,
        method=method,
        metric=metric,
        unit="share",
        n=len(hits),
        mean=float(found.statistic),
        low=float(low),
        high=float(high),
    )


def clustered_share_row(clusters: Sequence[Sequence[bool]], *, case: str, method: str, metric: str) -> Row:
    """Compute the share of hits that are alike within clusters, such as those of one seed, with a 95 % interval.

    The interval is Clopper and Pearson's for as many independent hits as say as much (Korn, Graubard, "Confidence intervals for
    proportions with small expected number of positive counts", Survey Methodology 1998), never for more than there are. One cluster
    says nothing of how alike they are, so its hits count as independent.
    """
    sizes, counts = (np.array([measure(hits) for hits in clusters], dtype=np.float64) for measure in (len, sum))
    n, many = float(sizes.sum()), len(clusters)
    share, effective = float(counts.sum()) / n, n
    if many > 1 and n > many:
        variance = many / (many - 1) * float(((counts - share * sizes) ** 2).sum()) / n**2
        if variance > 0:
            effective = min(n, share * (1 - share) / variance)
        effective *= min(1.0, float(stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, many - 1)) ** 2)
    low = float(stats.beta.ppf(0.025, share * effective, (1 - share) * effective + 1)) if share > 0 else 0.0
    high = float(stats.beta.ppf(0.975, share * effective + 1, (1 - share) * effective)) if share < 1 else 1.0
    return Row(case=case, method=method, metric=metric, unit="share", n=int(n), mean=share, low=low, high=high)


def write(name: str, rows: Sequence[Row]) -> Path:
    """Write the rows to the file `name`, with the command, the commit and the machine that made them."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content(name, rows), indent=2) + "\n")
    return path


def content(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return what the file `name` is to hold: the rows, and the command, the commit and the machine that made them."""
    return {
        "command": shlex.join(["python", "-m", _module(name), *sys.argv[1:]]),
        "commit": commit(),
        "machine": description(),
        "rows": [dataclasses.asdict(r) for r in rows],
    }


def _module(name: str) -> str:
    """Name the module that runs; one that did not start as a benchmark is named by its file of results."""
    started = getattr(sys.modules["__main__"], "__spec__", None)
    found = "" if started is None else started.name.removesuffix(".__main__")
    return found if found.startswith("benchmarks.") else f"benchmarks.{name}"


def of_case(name: str, case: str) -> str:
    """Name the file of a case: each but the digits has one of its own."""
    return name if case == "digits" else f"{name}_{case}"


def read(name: str) -> list[Row]:
    """Read the rows of the file `name`; an empty list if it does not exist."""
    path = RESULTS / f"{name}.json"
    return [Row(**r) for r in json.loads(path.read_text())["rows"]] if path.exists() else []


def commit() -> str:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # a machine without git
        return "unknown"
    return found.stdout.strip() or "unknown"
