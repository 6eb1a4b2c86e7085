"""The faults that ``just mutants`` makes, one line of source at a time, and where it looks for tests."""

from __future__ import annotations

import ast
from pathlib import Path

import mutants
import pytest


def made_of(source: str) -> list[str]:
    """Return the module's text with each of its faults, on one line."""
    tree = ast.parse(source)
    return [mutants.source(tree, site).replace("\n", "; ") for site in mutants.sites(tree)]


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("a < b", ["a <= b"]),
        ("a in b", ["a not in b"]),
        ("a == b is c", ["a != b is c", "a == b is not c"]),
        ("a and b", ["a or b", "b", "a"]),
        ("not a", ["a"]),
        ("a + b", ["a - b"]),
        ("a += b", ["pass", "a -= b"]),
        ("a = 2", ["a = 3", "a = 1"]),
        ("a = True", ["a = False"]),
        ("a.b = c", ["pass"]),
        ("a[b] = c", ["pass"]),
        ("a = b", []),  # without it there would be no a
        ("f(a)", ["pass"]),
        ("f(a, b)", ["pass", "f(b, a)"]),
        ("a = f(b, b)", []),
        ("a = min(b, c)", ["a = min(c, b)", "a = max(b, c)"]),
        ("a = x.maximum(b)", ["a = x.minimum(b)"]),
        ("a = b if c else d", ["a = b if not c else d"]),
        ("while a:; break".replace("; ", "\n    "), ["while not a:;     break", "while a:;     pass"]),
        ("raise a", ["pass"]),
        ("'words'", []),
        ("a = f'{b + 1}'", []),  # messages
        ("a: f(1, 2) = b", []),  # annotations
    ],
)
def test_faults(source: str, faults: list[str]) -> None:
    assert made_of(source) == faults


def test_a_fault_is_told_by_its_line_and_the_module_is_whole_afterwards() -> None:
    tree = ast.parse("a = b\nc = d < e\n")
    (site,) = mutants.sites(tree)
    assert str(site) == "2: d < e  ->  d <= e"
    assert mutants.source(tree, site) == "a = b\nc = d <= e"
    assert mutants.source(tree) == "a = b\nc = d < e"


def test_every_fault_of_a_real_module_is_another_module() -> None:
    tree = ast.parse(Path(mutants.ROOT, "tests", "mutants.py").read_text(encoding="utf-8"))
    whole, found = mutants.source(tree), list(mutants.sites(tree))
    assert len(found) > 100
    for site in found[::7]:
        text = mutants.source(tree, site)
        compile(text, "mutant", "exec")
        assert text != whole
    assert mutants.source(tree) == whole


def test_tests_of_the_same_name_come_first_then_the_folder() -> None:
    assert mutants.mirrored(Path("traces/check.py")) == ["tests/traces/test_check.py", "tests/traces"]
    assert mutants.mirrored(Path("traces/importers/values.py"))[-1] == "tests/traces"  # the nearest folder there is


def test_options() -> None:
    given = mutants.options(["lrcsim.traces.check", "--number", "3", "--lines", "10-12", "-k", "offsets"])
    assert (given.module, given.number, given.lines, given.pytest) == (
        Path("traces/check.py"),
        3,
        range(10, 13),
        ["-k", "offsets"],
    )
    with pytest.raises(SystemExit):
        mutants.options(["no/such.py"])
