"""Mutants of a module: one small fault at a time, to see whether the tests that mirror the module notice.

Run as a script, ``just mutants simulator/cache/pool.py``. What survives is dead code, a change without effect, or a gap
in the tests. The checkout itself is never touched: each mutant stands in a temporary copy, which the tests import.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}
LEFT_ALONE = {"annotation", "returns", "decorator_list", "bases", "type_params"}
"""Fields of the syntax tree that say nothing about what happens."""


class Site(NamedTuple):
    """A node of a tree, where it hangs, and what is put in its place.

    Attributes:
        parent: the node above.
        field: of the parent.
        place: in the field where it is a list, else None.
        old: the node.
        new: its replacement.
    """

    parent: ast.AST
    field: str
    place: int | None
    old: Any
    new: ast.AST

    def put(self, node: ast.AST) -> None:
        if self.place is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.place] = node

    def __str__(self) -> str:
        return f"{self.old.lineno}: {_short(self.old)}  ->  {_short(self.new)}"


def sites(node: ast.AST) -> Iterator[Site]:
    """Yield every fault that can be put under a node, in the order of the source."""
    for field, value in ast.iter_fields(node):
        if field in LEFT_ALONE:
            continue
        for place, child in enumerate(value) if isinstance(value, list) else ((None, value),):
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):  # wording is not what is tested
                continue
            for new in changes(child):
                yield Site(node, field, place, child, new)
            yield from sites(child)


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the replacements of one node."""
    if _droppable(node):
        yield ast.Pass()
    if isinstance(node, ast.If | ast.While | ast.IfExp) and not isinstance(node.test, ast.Compare | ast.Constant):
        yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    if isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            if type(op) in SWAPPED:
                yield _with(node, ops=[*node.ops[:place], SWAPPED[type(op)](), *node.ops[place + 1 :]])
    if isinstance(node, ast.BoolOp | ast.BinOp | ast.AugAssign) and type(node.op) in SWAPPED:
        yield _with(node, op=SWAPPED[type(node.op)]())
    if isinstance(node, ast.BoolOp):
        for place in range(len(node.values)):
            left = node.values[:place] + node.values[place + 1 :]
            yield left[0] if len(left) == 1 else _with(node, values=left)
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int | float):
            yield from (ast.Constant(node.value + 1), ast.Constant(node.value - 1))
    if isinstance(node, ast.Call):
        yield from _other_calls(node)


def _droppable(node: ast.AST) -> bool:
    """Tell whether a statement may be left out: without it, the names that others read are still there."""
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets)
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call)
    return isinstance(node, ast.AugAssign | ast.Raise | ast.Continue | ast.Break)


def _other_calls(node: ast.Call) -> Iterator[ast.AST]:
    """Yield a call with its first two arguments swapped, and with max for min."""
    first = [ast.dump(argument) for argument in node.args[:2]]
    if len(first) == 2 and first[0] != first[1]:
        yield _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
    function = node.func
    if isinstance(function, ast.Name) and function.id in NAMES:
        yield _with(node, func=ast.Name(NAMES[function.id], ast.Load()))
    if isinstance(function, ast.Attribute) and function.attr in NAMES:
        yield _with(node, func=ast.Attribute(function.value, NAMES[function.attr], ast.Load()))


def _with(node: Any, **fields: object) -> ast.AST:
    """Return a node like another, with some fields changed."""
    kind: type[ast.AST] = type(node)
    return kind(**{**dict(ast.iter_fields(node)), **fields})


def _short(node: ast.AST) -> str:
    line = " ".join(ast.unparse(node).split())
    return line if len(line) <= 100 else line[:97] + "..."


def source(tree: ast.Module, site: Site | None = None) -> str:
    """Return the module's text, with a fault or without."""
    if site is None:
        return ast.unparse(tree)
    site.put(site.new)
    try:
        return ast.unparse(tree)
    finally:
        site.put(site.old)


