"""Public docstrings name every parameter, in order, and the errors raised."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

griffe = pytest.importorskip("griffe")  # comes with mkdocstrings
ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = {"hierarchy": "Costs", "policies": "Policy"}  # implementations do not repeat what the contract says


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, griffe.Function]]:
    """Every public function and method, from the copy of the sources that the site is made of."""
    hooks = str(ROOT / "docs/hooks")
    sys.path.insert(0, hooks)
    try:
        api = importlib.import_module("api")
    finally:
        sys.path.remove(hooks)
    copy = tmp_path_factory.mktemp("sources")
    api.copy_sources(copy)
    logging.getLogger("griffe").setLevel(logging.CRITICAL)
    loader = griffe.GriffeLoader(search_paths=[copy])
    top = loader.load("lrcsim")
    loader.resolve_aliases()

    def functions(package: str) -> Iterator[tuple[str, griffe.Function]]:
        for name in importlib.import_module(f"lrcsim.{package}").__all__:
            found = top[f"{package}.{name}"]
            found = found.final_target if found.is_alias else found
            found = found[name] if found.is_module else found  # a module of the function's name
            if found.is_function:
                yield f"{package}.{name}", found
            elif found.is_class:
                for method in found.members.values():
                    if method.is_function and not method.name.startswith("_") and not method.is_alias:
                        yield f"{package}.{name}.{method.name}", method

    found = {name: function for package in api.PACKAGES for name, function in functions(package)}
    repeated = [
        name
        for name in found
        for package, contract in CONTRACTS.items()
        if name.startswith(f"{package}.") and f"{package}.{contract}.{name.rpartition('.')[2]}" in found.keys() - {name}
    ]
    return [(name, function) for name, function in found.items() if name not in repeated]


def parameters(function: griffe.Function) -> list[str]:
    return [given.name for given in function.parameters if given.name not in ("self", "cls")]


def sections(function: griffe.Function) -> dict[str, list[str]]:
    """The names in the docstring's sections."""
    parsed = function.docstring.parse("google") if function.docstring else []
    return {
        part.kind.value: [getattr(item, "name", None) or str(getattr(item, "annotation", "")) for item in part.value]
        for part in parsed
        if part.kind.value in ("parameters", "raises")
    }


def test_all_are_found(public: list[tuple[str, griffe.Function]]) -> None:
    names = {name for name, _ in public}
    assert {"simulator.simulate", "traces.RoutingTrace.from_arrays", "policies.Policy.victim"} <= names
    assert len(names) > 100


def test_args_are_the_signature_s(public: list[tuple[str, griffe.Function]]) -> None:
    wrong = {}
    for name, function in public:
        given = [parameter.lstrip("*") for parameter in sections(function).get("parameters", [])]
        if given and given != parameters(function):
            wrong[name] = given, parameters(function)
    assert wrong == {}


def test_every_one_of_several_parameters_is_explained(public: list[tuple[str, griffe.Function]]) -> None:
    """In Args, or by its name in the text; of a single one the first line speaks anyway."""
    wrong = []
    for name, function in public:
        text = function.docstring.value if function.docstring else ""
        wanted = parameters(function)
        if "parameters" in sections(function) or len(wanted) < 2:
            continue
        if not all(f"``{parameter}``" in text for parameter in wanted):
            wrong.append(name)
    assert wrong == []


def test_errors_are_named(public: list[tuple[str, griffe.Function]]) -> None:
    """Where the body raises one of lrcsim's errors, a section says when."""
    wrong = []
    for name, function in public:
        raises = any(f"raise {kind}Error" in line for line in function.lines for kind in ("Config", "Trace", "Policy"))
        if raises and "raises" not in sections(function):
            wrong.append(name)
    assert wrong == []
