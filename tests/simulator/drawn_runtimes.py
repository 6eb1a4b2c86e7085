"""Runtimes drawn at random: every number that a runtime may have, at its default or at one that shows in the times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from lrcsim.runtimes import Runtime
from lrcsim.runtimes.runtime import OVERLAPS, CpuUse, DeviceUse, LoadUse

shares = st.sampled_from([1.0, 0.83, 0.4, 1.19])
seconds = st.sampled_from([0.0, 1e-3, 0.007])
maybe = st.one_of(st.none(), seconds)


def together(device: DeviceUse, loads: LoadUse, **rest: Any) -> Runtime:
    """A runtime whose parts go together: none launches ahead and computes by tensor."""
    if loads.overlap == "tensor":
        device = replace(device, ahead=False)
    return Runtime(device=device, loads=loads, **rest)


runtimes = st.builds(
    together,
    name=st.just("drawn"),
    device=st.builds(
        DeviceUse,
        dense=shares,
        experts=shares,
        cache=shares,
        compute=shares,
        attention=shares,
        layer=maybe,
        kernel=maybe,
        mla=seconds,
        step=seconds,
        ahead=st.booleans(),
    ),
    cpu=st.builds(CpuUse, share=shares, compute=shares, layer=seconds, expert=maybe),
    loads=st.builds(
        LoadUse,
        overlap=st.sampled_from(OVERLAPS),
        miss=maybe,
        eviction=seconds,
        byte=st.sampled_from([0.0, 1e-6]),
        beside=st.booleans(),
        copies=st.integers(1, 7),
        copy=seconds,
        pinned=st.booleans(),
        pageable=st.sampled_from([None, 500_000.0]),
        bandwidth=shares,
        lanes=st.sampled_from([None, 1, 3]),
        lane_bandwidth=st.sampled_from([None, 300_000.0, 900_000.0]),
    ),
)
