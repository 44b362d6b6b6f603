"""How a child of the demo tells how far it is, and its result: a file, replaced whole each time."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from expunge.errors import DemoFailed
from expunge.stack.process import Child, Program, start, tail
from expunge.stack.services import PASSIVE
from expunge.stack.stack import stop_all

Json = dict[str, Any]


def tell(state: Path, *, step: int, total: int, result: Json | None = None) -> None:
    """Say, in the child, how far it is, and what there is of its result.

    The reader sees the old file or the new one, never half of one.
    """
    new = state.with_suffix(".new")
    new.write_text(json.dumps({"step": step, "total": total, "result": result}))
    os.replace(new, state)


def read(state: Path) -> Json:
    """Read what a child has told last; nothing before the first time."""
    try:
        told: Json = json.loads(state.read_text())
    except FileNotFoundError:
        return {}
    return told


ONE_THREAD = {**PASSIVE, "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Running:
    """A child at work, and where it tells of it."""

    child: Child
    state: Path


@dataclass(frozen=True, slots=True)
class Stage:
    """Where children play: a folder for what they tell and log, the bars that follow them, those that run."""

    folder: Path
    bars: Progress
    children: list[Child]


@contextmanager
def stage(folder: Path, bars: Progress) -> Iterator[Stage]:
    """Give a stage; whatever happens, every child on it is stopped."""
    children: list[Child] = []
    try:
        yield Stage(folder, bars, children)
    finally:
        stop_all(children)


def launch(module: str, arguments: Json, *, name: str, on: Stage) -> Running:
    """Start a child, with a bar of its own that follows it."""
    file = on.folder / f"{name.replace(' ', '-')}.json"
    program = Program(
        name=name,
        command=(sys.executable, "-m", module, json.dumps(arguments), str(file)),
        log=file.with_suffix(".log"),
        ready=lambda: True,
        environment=ONE_THREAD,
        stop_within=2.0,
    )
    running = Running(start(program), file)
    on.children.append(running.child)
    bar = on.bars.add_task(name, total=None)
    threading.Thread(target=follow, args=(running, on.bars, bar), daemon=True).start()
    return running


def follow(running: Running, bars: Progress, bar: TaskID) -> None:
    """Keep a bar where its child is, until the child has ended."""
    ended = False
    while not ended:
        ended = running.child.process.poll() is not None
        state = read(running.state)
        bars.update(bar, total=state.get("total"), completed=state.get("step", 0))
        time.sleep(0.2)


def check(running: Running) -> bool:
    """Tell whether the child has ended. Raises DemoFailed, with its log's tail, where it has failed."""
    status, program = running.child.process.poll(), running.child.program
    if status:
        raise DemoFailed(f"{program.name} ended with status {status}.{tail(program.log)}")
    return status is not None


def result(running: Running) -> Json:
    """Wait for the child's result. Raises DemoFailed."""
    while not check(running):
        time.sleep(0.1)
    found: Json = read(running.state)["result"]
    return found
