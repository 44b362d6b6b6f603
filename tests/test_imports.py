"""What each package must do without, shown by taking it away. import-linter reads the imports; this runs them."""

import pkgutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import ledger
import report
import service
import unlearning.specs
import verifier

BLOCK = """
import importlib, sys
forbidden, modules = {forbidden!r}, {modules!r}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in forbidden:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
for name in modules:
    importlib.import_module(name)
print(sorted(sys.modules))
"""
LIBRARY = [
    "unlearning.methods.registry",
    "unlearning.training.loop",
    "unlearning.storage",
    "unlearning.data.workload",
    "unlearning.audit.audit",
]
SPECS = ["unlearning.errors", "unlearning.specs"]


PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def modules_of(package: object) -> list[str]:
    return [name for _, name, _ in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]


def modules_in(folder: Path, package: str) -> set[str]:
    """The names of a package's modules, by its files."""
    paths = [path.relative_to(folder).with_suffix("") for path in (folder / package).rglob("*.py")]
    return {".".join(path.parts).removesuffix(".__init__") for path in paths}


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (modules_of(ledger), ["fastapi", "celery", "torch", "service", "worker", "unlearning", "expunge"]),
        (
            modules_of(report),
            ["torch", "sqlalchemy", "fastapi", "ledger", "service", "worker", "unlearning", "expunge"],
        ),
        (
            modules_of(verifier),
            ["ledger", "service", "worker", "unlearning", "expunge", "sqlalchemy", "pydantic", "rfc8785", "typer"],
        ),
        (modules_of(service), ["torch", "torchvision", "worker", "expunge"]),
        (LIBRARY, ["fastapi", "celery", "sqlalchemy", "pydantic", "ledger", "service", "worker", "expunge"]),
        ([*SPECS, *modules_of(unlearning.specs)], ["torch", "numpy", "ledger", "service", "worker", "expunge"]),
    ],
    ids=["ledger", "report", "verifier", "service", "unlearning", "specs"],
)
def test_it_imports_without_what_it_must_not_know(modules: list[str], forbidden: list[str]) -> None:
    assert modules
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.format(forbidden=forbidden, modules=modules)], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr


def test_no_module_imports_itself_by_way_of_others() -> None:
    packages = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["root_packages"]
    graph = grimp.build_graph(*packages, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert imports.keys() == {name for package in packages for name in modules_in(PYPROJECT.parent, package)}
    TopologicalSorter(imports).prepare()  # raises CycleError, with the circle
