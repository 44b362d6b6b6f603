"""How large the house is: product files, their lines, public names used once, and the modules that one request passes through.

    python -m benchmarks.structure              this checkout
    python -m benchmarks.structure PATH MODULE  another checkout, and where a request enters it (default: as in this one)

A request is followed by imports: all modules that the routes of unlearn requests and the worker's run reach, without the library
(`unlearning`), whose modules depend on the method.
"""

import ast
import re
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOMS = ("report", "ledger", "service", "worker", "unlearning", "expunge", "verifier", "telemetry", "connectors")
ENTRIES = ("service.api.unlearn_requests", "worker.run")


def main() -> None:
    """Print the counts of a checkout."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent
    entries = (sys.argv[2], ENTRIES[1]) if len(sys.argv) > 2 else ENTRIES
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=root, capture_output=True, text=True, check=True).stdout
    sources = {name: (root / name).read_text() for name in listed.split() if not name.startswith("tests/")}
    product = {name: text for name, text in sources.items() if name.split("/")[0] in ROOMS}
    files = {name: text for name, text in product.items() if not name.endswith("__init__.py")}
    used = Counter(word for text in sources.values() for word in re.findall(r"[A-Za-z_]\w*", text))
    public = [name for text in files.values() for name in public_names(text)]
    print(f"product files: {len(files)}")
    print(f"lines in the middle: {statistics.median(len(text.splitlines()) for text in files.values()):g}")
    print(f"public functions and classes: {len(public)}, named once: {sum(used[name] == 1 for name in public)}")
    print(f"modules that a request reaches: {len(reached(product, entries))}")


def public_names(text: str) -> list[str]:
    """List a module's public functions and classes."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in ast.parse(text).body if isinstance(node, kinds) and not node.name.startswith("_")]


def reached(product: dict[str, str], entries: tuple[str, ...]) -> set[str]:
    """Follow imports from the entries; packages' `__init__` modules and the library do not count."""
    modules = {name.removesuffix(".py").replace("/", "."): text for name, text in product.items()}
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        if module in found or module not in modules or module.startswith("unlearning"):
            continue
        found.add(module)
        for node in ast.walk(ast.parse(modules[module])):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return {module for module in found if not module.endswith("__init__")}


if __name__ == "__main__":
    main()
