"""Times of steps, tokens and requests, solved by hand."""

from __future__ import annotations

import numpy as np
import pytest
from both_engines import run
from helpers import link, machine, trace

from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.simulator.time.tally import percentiles


def test_percentiles() -> None:
    # 1 to 11: the median is the 6th; p90 lies at index 9, p99 at index 9.9, between 10 and 11.
    found = percentiles(np.arange(1.0, 12.0))
    assert found is not None
    assert found == pytest.approx({"mean": 6, "p50": 6, "p90": 10, "p99": 10.9, "max": 11})
    assert percentiles(np.array([])) is None
    assert percentiles(np.array([2.0])) == {"mean": 2, "p50": 2, "p90": 2, "p99": 2, "max": 2}


def test_time_to_first_token_and_per_token() -> None:
    # Two requests, the prompt of the first in two chunks. Loads 1 s, experts 1 s.
    # Request 0: chunk {0}: 2 s, chunk {1}: 2 s, first token out at 4. Decode 0: 1 s, decode 2: 2 s.
    # Request 1 begins at 7: prompt {0}, a hit: first token at 8; decode 3: 2 s.
    routing = trace("0", "1", "0", "2", "0", "3", phase=[0, 0, 1, 1, 0, 1], offsets=[0, 4, 6])
    time = run(routing, 6, prefill="token").tally.to_dict()["time"]
    assert (time["total_s"], time["prefill_s"], time["decode_s"]) == (10, 5, 5)
    assert time["ttft_ms"]["max"] == 4000
    assert time["ttft_ms"]["mean"] == (4000 + 1000) / 2
    assert time["tpot_ms"]["mean"] == pytest.approx((1000 + 2000 + 2000) / 3)
    assert time["tpot_ms"]["p50"] == 2000
    assert time["decode_tokens_per_s"] == 3 / 5
    assert time["decode_ms_per_token"] == pytest.approx(5000 / 3)
    assert (time["compute_s"], time["stall_s"], time["overhead_s"]) == (6, 4, 0)


def test_a_trace_without_phases_is_all_decode() -> None:
    time = run(trace("0", "0"), 4).tally.to_dict()["time"]
    assert (time["prefill_s"], time["decode_s"]) == (0, 3)
    assert time["ttft_ms"]["max"] == 2000


def test_a_trace_of_prompts_alone_has_no_time_per_token() -> None:
    time = run(trace("0", "1", phase=[0, 0]), 4).tally.to_dict()["time"]
    assert time["tpot_ms"] is time["decode_tokens_per_s"] is time["decode_ms_per_token"] is None


def test_the_account_of_every_step() -> None:
    # Dense 0.5 s, 0.25 s overhead. Step 0: one load and one expert on the CPU, side by side until 1.75, computed until
    # 2.75. Step 1: 0 is a hit; 1 on the CPU again, of a single miss a half is rounded up to one load: so it is loaded.
    hardware = machine(layer_overhead=0.25)
    costs = FixedCosts(dense=0.5, expert_s=1, cpu_bytes=100, cpu_rate=100)
    tally = run(trace("01", "01"), 4, hardware, action="split:0.5", costs=costs).tally
    # begin, end, compute, overhead, CPU: 2.75 + 0.75 + max(1 s load, 1 s of 0) + 1 s of 1
    assert tally.by_step().tolist() == [[0, 2.75, 1.5, 0.25, 1], [2.75, 5.5, 2.5, 0.25, 0]]
    assert (tally.compute, tally.overhead, tally.cpu, tally.total) == (4, 0.5, 1, 5.5)


def test_use_of_links() -> None:
    # 200 bytes at 50 bytes/s: 4 s of 5.
    use = run(trace("01"), 4, machine(link(50))).tally.links["pcie"]
    assert (use.bytes, use.busy_s, use.bandwidth) == (200, 4, 50)


def test_a_trace_without_recorded_experts_takes_no_time() -> None:
    tally = run(trace("_"), 4).tally
    assert tally.to_dict()["time"]["total_s"] == 0
    assert tally.by_step().shape == (0, 5)
