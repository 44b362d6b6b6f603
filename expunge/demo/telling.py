"""How a child of the demo tells how far it is, and its result: a file, replaced whole each time."""

import json
import os
from pathlib import Path
from typing import Any

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
