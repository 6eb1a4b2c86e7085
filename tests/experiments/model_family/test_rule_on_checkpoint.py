"""Routing rules on logits of the shipped checkpoint, recorded again, against a cache written with a list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REASON = "torch and transformers are not installed (pip install '.[record]')"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

from lrcsim.recorder import Settings, record  # noqa: E402
from lrcsim.recorder.model import load  # noqa: E402
from lrcsim.recorder.prompts import Prompt  # noqa: E402
from lrcsim.simulator import simulate  # noqa: E402
from lrcsim.traces import RoutingTrace  # noqa: E402

FAMILY = Path(__file__).resolve().parents[3] / "experiments/model_family"
SLOTS, TOKENS = 16, 256


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> RoutingTrace:
    """The first tokens of the first held-out sample, with logits."""
    with RoutingTrace.open(FAMILY / "checkpoint_traces/teacher_forced.h5") as recorded:
        ids = recorded.column("token_ids")[:TOKENS].tolist()
    path = tmp_path_factory.mktemp("recorded") / "t.h5"
    model = load(str(FAMILY / "checkpoint"), device="cpu", dtype="fp32")
    settings = Settings(teacher_forced=True, sample_tokens=TOKENS, logits=True)
    record(model, [Prompt(token_ids=tuple(ids))], path, settings)
    return RoutingTrace.open(path)


def prior(boost: float) -> Callable[[Any, Any], Any]:
    def choose(scores: Any, resident: list[int]) -> Any:
        worth = scores.copy()
        worth[resident] += boost * (scores.max() - scores.min())
        return np.argsort(-worth, kind="stable")[:8].tolist()

    return choose


def window(sacred: int, width: int) -> Callable[[Any, Any], Any]:
    def choose(scores: Any, resident: list[int]) -> Any:
        ranked = np.argsort(-scores, kind="stable").tolist()
        taken = [expert for expert in ranked[sacred:width] if expert in resident][: 8 - sacred]
        others = [expert for expert in ranked[sacred:] if expert not in taken]
        return ranked[:sacred] + taken + others[: 8 - sacred - len(taken)]

    return choose


@pytest.mark.parametrize(
    ("rule", "choose"),
    [("none", prior(0)), ("prior:0.1", prior(0.1)), ("prior:0.4", prior(0.4)), ("window:2,12", window(2, 12))],
)
def test_hits_of_a_cache_written_with_a_list(rule: str, choose: Callable[[Any, Any], Any], trace: RoutingTrace) -> None:
    hits, logits = 0, trace.column("logits").astype(float)
    for layer in range(trace.num_layers):
        cache: list[int] = []  # the last used at the end
        for scores in logits[:, layer]:
            chosen = choose(scores, cache)
            hits += sum(expert in cache for expert in chosen)
            cache = ([expert for expert in cache if expert not in chosen] + chosen)[-SLOTS:]
    found = simulate(trace, cache=SLOTS, route=rule)
    accesses = TOKENS * trace.num_layers * 8
    assert int(found.counts.accesses.sum()) == accesses
    # logits of 16 bits are sometimes equal, and there the list takes the lower id, the model another
    assert abs(found.hit_rate * accesses - hits) <= accesses / 1000  # type: ignore[operator]


def test_the_router_is_a_softmax_and_loads_fall(trace: RoutingTrace) -> None:
    runs = [simulate(trace, cache=SLOTS, route=rule).to_dict() for rule in ("prior:0", "prior:0.1", "prior:0.4")]
    assert runs[0]["route"]["router"] == {"recorded": "raw", "function": "softmax", "told_by": "weights"}
    assert runs[0]["route"]["agreement"] == 1
    for name, falls in (("loads_per_access", True), ("mass_kept", True), ("kl_nats", False)):
        values = [run["route"][name] for run in runs]
        assert values == sorted(values, reverse=falls)
