"""Reports that the worker has made, recorded by `python -m tests.report.record`."""

import json
from pathlib import Path
from typing import Any

from report.document import Document, read

FOLDER = Path(__file__).parent / "recorded"
NAMES = ("verified", "retrained", "inconclusive", "failed")
"""retrained: the audit had a retrained model. inconclusive: five samples. failed: such a report is never published."""

Json = dict[str, Any]


def stored(name: str) -> Json:
    """The JSON of a recorded report, for a test to change."""
    found: Json = json.loads((FOLDER / f"{name}.json").read_text())
    return found


CERTIFICATE = {
    "epsilon": 1.0,
    "delta": 1e-5,
    "noise": 0.001,
    "statement": "Nobody can tell, with ε = 1.",
    "assumptions": ["The seed is secret."],
}


def recorded(name: str) -> Document:
    """A recorded report."""
    return read(stored(name))
