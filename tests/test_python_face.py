"""`import lrcsim`, `python -m lrcsim`: the names, that they cost nothing until they are used."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import lrcsim
from lrcsim.planner.named import plan
from lrcsim.simulator import hit_rate_curve, sch, simulate, srp
from lrcsim.traces import RoutingTrace


def test_names_are_those_of_the_packages() -> None:
    assert (lrcsim.simulate, lrcsim.hit_rate_curve, lrcsim.srp, lrcsim.sch) == (simulate, hit_rate_curve, srp, sch)
    assert (lrcsim.RoutingTrace, lrcsim.plan) == (RoutingTrace, plan)
    assert lrcsim.__version__ == version("lrcsim")
    assert set(lrcsim.__all__) <= set(dir(lrcsim))


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'lrcsim' has no attribute 'simulat'"):
        _ = lrcsim.simulat  # type: ignore[attr-defined]


def run(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout


def test_importing_it_imports_nothing_else() -> None:
    """So that it takes no time, wherever it is imported; names come with what they need."""
    code = (
        "import sys; before = set(sys.modules); import lrcsim\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    assert run("-c", code).split() == ["lrcsim"]
    assert run("-c", "import lrcsim, sys; lrcsim.RoutingTrace; print('numba' in sys.modules)").strip() == "False"


def test_it_is_a_command() -> None:
    assert run("-m", "lrcsim", "--version") == f"lrcsim {version('lrcsim')}\n"
