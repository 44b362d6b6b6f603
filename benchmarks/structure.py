"""How large the house is: product files, their lines, public names used once, and the way of one request through the code.

    python -m benchmarks.structure                 this checkout
    python -m benchmarks.structure PATH POST RUN   another checkout, and where a request and a job enter it, each as
                                                   module:function:parameter (default: as in this one)

The way is followed without running anything. It starts with the parameter of the entry and goes into every function that is called
by its name with the parameter, or with a variable computed from it, in the order in which the code is written. It does not go into
methods, or into the library (`unlearning`), which differs by method. The request is followed from its route to the commit, and the
job with its forget set from the claim to the published report. Counted are

    modules    that are reached by imports from the two entries, which is what may have to be read
    files      that the way enters
    functions  that it enters; each is read once, and a further call of it counts as a stay alone
    stays      in one file after another; a file that is left and entered again counts again
    returns    stays in a file that was left before
    names      of the variables and parameters that carry what is followed, or what was computed from it
"""

import ast
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOMS = ("report", "ledger", "service", "worker", "unlearning", "expunge", "verifier", "telemetry", "connectors")
POST, RUN = "service.api.unlearn_requests:post_unlearn_request:asked", "worker.run:run_job:job_id"

SESSIONS = {"session", "sessions", "ledger"}
"""The names of database sessions. They go everywhere, and what is read through them is not followed by them."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> None:
    """Print the counts of a checkout."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent
    entries = {"request": sys.argv[2], "job": sys.argv[3]} if len(sys.argv) > 3 else {"request": POST, "job": RUN}
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=root, capture_output=True, text=True, check=True).stdout
    sources = {name: (root / name).read_text() for name in listed.split() if not name.startswith("tests/")}
    product = {name: text for name, text in sources.items() if name.split("/")[0] in ROOMS}
    files = {name: text for name, text in product.items() if not name.endswith("__init__.py")}
    used = Counter(word for text in sources.values() for word in re.findall(r"[A-Za-z_]\w*", text))
    public = [name for text in files.values() for name in public_names(text)]
    modules = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): ast.parse(text)
        for name, text in product.items()
        if not name.startswith("unlearning/")
    }
    print(f"product files: {len(files)}")
    print(f"lines in the middle: {statistics.median(len(text.splitlines()) for text in files.values()):g}")
    print(f"public functions and classes: {len(public)}, named once: {sum(used[name] == 1 for name in public)}")
    packages = {name.removesuffix("/__init__.py").replace("/", ".") for name in product.keys() - files.keys()}
    imported_modules = reached(modules, [entry.split(":")[0] for entry in entries.values()]) - packages
    print(f"modules reached by imports: {len(imported_modules)}")
    for what, entry in entries.items():
        way = follow(modules, entry)
        print(
            f"way of one {what}: {len(set(way.stays))} files, {len(way.read)} functions, {len(way.stays)} stays, "
            f"{len(way.stays) - len(set(way.stays))} returns, {len(way.names)} names"
        )


def public_names(text: str) -> list[str]:
    """List a module's public functions and classes."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in ast.parse(text).body if isinstance(node, kinds) and not node.name.startswith("_")]


def reached(modules: dict[str, ast.Module], entries: list[str]) -> set[str]:
    """Find the modules that the entries import, themselves included, and what these import."""
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        if module in found or module not in modules:
            continue
        found.add(module)
        for node in ast.walk(modules[module]):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


@dataclass
class Way:
    """Where a parameter has been.

    stays: the modules in their order. names: those that carried it. carried: by module and function the parameters that it came in
    by, wherever the function was called. read: the functions that were followed.
    """

    stays: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    carried: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    read: set[tuple[str, str]] = field(default_factory=set)


def follow(modules: dict[str, ast.Module], entry: str) -> Way:
    """Follow a parameter, given as module:function:parameter, to every function that gets it; each function is read once."""
    module, name, parameter = entry.split(":")
    function = functions_of(modules[module])[name]
    way, before = Way(), -1
    while before != sum(map(len, way.carried.values())):  # until no further call brings it in by another parameter
        before = sum(map(len, way.carried.values()))
        way = Way(carried=way.carried)
        enter(way, modules, module, function, {parameter})
    return way


def enter(way: Way, modules: dict[str, ast.Module], module: str, function: Function, carrying: set[str]) -> None:
    """Enter a function with what some of its parameters carry. The first time, enter the functions that it hands that on to."""
    if way.stays[-1:] != [module]:
        way.stays.append(module)
    place = module, function.name
    way.carried.setdefault(place, set()).update(carrying)
    if place in way.read:
        return
    way.read.add(place)
    names = computed_from(function, way.carried[place])
    way.names |= names
    for call in calls(function):
        called, arguments = call.func, call.args
        if isinstance(called, ast.Name) and called.id == "partial" and arguments:
            called, *arguments = arguments
        found = find_function(modules, module, called)
        if found is None:
            continue
        given = [*zip([one.arg for one in found[1].args.args], arguments, strict=False)]
        given += [(one.arg, one.value) for one in call.keywords if one.arg is not None]
        handed = {parameter for parameter, value in given if mentions(value, names)} - SESSIONS
        if handed:
            enter(way, modules, *found, handed)


def computed_from(function: Function, carrying: set[str]) -> set[str]:
    """List a function's variables that are computed from some of its parameters, with these."""
    names = set(carrying)
    before: set[str] = set()
    while before != names:
        before = set(names)
        for node in ast.walk(function):
            match node:
                case ast.Assign(targets=targets, value=value):
                    pairs = [(target, value) for target in targets]
                case (
                    ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value)
                ):
                    pairs = [(target, value)]
                case ast.AugAssign(target=target, value=value):
                    pairs = [(target, value)]
                case ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value):
                    pairs = [(target, value)]
                case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
                    pairs = [(target, value)]
                case _:
                    continue
            for target, value in pairs:
                if mentions(value, names):
                    names |= {one.id for one in ast.walk(target) if isinstance(one, ast.Name)} - SESSIONS
    return names


def mentions(value: ast.AST, names: set[str]) -> bool:
    """Return whether an expression has one of the names in it."""
    return any(isinstance(one, ast.Name) and one.id in names for one in ast.walk(value))


def calls(node: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls in a function as they are made: the calls among a call's arguments come before it."""
    for child in ast.iter_child_nodes(node):
        yield from calls(child)
        if isinstance(child, ast.Call):
            yield child


def find_function(modules: dict[str, ast.Module], module: str, called: ast.expr) -> tuple[str, Function] | None:
    """Find a function that is called by its name, or by its module's and its name; None for a method, a class, another library."""
    match called:
        case ast.Name(id=name):
            own = functions_of(modules[module]).get(name)
            if own is not None:
                return module, own
            source, name = imported(modules[module]).get(name, ("", ""))
        case ast.Attribute(value=ast.Name(id=holder), attr=name):
            source = ".".join(imported(modules[module]).get(holder, ()))
        case _:
            return None
    found = functions_of(modules[source]).get(name) if source in modules else None
    return None if found is None else (source, found)


def functions_of(tree: ast.Module) -> dict[str, Function]:
    """List a module's functions by name."""
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def imported(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """List what a module imports by the name that it has there: the module that it comes from, and its name in that."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.asname or alias.name: (node.module or "", alias.name) for node in found for alias in node.names}


if __name__ == "__main__":
    main()
