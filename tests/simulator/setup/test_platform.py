"""What is said when machine, model, trace and cache do not go together; what is looked up when they do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from machines import LINK, geometry, machine

from lrcsim.base.errors import ConfigError, LrcsimError
from lrcsim.simulator import simulate
from lrcsim.simulator.setup.options import Options
from lrcsim.simulator.setup.platform import resolve
from lrcsim.traces import RoutingTrace


def walk(tokens: int = 8, **options: Any) -> RoutingTrace:
    """Two layers of 4 experts, top-1: every layer walks 0, 1, 2, 3, 0 ..."""
    experts = np.tile(np.arange(tokens).reshape(-1, 1, 1) % 4, (1, 2, 1))
    return RoutingTrace.from_arrays(experts, num_experts=4, **{"expert_bytes": 100, **options})


def run(trace: RoutingTrace | None = None, cache: Any = 2, **options: Any) -> Any:
    given = {"hardware": machine(), "model": geometry(), **options}
    return simulate(trace or walk(), "lru", cache, **given)


def test_sizes_come_from_the_trace_unless_a_dtype_is_given() -> None:
    assert resolve(Options(hardware=machine(), model=geometry()), walk()).sizes == [100, 100]
    assert resolve(Options(hardware=machine(), model=geometry(), dtype="f32"), walk()).sizes == [8, 8]  # 2 parameters
    assert resolve(Options(hardware=machine(), model=geometry()), walk(expert_bytes=None)).sizes == [
        4,
        4,
    ]  # bf16, as released


def test_dense_bytes_come_from_the_trace_where_its_experts_do() -> None:
    # An expert of 2 parameters: 4 bytes in bf16, 8 in f32. The trace's layers have 1,000,000 bytes besides.
    trace = walk(expert_bytes=4)
    trace.layers = replace(trace.layers, dense_bytes=np.array([10**6, 10**6]))
    plain = resolve(Options(hardware=machine(), model=geometry()), walk(expert_bytes=4)).costs.dense_bytes
    assert plain < 10**6
    for dtype in (None, "bf16"):  # as the trace is stored, said or not
        costs = resolve(Options(hardware=machine(), model=geometry(), dtype=dtype), trace).costs
        assert 2 * 10**6 <= costs.dense_bytes < 2 * 10**6 + plain
    other = resolve(Options(hardware=machine(), model=geometry(), dtype="f32"), trace).costs
    assert other.dense_bytes == 2 * plain


def test_the_output_matrix_is_stored_as_the_experts_of_a_trace_that_says_its_dense_bytes() -> None:
    # 8 bytes for 2 parameters are f32, and so is the output matrix of one number: 4 bytes, not the released 2.
    trace = walk(expert_bytes=8)
    assert resolve(Options(hardware=machine(), model=geometry()), trace).costs.head[0] == 2
    trace.layers = replace(trace.layers, dense_bytes=np.array([10, 20]))
    found = resolve(Options(hardware=machine(), model=geometry()), trace)
    assert found.dtype == "f32"
    assert found.costs.dense_bytes == 10 + 20 + 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": geometry(experts=8)}, "the trace has 4 experts per layer, the model round 8"),
        ({"model": geometry(layers=3, moe_layers=(0, 1, 2))}, "the trace has 2 MoE layers, the model round 3"),
        ({"model": geometry(top_k=2)}, "round:top_k=1 where the engine used 1 of 2"),
        ({"model": None}, "is not a built-in one: say which it is with --model NAME"),
        ({"hardware": "rtx-4091"}, "did you mean 'rtx-4090'?"),
        ({"hardware": machine(pcie=None, gpu=None)}, "has neither pcie nor nvme"),
        ({"miss": "lod"}, "did you mean 'load'?"),
        ({"miss": "skip:0.1"}, "looks at router weights, which this trace does not have"),
        ({"prefetch": "temporl"}, "did you mean 'temporal'?"),
        ({"prefetch": "next-gate"}, "needs recorded predictions 1 layers ahead, the trace has none"),
        ({"prefetch": "temporal", "overlap": False}, "needs transfers that run beside compute"),
        ({"dram": "50%"}, "does not hold all experts (0.0 MiB), and round has no nvme"),
        ({"dram": "2GiB"}, "is not understood"),
        ({"engine": "simpy"}, "engine 'simpy' is not known, use auto, events, compiled"),
        ({"overlapp": False}, "there is no option 'overlapp'; did you mean 'overlap'?"),
        ({"access": "paper"}, "access 'paper' counts hits as no engine runs them"),
        ({"record": True}, "record is for hits alone"),
        ({"overrides": ["pcie.lanes=2"]}, "overrides are for a profile given by name or file"),
    ],
)
def test_one_line_each(options: dict[str, Any], said: str) -> None:
    if "dram" in options and said == "is not understood":
        options = {"dram": "2 lots", "hardware": machine(nvme=LINK)}
    with pytest.raises(LrcsimError) as error:
        run(**options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_options_of_time_need_a_machine() -> None:
    with pytest.raises(ConfigError, match="option 'miss' is about time: name a machine"):
        simulate(walk(), "lru", 2, miss="cpu")


def test_policies_that_know_the_future_do_not_prefetch() -> None:
    with pytest.raises(ConfigError, match="prefetching would change them"):
        simulate(walk(), "belady", 2, hardware=machine(), model=geometry(), prefetch="temporal")


def test_a_cache_larger_than_memory() -> None:
    """Cache 2 x 2 x 100 bytes; a layer: attention 4, norms 2, router 4 numbers; output 1; KV 8 tokens x 2 numbers."""
    other = (4 + 2 + 4) * 2 * 2 + 1 * 2
    kv = 8 * 2 * 2 * 2
    exact = 400 + other + kv
    run(hardware=machine(gpu=machine().gpu.__class__(exact, 1e6, 1e12, 0.0)))  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"cache 2 takes .* exceeds the .* of GPU memory of round"):
        run(hardware=machine(gpu=machine().gpu.__class__(exact - 1, 1e6, 1e12, 0.0)))  # type: ignore[union-attr]


def test_requests_at_once_each_have_their_own_kv_cache() -> None:
    """4 requests of 2 tokens, 2 at once: KV of 2 x 2 tokens, whatever order a server makes of all 8."""
    trace = walk(offsets=[0, 2, 4, 6, 8])
    exact = 400 + (4 + 2 + 4) * 2 * 2 + 1 * 2 + 2 * 2 * 2 * 2 * 2
    run(trace, batch=2, hardware=machine(gpu=machine().gpu.__class__(exact, 1e6, 1e12, 0.0)))  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="exceeds"):
        run(trace, batch=2, hardware=machine(gpu=machine().gpu.__class__(exact - 1, 1e6, 1e12, 0.0)))  # type: ignore[union-attr]


def test_main_memory_that_cannot_hold_all_experts_caches_them() -> None:
    """8 experts of 100 bytes, main memory of 700: 90 % of it are 6 experts, the rest comes from flash."""
    small = machine(dram=machine().dram.__class__(700, 1e9), nvme=LINK)
    platform = resolve(Options(hardware=small, model=geometry()), walk())
    assert platform.dram is not None
    assert platform.dram.capacity == 6
    assert resolve(Options(hardware=machine(nvme=LINK), model=geometry()), walk()).dram is None
    with pytest.raises(ConfigError, match="and no nvme: use a smaller dtype"):
        resolve(Options(hardware=machine(dram=machine().dram.__class__(700, 1e9)), model=geometry()), walk())


def test_links_in_a_row_are_timed_by_both_engines_where_experts_come_over_the_last() -> None:
    three = replace(machine(), links=(replace(LINK, name="nvme"), replace(LINK, name="cxl"), LINK))
    compiled, events = (run(hardware=three, engine=engine).timed for engine in ("auto", "events"))
    assert (compiled.engine, events.engine) == ("compiled", "events")
    assert compiled.tally.total == pytest.approx(events.tally.total, rel=1e-9)
    assert compiled.tally.links == events.tally.links
    assert {name: use.bytes for name, use in compiled.tally.links.items()} == {"pcie": 1600, "cxl": 0, "nvme": 0}
    below = run(hardware=three, dram="50%", engine="events").timed
    assert {name: use.bytes for name, use in below.tally.links.items()} == {"pcie": 1600, "cxl": 1600, "nvme": 1600}


def test_several_links_from_storage_alone() -> None:
    storage = (replace(LINK, name="nvme", bandwidth=50.0), replace(LINK, name="cxl"))
    unified = replace(machine(), unified=True, links=storage)
    found = run(hardware=unified, engine="events")
    assert found.timed.tally.total == pytest.approx(16 * (2 + 1), rel=1e-3)  # 16 misses, each alone: 2 s and 1 s
    optimum = found.to_dict()["time"]["bounds"]["optimum"]["total_s"]
    assert 16 * 2 * 0.5 <= optimum <= found.timed.tally.total  # the slower link's 2 s, for half of the misses at least
    compiled = run(hardware=unified, engine="compiled").timed
    assert compiled.tally.total == pytest.approx(found.timed.tally.total, rel=1e-9)


def test_the_callers_trace_keeps_its_sizes() -> None:
    trace = walk(expert_bytes=None)
    assert run(trace).trace.expert_bytes.tolist() == [4, 4]
    assert trace.expert_bytes is None
