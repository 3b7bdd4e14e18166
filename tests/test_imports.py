"""Imports between the packages point one way and have no circles."""

import ast
import graphlib

import pytest

from tests.conftest import ROOT

ALLOWED = {  # what each package may import beside itself
    "cxr": set(),
    "streamlit_app": {"cxr"},
    "training": {"cxr"},
    "export": {"cxr", "training"},
    "benchmarks": {"cxr", "training", "export", "streamlit_app"},
    "experiments": {"cxr", "training", "export", "benchmarks"},
}
# cxr.decoder is a script that runs in its own process; cxr.decoding imports only its message format, and
# the script imports the image code inside a function
OTHER_PROCESS = {"cxr.decoder": {"cxr.imaging"}}
RUNTIME = ("cxr", "streamlit_app")  # work where tensorflow is not installed
TRAINING_ONLY = {"tensorflow", "tf_keras", "keras", "tensorflow_model_optimization", "sklearn"}


def find_modules() -> dict[str, ast.Module]:
    """The syntax tree of every module of the packages, by dotted name."""
    modules = {}
    for package in ALLOWED:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules[name] = ast.parse(path.read_text())
    return modules


MODULES = find_modules()


def list_imports(tree: ast.Module) -> set[str]:
    """The absolute names that a module imports, at its top and inside functions."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: accepted are absolute imports"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found = submodules & set(MODULES)
            names |= found or {node.module}
            if len(found) < len(submodules):  # some of the names are the module's own
                names.add(node.module)
    return names


IMPORTS = {name: list_imports(tree) for name, tree in MODULES.items()}


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, the first repeated at the end; none where there is no circle."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_a_circle_is_found():
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(find_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


def test_imports_are_found_at_the_top_and_inside_functions():
    tree = ast.parse("import cxr.files\ndef f():\n    from training import names\n    import os.path")
    assert list_imports(tree) == {"cxr.files", "training.names", "os.path"}


def test_no_module_imports_itself_through_others():
    graph = {
        name: (names & set(MODULES)) - OTHER_PROCESS.get(name, set()) for name, names in IMPORTS.items()
    }
    circle = find_circle(graph)
    assert not circle, " imports ".join(reversed(circle))


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package):
    members = [name for name in MODULES if name.split(".")[0] == package]
    assert members
    accepted = ALLOWED[package] | {package}
    wrong = [
        f"{member} imports {name}"
        for member in members
        for name in sorted(IMPORTS[member])
        if name.split(".")[0] in set(ALLOWED) | {"tests"} and name.split(".")[0] not in accepted
    ]
    assert not wrong


@pytest.mark.parametrize("package", RUNTIME)
def test_the_runtime_imports_no_training_library(package):
    wrong = [
        f"{member} imports {name}"
        for member in MODULES
        if member.split(".")[0] == package
        for name in sorted(IMPORTS[member])
        if name.split(".")[0] in TRAINING_ONLY
    ]
    assert not wrong
