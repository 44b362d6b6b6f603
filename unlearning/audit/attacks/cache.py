"""Long runs that are resumed: what a model showed is kept on disk, run by run; the model itself is not."""

import os
import tempfile
import zipfile
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearning.task import Progress, map_progress

Arrays = dict[str, NDArray[Any]]
Run = Callable[[int], Generator[Progress, None, Arrays]]
"""The run of a number: seeded by it, so that it does not matter which were done before."""

PHASE = "references"


def resumable(run: Run, *, count: int, folder: Path) -> Generator[Progress, None, list[Arrays]]:
    """The results of runs 0 to `count` − 1, each taken from `folder` where it is there, else made and written.

    Killed at any moment and called again, it loses the run that was under way and nothing else. Yields after each step of a run:
    `step` counts finished runs, the metric `run` is how far the present one is, 0 to 1. Raises OSError where it cannot write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for number in range(count):
        path = _path(folder, number)
        found = _read(path)
        if found is None:
            found = yield from map_progress(run(number), partial(_of_run, number=number, count=count))
            _write(path, found)
        results.append(found)
        yield Progress(phase=PHASE, step=number + 1, total=count, metrics={"run": 1.0})
    return results


def _of_run(inner: Progress, *, number: int, count: int) -> Progress:
    return Progress(phase=PHASE, step=number, total=count, metrics={"run": inner.step / max(1, inner.total)})


def finished(folder: Path, *, count: int) -> int:
    """How many of the runs are there already."""
    return sum(_path(folder, number).is_file() for number in range(count))


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:04}.npz"


def _read(path: Path) -> Arrays | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            return dict(content)
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, EOFError):
        return None


def _write(path: Path, arrays: Arrays) -> None:
    """The file appears by a rename, whole."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-", suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes allow_pickle for one of the arrays
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
