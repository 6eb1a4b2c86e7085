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


@pytest.mark.parametrize(
    ("module", "found"),
    [
        ("traces/check.py", ["test_check.py"]),
        ("traces/schedule.py", ["test_schedule.py"]),
        ("simulator/cache/pool.py", ["test_pool.py"]),
        ("simulator/time/links.py", ["test_links.py"]),
        ("simulator/time/bandwidth.py", ["test_bandwidth.py"]),
        (
            "simulator/setup/miss_actions.py",
            ["test_lossy_miss_actions.py", "test_miss_actions.py", "test_own_miss_actions.py"],
        ),
        ("planner/locality_transfer.py", ["test_locality_transfer.py"]),
        ("simulator/compiled/queue_loop.py", []),
    ],
)
def test_tests_of_the_same_name_come_first_then_the_folder(module: str, found: list[str]) -> None:
    folder = str(Path("tests", module).parent)
    assert mutants.mirrored(Path(module)) == [*(f"{folder}/{name}" for name in found), folder]


def test_tests_of_a_folder_without_its_mirror_are_in_the_nearest_there_is() -> None:
    assert mutants.mirrored(Path("traces/importers/values.py"))[-1] == "tests/traces"


OF_SOMETHING_ELSE = {"test_examples.py", "test_kinds.py", "test_record.py", "test_sch.py", "test_srp.py"}
"""Files with the name of a module that they are not about: scripts, commands of these names, kinds of JSON, metrics."""


def test_what_is_named_after_a_module_stands_where_it_is_looked_for() -> None:
    modules = [
        path for path in mutants.ROOT.glob("[a-z]*/**/*.py") if path.relative_to(mutants.ROOT).parts[0] != "tests"
    ]
    found = {f"tests/{path.name}" for path in mutants.ROOT.glob("tests/test_*.py")}
    for module in modules:
        found.update(mutants.mirrored(module.relative_to(mutants.ROOT)))
    named = {f"test_{module.name}" for module in modules} - OF_SOMETHING_ELSE
    tests = [path.relative_to(mutants.ROOT) for path in mutants.ROOT.glob("tests/**/test_*.py") if path.name in named]
    assert [str(path) for path in tests if str(path) not in found] == []


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
