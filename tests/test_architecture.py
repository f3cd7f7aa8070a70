"""The architecture of design.md, as tests."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
MAPPED = {"lsc_graph": "lsc_graph", "cli": "lsc_graph.cli", "models": "lsc_graph.models"}


def module_name(path: Path) -> str:
    top, *rest = path.relative_to(ROOT).with_suffix("").parts
    parts = [MAPPED[top], *rest]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for top in MAPPED for path in sorted((ROOT / top).rglob("*.py"))}


def imports_of(name: str, *, at_import: bool = False) -> set[str]:
    """Full names that a module imports; with `at_import` only those outside functions."""
    tree = ast.parse(MODULES[name].read_text())
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    deferred = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if at_import and id(node) in deferred:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    filter(None, [*package.split(".")[: len(package.split(".")) - node.level + 1], base])
                )
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize(
    "name", [n for n in MODULES if not n.startswith(("lsc_graph.cli", "lsc_graph.models"))]
)
def test_the_library_imports_neither_the_command_line_nor_the_zoo(name: str) -> None:
    assert not any(found.startswith(("lsc_graph.cli", "lsc_graph.models")) for found in imports_of(name))


@pytest.mark.parametrize(
    "name", [n for n in MODULES if n.startswith("lsc_graph.report") or n == "lsc_graph.results"]
)
def test_reports_and_results_read_results_only(name: str) -> None:
    heavy = {"torch", "numpy", "onnx", "onnx_ir", "onnxruntime", "networkx"}
    assert not {found.split(".")[0] for found in imports_of(name)} & heavy


def test_only_one_module_knows_the_converter() -> None:
    users = {name for name in MODULES if any(f.split(".")[0] == "onnx2fx" for f in imports_of(name))}
    assert users == {"lsc_graph.to_torch.converted"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = nx.DiGraph()
    for name in MODULES:
        graph.add_edges_from(
            (name, found)
            for found in imports_of(name, at_import=True)
            if found in MODULES and found != name and not name.startswith(found + ".")
        )
    circles = [found for found in nx.strongly_connected_components(graph) if len(found) > 1]
    assert circles == []


def test_folders_import_only_from_folders_that_stand_before_them_in_the_code_map() -> None:
    """Modules at the top of the package are pipelines: they may import from all."""
    mapped = re.findall(r"(?m)^\*\*`lsc_graph/(\w+)/`\*\*", (ROOT / "README.md").read_text())
    order = {folder: place for place, folder in enumerate(mapped)}
    backwards = [
        (name, found)
        for name in MODULES
        for found in imports_of(name)
        if found in MODULES and folder_of(name) and folder_of(found)
        if order[folder_of(found)] > order[folder_of(name)]
    ]
    assert backwards == []


def folder_of(name: str) -> str:
    """The folder of a module of the library; none for pipelines, the command line and the zoo."""
    first, *rest = name.split(".")[1:] or [""]
    return first if rest and first not in ("cli", "models") else ""


def test_the_list_of_packages_equals_the_tree() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert listed == folders


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.stem)
def test_tests_mirror_the_source_tree(path: Path) -> None:
    relative = path.relative_to(ROOT / "tests")
    if path.stem == "test_architecture" or relative.parts[0] == "models":
        return
    folder = "" if len(relative.parts) == 1 else ".".join(relative.parts[:-1]) + "."
    name = path.stem.removeprefix("test_")
    candidates = [module for module in MODULES if module.startswith(f"lsc_graph.{folder}")]
    assert any(
        name == module.rsplit(".", 1)[-1] or name.startswith(module.rsplit(".", 1)[-1] + "_")
        for module in candidates
    )


def test_every_source_file_has_a_line_in_the_code_map() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [
        str(path.relative_to(ROOT))
        for path in MODULES.values()
        if path.name != "__init__.py" and f"`{path.relative_to(ROOT)}`" not in readme
    ]
    assert missing == []