def mirrored(module: Path) -> list[str]:
    """Return where the tests of a module are: files named after it, then their folder, the nearest there is."""
    folder = next(ROOT / "tests" / parent for parent in module.parents if (ROOT / "tests" / parent).is_dir())
    found = [*sorted(folder.glob(f"test*{module.stem}*.py")), folder]
    return [str(path.relative_to(ROOT)) for path in found]


def copied(folder: Path) -> Path:
    """Copy the checkout, without what git ignores, to where it is imported as lrcsim; return its root."""
    listed = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / "lrcsim" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "lrcsim" / name)
    return folder / "lrcsim"


class Bench(NamedTuple):
    """A copy of the checkout, and how its tests are run.

    Attributes:
        root: of the copy.
        command: that runs the tests.
        compiled: whether the module has compiled functions: what calls them is then compiled anew for every mutant.
        nojit: whether they run as plain Python instead.
    """

    root: Path
    command: list[str]
    compiled: bool
    nojit: bool

    def passes(self, limit: float | None = None) -> bool:
        """Run the tests; return whether they pass within ``limit`` seconds."""
        kernels = self.root.parent / "numba"
        if self.compiled:
            shutil.rmtree(kernels, ignore_errors=True)
        kernels.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.root.parent),
            "PYTHONDONTWRITEBYTECODE": "1",  # a mutant as long as the last one, a moment later, would not be read
            "NUMBA_CACHE_DIR": str(kernels),
            **({"NUMBA_DISABLE_JIT": "1"} if self.nojit else {}),
        }
        quiet = subprocess.DEVNULL
        run = subprocess.Popen(
            self.command, cwd=self.root, env=environment, stdout=quiet, stderr=quiet, start_new_session=True
        )
        try:
            return run.wait(limit) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)  # with the workers of pytest -n
                run.wait()


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutants", description="What is not named here goes to pytest.")
    parser.add_argument("module", help="simulator/cache/pool.py or lrcsim.simulator.cache.pool")
    parser.add_argument("--number", type=int, default=20, help="mutants to make (20)")
    parser.add_argument("--seed", type=int, default=0, help="of their choice (0)")
    parser.add_argument("--lines", help="only faults in these lines, as 10-80")
    parser.add_argument("--tests", nargs="+", help="what to run; else the folder of tests that mirrors the module")
    parser.add_argument("--limit", type=float, help="seconds for one mutant (thrice what the tests need, and 30)")
    parser.add_argument("--nojit", action="store_true", help="run compiled functions as plain Python")
    given, rest = parser.parse_known_args(arguments)
    name = given.module.removeprefix("lrcsim.")
    given.module = Path(name if name.endswith(".py") else name.replace(".", "/") + ".py")
    if not (ROOT / given.module).is_file():
        parser.error(f"there is no module {given.module}")
    low, _, high = (given.lines or "1-999999").partition("-")
    given.lines = range(int(low), int(high or low) + 1)
    given.pytest = rest
    return given


def main() -> int:
    given = options()
    text = (ROOT / given.module).read_text(encoding="utf-8")
    tree = ast.parse(text)
    found = [site for site in sites(tree) if site.old.lineno in given.lines]
    chosen = random.Random(given.seed).sample(found, min(given.number, len(found)))
    with tempfile.TemporaryDirectory() as folder:
        root = copied(Path(folder))
        pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *given.pytest]
        bench = Bench(root, [*pytest, *(given.tests or mirrored(given.module))], "njit" in text, given.nojit)
        (root / given.module).write_text(source(tree), encoding="utf-8")
        begin = time.monotonic()
        if not bench.passes():
            print("the tests fail without any fault: " + " ".join(bench.command), file=sys.stderr)
            return 2
        limit = given.limit or 3 * (time.monotonic() - begin) + 30
        survived = 0
        for site in sorted(chosen, key=lambda site: site.old.lineno):
            (root / given.module).write_text(source(tree, site), encoding="utf-8")
            if bench.passes(limit):
                survived += 1
                print(f"survived  {given.module}:{site}", flush=True)
    print(f"{len(chosen)} of {len(found)} mutants of {given.module}: {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
