"""Many long runs, so that an audit can be resumed: their results are stored on disk, their models are not; and what runs cost."""

import io
import itertools
import time
import zipfile
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearning import ranks
from unlearning.files import write_atomically
from unlearning.steps import Progress, map_progress

Arrays = dict[str, NDArray[Any]]
Run = Callable[[int], Generator[Progress, None, Arrays]]
"""A run by its number, which seeds it: the runs do not depend on each other."""

PHASE = "references"
"""The phase of the progress."""

_TIMED_STEPS = 6
_TIMED_SECONDS = 20.0


def cached_runs(run: Run, *, count: int, folder: Path) -> Generator[Progress, None, list[Arrays]]:
    """Return the results of runs 0 to `count` − 1, each read from `folder`, or run and written there if missing.

    If it is killed and called again, only the run in progress is lost. Ranks do each run together; the first one's folder counts.
    Yields after each step of a run: `step` counts the finished runs, the metric `run` is the progress of the present one, 0 to 1.
    Raises OSError if it cannot write.
    """
    ranks.by_first(partial(folder.mkdir, parents=True, exist_ok=True))
    results = []
    for number in range(count):
        path = _path(folder, number)
        found = ranks.by_first(partial(_read, path))
        if found is None:
            found = yield from map_progress(run(number), partial(_run_progress, number=number, count=count))
            ranks.by_first(partial(write_atomically, path, _to_npz(found)))
        results.append(found)
        yield Progress(phase=PHASE, step=number + 1, total=count, metrics={"run": 1.0})
    return results


def _run_progress(inner: Progress, *, number: int, count: int) -> Progress:
    return Progress(phase=PHASE, step=number, total=count, metrics={"run": inner.step / max(1, inner.total)})


def finished_count(folder: Path, *, count: int) -> int:
    """Count the runs whose results are stored."""
    return sum(_path(folder, number).is_file() for number in range(count))


def estimate_seconds(steps: Generator[Progress, None, Any]) -> float:
    """Take the first steps of a run, close it, and estimate the seconds of the whole run.

    The first step also prepares, so the others are estimated without it.
    """
    started = time.perf_counter()
    marks: list[tuple[int, float]] = []  # the step, and when it was done
    total = 0
    for progress in itertools.islice(steps, _TIMED_STEPS):
        dict(progress.metrics)  # Reading the figures waits until a GPU has computed the step.
        marks.append((progress.step, time.perf_counter()))
        total = progress.total
        if len(marks) > 1 and ranks.agreed(marks[-1][1] - started) > _TIMED_SECONDS:
            break  # A step may be a whole epoch.
    steps.close()
    if len(marks) < 2:
        return time.perf_counter() - started
    (first, begun), (last, ended) = marks[0], marks[-1]
    return begun - started + (total - first) * (ended - begun) / max(1, last - first)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:04}.npz"


def _read(path: Path) -> Arrays | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            return dict(content)
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, EOFError):
        return None


def _to_npz(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes allow_pickle for one of the arrays
    return buffer.getvalue()
