"""Equality of ``access="paper"`` with the paper's own code at every capacity.

Not part of the test suite, because it needs that code:

    LRCSIM_MOE_LRC=/path/to/moe-lrc/src python -m pytest tests/reference_moe_lrc.py

The folder is that of 50_chr_calc.py and 41_sch_calc.py in a clone of github.com/ljcleo/moe-lrc. Nothing of it is kept
here: its functions calc_lru, calc_lfu, calc_beladi and calc_fsf are taken out of those files and run on numpy arrays.
"""

from __future__ import annotations

import ast
import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

IDS = npt.NDArray[np.int64]


def hits(trace: RoutingTrace, policy: str, capacity: int, scope: str = "layer") -> IDS:
    """Return the hits of each layer."""
    counts = simulate(trace, policy, capacity, scope=scope, access="paper", bounds=False).counts  # type: ignore[arg-type]
    found: IDS = (counts.accesses - counts.misses).sum(axis=0)
    return found


class Sequence(np.ndarray[Any, Any]):
    """As much of a tensor as the reference functions use."""

    def numel(self) -> int:
        return self.size


def load_reference(folder: str) -> dict[str, Callable[..., Any]]:
    """Take the four functions out of the reference code's files; benchmarks use this too."""
    from sortedcontainers import SortedSet

    functions: dict[str, Callable[..., Any]] = {}
    for name, wanted in {"50_chr_calc.py": "calc_lru calc_lfu calc_beladi", "41_sch_calc.py": "calc_fsf"}.items():
        path = Path(folder) / name
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}: give the src folder of a clone of ljcleo/moe-lrc")
        module = ast.parse(path.read_text())
        module.body = [node for node in module.body if getattr(node, "name", None) in wanted.split()]
        torch = SimpleNamespace(tensor=np.array, Tensor=np.ndarray)
        scope: dict[str, Any] = {"torch": torch, "SortedSet": SortedSet, "bisect_left": bisect_left, "deque": deque}
        exec(compile(module, str(path), "exec"), scope)
        functions |= {function: scope[function] for function in wanted.split()}
    return functions


@pytest.fixture(scope="module")
def reference() -> dict[str, Callable[..., Any]]:
    folder = os.environ.get("LRCSIM_MOE_LRC")
    if not folder:
        pytest.skip("LRCSIM_MOE_LRC does not name the src folder of a clone of github.com/ljcleo/moe-lrc")
    return load_reference(folder)


PAIRS = [
    ("lru", "calc_lru", ()),
    ("lfu", "calc_lfu", ()),
    ("belady", "calc_beladi", ()),
    *((f"sch-lookahead:{m}", "calc_fsf", (m,)) for m in (1, 2, 4, 16)),
]


def their_hits(function: Callable[..., Any], trace: RoutingTrace, scope: str, extra: tuple[int, ...]) -> IDS:
    """Return hits [capacities 1.., layers or 1], summed over requests."""
    experts = trace.experts.astype(np.int64)
    total_experts = trace.num_experts * (trace.num_layers if scope == "model" else 1)
    total: Any = 0
    for begin, end in zip(trace.offsets[:-1], trace.offsets[1:], strict=True):
        request = experts[begin:end]
        if scope == "model":
            keys = request + trace.num_experts * np.arange(trace.num_layers)[:, None]
            parts = [keys.reshape(len(request), -1)]
        else:
            parts = [request[:, layer] for layer in range(trace.num_layers)]
        rates = [function(part.view(Sequence), total_experts, *extra) for part in parts]
        found = np.stack([np.asarray(rate) * part.size for rate, part in zip(rates, parts, strict=True)], axis=1)
        assert np.abs(found - found.round()).max() < 1e-6
        total = total + found.round().astype(np.int64)
    return np.asarray(total)


def check_all_capacities(
    trace: RoutingTrace, policy: str, function: Callable[..., Any], extra: tuple[int, ...], scope: str
) -> None:
    expected = their_hits(function, trace, scope, extra)
    for capacity, row in enumerate(expected.tolist(), start=1):
        found = hits(trace, policy, capacity, scope)
        assert (found.tolist() if scope == "layer" else [int(found.sum())]) == row, f"{policy} at {capacity}"


@st.composite
def traces(draw: st.DrawFn) -> RoutingTrace:
    num_experts = draw(st.integers(1, 6))
    k, layers, tokens = draw(st.integers(1, min(3, num_experts))), draw(st.integers(1, 3)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = rng.gumbel(size=(tokens, layers, num_experts)) - draw(st.floats(0, 2)) * np.log1p(np.arange(num_experts))
    experts = np.argsort(-scores, axis=2)[:, :, :k]
    cut = draw(st.integers(1, tokens))
    return RoutingTrace.from_arrays(
        experts, num_experts=num_experts, offsets=[0, tokens] if cut == tokens else [0, cut, tokens]
    )


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize(("policy", "name", "extra"), PAIRS)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
@given(trace=traces())
def test_equals_the_reference_on_drawn_traces(
    reference: dict[str, Callable[..., Any]],
    policy: str,
    name: str,
    extra: tuple[int, ...],
    scope: str,
    trace: RoutingTrace,
) -> None:
    check_all_capacities(trace, policy, reference[name], extra, scope)


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize(("policy", "name", "extra"), PAIRS)
def test_equals_the_reference_on_a_longer_trace(
    reference: dict[str, Callable[..., Any]], policy: str, name: str, extra: tuple[int, ...], scope: str
) -> None:
    rng = np.random.default_rng(11)
    taste = np.cumsum(rng.normal(size=(200, 2, 16)), axis=0) * 0.3
    experts = np.argsort(-(taste + rng.gumbel(size=taste.shape)), axis=2)[:, :, :4]
    trace = RoutingTrace.from_arrays(experts, num_experts=16, offsets=[0, 120, 200])
    check_all_capacities(trace, policy, reference[name], extra, scope)
