"""Equality of ``access="paper"`` at every capacity, and of vocabulary specialisation, with the paper's own code.

Not part of the test suite, because it needs that code:

    LRCSIM_MOE_LRC=/path/to/moe-lrc/src python -m pytest tests/reference_moe_lrc.py

The folder is that of 50_chr_calc.py and 41_sch_calc.py in a clone of github.com/ljcleo/moe-lrc. Nothing of it is kept
here: its functions calc_lru, calc_lfu, calc_beladi and calc_fsf are taken out of those files and run on numpy arrays;
tok_stat of 21_vocab_calcgen.py is run on files as the scripts before it write them (this needs torch).
"""

from __future__ import annotations

import ast
import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrcsim.simulator import simulate
from lrcsim.simulator.metrics.specialisation import VocabularyKind, vocabulary_specialisation
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


def test_vocabulary_specialisation_equals_the_references(tmp_path: Path) -> None:
    """Counts are tok_stat's; a token's share and owner, and the mean over an expert's tokens, as in 22_vocab_refine.py.

    Between experts that tie the owner is the library's choice there: that no two do is asserted.
    """
    folder = os.environ.get("LRCSIM_MOE_LRC")
    if not folder:
        pytest.skip("LRCSIM_MOE_LRC does not name the src folder of a clone of github.com/ljcleo/moe-lrc")
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    samples, tokens, experts, vocabulary = 6, 80, 4, 7
    rng = np.random.default_rng(7)
    read, predicted = (rng.integers(0, vocabulary, (2, samples, tokens)) for _ in range(2))
    scores = (
        rng.gumbel(size=(2, samples, tokens, 1, experts)) + rng.gumbel(size=(vocabulary, experts))[read][..., None, :]
    )
    scores = scores + 2 * rng.gumbel(size=(vocabulary, experts))[predicted][..., None, :]
    names = ("c4", "github")
    files = {
        "tok": {name: torch.from_numpy(ids) for name, ids in zip(names, read, strict=True)},
        "pred": {name: torch.from_numpy(ids) for name, ids in zip(names, predicted, strict=True)},
    }
    ranks = scores[..., 0, :].argsort(axis=-1).argsort(axis=-1).astype(np.int8)
    files["rank"] = {name: torch.from_numpy(values) for name, values in zip(names, ranks, strict=True)}
    for kind, tensors in files.items():
        (tmp_path / kind).mkdir()
        save_file(tensors, tmp_path / kind / f"toy{'_00' if kind == 'rank' else ''}.safetensors")
    (tmp_path / "out").mkdir()
    module = ast.parse((Path(folder) / "21_vocab_calcgen.py").read_text())
    module.body = [node for node in module.body if getattr(node, "name", None) == "tok_stat"]
    about = {("toy", "num_layers"): 1, ("toy", "num_experts"): experts}
    config = SimpleNamespace(from_pretrained=lambda *_, **__: SimpleNamespace(vocab_size=vocabulary))
    scope: dict[str, Any] = {"torch": torch, "load_file": load_file, "save_file": save_file, "AutoConfig": config}
    scope |= {"print_log": lambda *_: None, "model_config": SimpleNamespace(loc=about)}
    exec(compile(module, "21_vocab_calcgen.py", "exec"), scope)
    parts = [tmp_path / name for name in ("model", "tok", "pred", "rank", "out")]
    scope["tok_stat"](20, 1, *parts, "toy")
    counts = load_file(tmp_path / "out/toy_cnt_gen.safetensors")

    trace = RoutingTrace.from_arrays(
        scores.reshape(-1, 1, experts).argsort(axis=2)[:, :, ::-1][:, :, :2],
        num_experts=experts,
        offsets=range(0, 2 * samples * tokens + 1, tokens),
        token_ids=read.ravel(),
        predicted_ids=predicted.ravel(),
    )
    theirs = {"in": "in", "predicted": "pred", "out": "out"}
    for kind in get_args(VocabularyKind):
        table = counts[f"00_{theirs[kind]}"].numpy()  # [experts, token ids]
        best = np.sort(table, axis=0)
        assert (best[-1] > best[-2]).all()
        share, owner = (table / table.sum(axis=0)).max(axis=0), table.argmax(axis=0)
        expected = [share[owner == expert].mean() if (owner == expert).any() else np.nan for expert in range(experts)]
        np.testing.assert_allclose(vocabulary_specialisation(trace, kind)[0], expected, rtol=1e-12)
