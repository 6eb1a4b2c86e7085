"""The plan of the house: who imports whom, as docs/architecture.md states it, and what is packaged."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALIASES = {"errors", "hierarchy"}
"""Packages that only give public names to what stands elsewhere."""


def folders(parent: Path) -> Iterator[Path]:
    """Every folder below that is a package, and whose parents are."""
    for init in sorted(parent.glob("*/__init__.py")):
        yield init.parent
        yield from folders(init.parent)


@cache
def modules() -> dict[str, Path]:
    """Every module of lrcsim by its full name."""
    files = chain.from_iterable(folder.glob("*.py") for folder in folders(ROOT))
    names = {".".join(("lrcsim", *file.relative_to(ROOT).with_suffix("").parts)): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in names.items()}


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """Every name that a file imports, with its line: in functions and for type checkers too.

    Of ``from package import name`` it is ``package.name``.
    """
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are by the full name"
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


def module_of(name: str) -> str | None:
    """The module of lrcsim that an imported name is, or stands in; None: it is of another project."""
    if not name.startswith("lrcsim."):
        return None
    return name if name in modules() else name.rpartition(".")[0]


def node_of(module: str) -> str:
    """The package that a module belongs to; in ``simulator`` the folder or module in it."""
    _, package, *inner = module.split(".")
    return f"{package}.{inner[0]}" if package == "simulator" and inner else package


@cache
def order() -> list[str]:
    """The nodes as the page lists them, lowest first."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    block = re.search(r"^order of imports, lowest first.*?^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL | re.I)
    assert block is not None
    return re.split(r"[,\s]+", block[1].strip())


@cache
def arrows() -> list[tuple[str, str, str]]:
    """Every import of one module of lrcsim by another: the importer, its place and the imported."""
    found = []
    for name, file in modules().items():
        for line, target in imported(file):
            module = module_of(target)
            if module is not None:
                found.append((name, f"{file.relative_to(ROOT)}:{line}", module))
    return found


def test_what_is_imported_is_there() -> None:
    """So that no arrow is missed because its end is not known."""
    assert [(place, module) for _, place, module in arrows() if module not in modules()] == []
    assert len(arrows()) > 1000


def test_every_node_has_its_place_in_the_order() -> None:
    assert sorted(order()) == sorted({node_of(module) for module in modules()} - {"lrcsim"})


def test_no_arrow_points_upwards() -> None:
    height = {node: at for at, node in enumerate(order())}
    up = [
        f"{place}: {node_of(module)} stands above {node_of(name)}"
        for name, place, module in arrows()
        if height[node_of(module)] > height[node_of(name)]
    ]
    assert up == []


def test_the_base_imports_nothing_of_ours() -> None:
    assert {node_of(module) for name, _, module in arrows() if node_of(name) == "base"} == {"base"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for name, _, module in arrows():
        graph[name].add(module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_nothing_of_ours_imports_the_aliases() -> None:
    others = [*ROOT.glob("examples/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/hooks/*.py")]
    assert others
    for file in (*modules().values(), *others):
        used = {module_of(name) or "other" for _, name in imported(file)}
        assert not {node_of(module) for module in used if module != "other"} & ALIASES, file


def test_what_is_packaged_is_what_is_there() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    there = {".".join(("lrcsim", *folder.relative_to(ROOT).parts)) for folder in folders(ROOT)}
    assert sorted(settings["packages"]) == sorted({"lrcsim", *there})
