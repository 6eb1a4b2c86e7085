"""The modules of traces stand above each other: none imports one that imports it, and nothing comes from above."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import lrcsim.traces.trace

TRACES = Path(lrcsim.traces.trace.__file__).parent
BELOW = {"base", "documents", "environment", "errors"}
"""Packages of ours that traces may import."""


def name_of(path: Path) -> str:
    parts = ["lrcsim", "traces", *path.relative_to(TRACES).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in TRACES.rglob("*.py")}


def imported(path: Path) -> set[str]:
    """What a module imports of ours, at its head or inside functions; a name of a package stands for its module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in modules}
    return {name for name in found if name.split(".")[0] == "lrcsim"}


def test_there_are_no_circles() -> None:
    graph = {name: {other for other in imported(path) if other in MODULES} for name, path in MODULES.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert len(order) == len(MODULES) > 40


def test_nothing_comes_from_packages_above() -> None:
    others = {name.split(".")[1] for path in MODULES.values() for name in imported(path)} - {"traces"}
    assert others <= BELOW


def test_no_import_of_ours_is_inside_a_function() -> None:
    """Only libraries that are optional or slow may be imported late."""
    late = [
        (name, node.lineno)
        for name, path in MODULES.items()
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lrcsim")
    ]
    assert late == []
