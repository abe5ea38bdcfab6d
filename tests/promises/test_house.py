"""The house: who may import whom, and how large a file may be (docs/design.md, section 3)."""

import ast
import graphlib
import pathlib
import re

import pytest
from tiny import ROOT

# From the top down: a room imports itself and those that come after it.
ROOMS = (
    *("__main__", "cli", "api", "__init__", "completion", "arguments"),
    *("report", "transfer", "interop", "sweeps", "instruments", "analysis", "results"),
    *("training", "statistics", "workdir", "runtime", "model", "data", "settings", "base"),
)
# Found when asked for: what an analysis returns plots itself, and the report draws.
LATE = {("grokjax.analysis", "grokjax.report.accessor")}
ACCELERATED = {"flax", "jax", "jaxlib", "optax", "orbax", "tensorstore"}


def files(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def module_of(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): ast.parse(path.read_text()) for path in files("grokjax", "launch")}


def imported(node: ast.AST) -> set[str]:
    """Modules that one statement, or a call of `import_module`, names."""
    match node:
        case ast.Import():
            return {alias.name for alias in node.names}
        case ast.ImportFrom(module=str(module)):
            whole = {f"{module}.{alias.name}" for alias in node.names}
            return {name if name in MODULES else module for name in whole}
        case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=name)]):
            return {name}
    return set()


def all_imports(module: str) -> set[str]:
    """Wherever in the file they stand."""
    return set().union(*(imported(node) for node in ast.walk(MODULES[module])))


def first_imports(module: str) -> set[str]:
    """Those that run when the module is imported."""
    return set().union(*(imported(node) for node in MODULES[module].body))


def floor_of(module: str) -> int:
    """0 is `launch`, which stands on the house; higher numbers lie deeper in it."""
    first, *rest = module.split(".")
    return 0 if first == "launch" else 1 + ROOMS.index(rest[0] if rest else "__init__")


def test_imports_go_down_the_list_of_rooms():
    up = {
        (module, other)
        for module in MODULES
        for other in all_imports(module) & set(MODULES)
        if floor_of(other) < floor_of(module)
    }
    assert up == LATE


def test_the_page_has_the_same_list():
    """docs/design.md, section 3, in the same order and with the same rooms."""
    page = (ROOT / "docs" / "design.md").read_text()
    named = re.findall(r"^\| `grokjax/(\w+)", page, re.MULTILINE)
    assert named == ["cli", *ROOMS[ROOMS.index("report") :]]
    rooms = {path.stem for path in (ROOT / "grokjax").iterdir() if path.suffix in ("", ".py")}
    assert rooms - {"__pycache__"} == set(ROOMS)


def test_no_modules_import_each_other():
    graph = {module: all_imports(module) & set(MODULES) for module in MODULES}
    for module, other in LATE:
        graph[module].remove(other)
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names them


def test_who_launches_loads_no_jax():
    reached, left = set(), [name for name in MODULES if name.split(".")[0] == "launch"]
    left += [other for name in left for other in all_imports(name) if other in MODULES]
    while left:
        module = left.pop()
        reached.add(module)
        found = first_imports(module)
        assert not ACCELERATED & {name.split(".")[0] for name in found}, module
        left += [name for name in found if name in MODULES and name not in reached]


def test_the_root_has_few_files():
    assert len([path for path in (ROOT / "grokjax").iterdir() if path.is_file()]) <= 8


@pytest.mark.parametrize("folder", ["grokjax", "launch", "experiments", "tests"])
def test_a_file_has_at_most_400_lines(folder):
    lengths = {path: len(path.read_text().splitlines()) for path in files(folder)}
    assert lengths and not [path for path, length in lengths.items() if length > 400]
