"""Resolve a registered `module:factory` into a workload, under the operator's allow-list only."""

import importlib
from collections.abc import Callable, Sequence

from unlearning.workload import Workload
from worker.errors import WorkloadFailed, WorkloadNotAllowed

LONGEST_MESSAGE = 300
"""Characters of a factory's own error that are passed on."""


def load_workload(reference: str, *, allowed: Sequence[str]) -> Workload:
    """Call the factory that `reference` names, e.g. `examples.digits:workload`.

    Raises WorkloadNotAllowed before anything is imported, WorkloadFailed where the module or the factory raises.
    A factory does not know who asked for what, so that its own message can be shown.
    """
    factory = find_factory(reference, allowed=allowed)
    try:
        workload = factory()
    except Exception as error:
        raise _failed(reference, error) from error
    if not isinstance(workload, Workload):
        raise WorkloadFailed(
            f"Workload {reference!r} returned a {type(workload).__name__}; a factory returns a Workload."
        )
    return workload


def find_factory(reference: str, *, allowed: Sequence[str]) -> Callable[[], object]:
    """Import a factory's module and give the factory, without calling it. Raises WorkloadNotAllowed, WorkloadFailed."""
    module, _, name = reference.partition(":")
    check_allowed(reference, allowed=allowed)
    try:
        factory: Callable[[], object] = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise _failed(reference, error) from error
    return factory


def _failed(reference: str, error: Exception) -> WorkloadFailed:
    message = str(error)[:LONGEST_MESSAGE]
    return WorkloadFailed(f"Workload {reference!r} raised {type(error).__name__}: {message}")


def check_allowed(reference: str, *, allowed: Sequence[str]) -> None:
    """Raise WorkloadNotAllowed unless `reference` is `module:factory` with a module under the allow-list."""
    module, _, name = reference.partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise WorkloadNotAllowed(f"Workload {reference!r} is not of the form module:factory.")
    if not any(module == prefix or module.startswith(f"{prefix}.") for prefix in allowed):
        raise WorkloadNotAllowed(
            f"Workload {reference!r} is not under the allow-list ({', '.join(allowed) or 'empty'}); "
            "the operator adds its module to EXPUNGE_WORKLOADS."
        )
