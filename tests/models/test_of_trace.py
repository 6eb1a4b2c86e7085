"""The model of a trace: what was recorded counts, then the name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.models import check_trace, geometry_of, load_geometry
from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

SMALL = {  # one of the family, as transformers describes it: 8 blocks, the first of them dense
    "model_type": "ernie4_5_moe", "num_hidden_layers": 8, "hidden_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 4096, "intermediate_size": 3072, "moe_intermediate_size": 48,
    "moe_num_experts": 64, "moe_k": 8, "moe_num_shared_experts": 0, "moe_layer_start_index": 0,
    "moe_layer_end_index": 7, "moe_layer_interval": 1, "tie_word_embeddings": False, "dtype": "float32",
}  # fmt: skip


def trace_of(model: str, config: Any = None) -> RoutingTrace:
    provenance = {} if config is None else {"config": config}
    ids = [[[*range(8)]] * 8] * 3
    return RoutingTrace.from_arrays(ids, num_experts=64, model=model, provenance=provenance)


def test_a_built_in_name() -> None:
    assert geometry_of(trace_of("OLMoE-1B-7B")) is load_geometry("olmoe-1b-7b")


def test_the_recorded_config_counts_where_a_name_has_another_shape() -> None:
    found = geometry_of(trace_of("lrcsim-toy-baseline", SMALL))
    assert (found.name, found.hidden, found.expert_width) == ("lrcsim-toy-baseline", 96, 48)
    assert load_geometry("lrcsim-toy-baseline").hidden == 256


def test_the_built_in_one_where_the_shape_is_the_same() -> None:
    wide = {"hidden_size": 256, "moe_intermediate_size": 128, "num_attention_heads": 8, "num_key_value_heads": 4}
    assert geometry_of(trace_of("lrcsim-toy-baseline", SMALL | wide)) is load_geometry("lrcsim-toy-baseline")


def test_a_model_that_only_its_config_knows_runs_in_time() -> None:
    found = geometry_of(trace_of("mine/one", SMALL))
    assert (found.name, found.hidden) == ("mine/one", 96)
    times = simulate(trace_of("mine/one", SMALL), "lru", "2x", hardware="rtx-4090", bounds=False).to_dict()
    assert times["time"]["total_s"] > 0


@pytest.mark.parametrize("config", [None, "a text", {}, {"model_type": "no such"}, SMALL | {"moe_k": 65}])
def test_neither(config: Any) -> None:
    with pytest.raises(ConfigError, match="the trace's model 'mine' is not a built-in one: say which"):
        geometry_of(trace_of("mine", config))
    assert geometry_of(trace_of("olmoe-1b-7b", config)) is load_geometry("olmoe-1b-7b")


def test_the_bundled_trace_has_its_model() -> None:
    trace = RoutingTrace.open()
    check_trace(load_geometry(trace.model or ""), trace)
    check_trace(load_geometry("bundled"), trace)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((5, 3, 2, 4), "the trace has 3 MoE layers, the model tiny 2: give the model that was traced"),
        ((5, 2, 2, 8), "the trace has 8 experts per layer, the model tiny 4: "),
        ((5, 2, 1, 4), "the trace has 1 experts per token, the model tiny 2: "),
        ((5, 2, 3, 4), "or tiny:top_k=3 where the engine used 3 of 2"),
    ],
)
def test_a_trace_of_another_model(shape: tuple[int, int, int, int], says: str) -> None:
    tiny = replace(load_geometry("olmoe-1b-7b"), name="tiny", moe_layers=(1, 2), experts=4, top_k=2)
    tokens, layers, top_k, experts = shape
    ids = np.broadcast_to(np.arange(top_k), (tokens, layers, top_k))
    trace = RoutingTrace.from_arrays(ids, num_experts=experts)
    with pytest.raises(ConfigError) as caught:
        check_trace(tiny, trace)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
