"""The numbers of a profile's GPU and of the link to it, from what was measured of them."""

from __future__ import annotations

import statistics

from lrcsim.base.errors import ConfigError
from lrcsim.base.text import human_bytes
from lrcsim.base.units import format_quantity
from lrcsim.calibration.of_machine.estimates import fastest, is_bound_by_bytes, overheads
from lrcsim.calibration.of_machine.gpu import LAUNCHES, GpuTimes
from lrcsim.calibration.of_machine.gpu_copies import CopyTimes
from lrcsim.calibration.of_machine.known_gpu import known_gpu
from lrcsim.calibration.of_machine.numbers import Put, between, rate_of, rates, rounded, spread
from lrcsim.calibration.of_machine.timing import Timing

ENOUGH = 0.95
"""What has this share of the best rate is as good."""


def put_gpu(gpu: GpuTimes, put: Put) -> None:
    """Record the numbers of the GPU and its link.

    Raises:
        ConfigError: sizes did not reach to where bandwidth is the limit, and no built-in profile has this GPU.
    """
    put("gpu.memory", gpu.memory, f"from the driver: {gpu.name}")
    _put_bandwidth(gpu, put)
    put("gpu.compute", rate_of(gpu.multiply), f"bfloat16 matrix product; {rates(gpu.multiply, 'FLOP/s')}")
    if gpu.launched is not None:
        each = Timing(0, tuple(seconds / LAUNCHES for seconds in gpu.launched.seconds))
        put("gpu.overhead", each.median, f"each of {LAUNCHES} operations in a row on the GPU's clock; {spread(each)}")
    else:
        _put_known("gpu.overhead", gpu.name, "no launches were measured on the GPU's own clock", put)
    _put_link(gpu.copies, put)
    put("layer_overhead", gpu.launch.median, f"an operation begun and waited for; {spread(gpu.launch)}")


def _put_bandwidth(gpu: GpuTimes, put: Put) -> None:
    inside, streamed = gpu.copies.inside, gpu.streamed
    found: list[tuple[Timing, int, str]] = []
    if is_bound_by_bytes(inside):
        best = fastest(inside)
        found.append((best, 2, f"read and written: twice what a copy inside of {human_bytes(best.size)} moved"))
    if is_bound_by_bytes(streamed):
        best = fastest(streamed)
        size = human_bytes(best.size // gpu.in_a_row)
        found.append((best, 1, f"{gpu.in_a_row} bfloat16 experts of {size} in a row, on the GPU's clock"))
    if found:
        best, times, what = max(found, key=lambda one: one[0].rate * one[1])
        put("gpu.bandwidth", rate_of(best, times), f"{what}; {rates(best, times=times)}")
        return
    _put_known("gpu.bandwidth", gpu.name, _launch_bound([*gpu.experts, *streamed, *inside]), put)


def _launch_bound(timings: list[Timing]) -> str:
    if not timings:
        return "nothing was measured that its memory could be the limit of"
    sizes, medians = [timing.size for timing in timings], sorted(timing.median for timing in timings)
    return (
        f"{human_bytes(min(sizes))} to {human_bytes(max(sizes))} took {between(medians)}: launches are the limit of "
        "that, not bandwidth"
    )


def _put_known(path: str, name: str, why: str, put: Put) -> None:
    known = known_gpu(name)
    if known is None:
        raise ConfigError(
            f"{path} of {name} is not known: {why}, and no built-in profile has this GPU: measure larger sizes, or "
            "leave it out with --no-gpu"
        )
    put(path, known.at(path), f"not measured ({why}); of built-in {known.name}: {known.sources.get(path, '')}")


def _put_link(copies: CopyTimes, put: Put) -> None:
    pinned = copies.pinned
    if not is_bound_by_bytes(pinned):
        raise ConfigError(
            f"pcie.bandwidth is not known: copies of {human_bytes(min(one.size for one in pinned))} to "
            f"{human_bytes(max(one.size for one in pinned))} took about the same time each: measure larger ones, or "
            "leave the GPU out with --no-gpu"
            if pinned
            else "pcie.bandwidth is not known: no copies were measured: leave the GPU out with --no-gpu"
        )
    bursts = [timing for burst in copies.bursts.values() for timing in burst.values()]
    best = fastest([*pinned, *bursts, *copies.streams.values()])
    put("pcie.bandwidth", rate_of(best), f"pinned memory, {human_bytes(best.size)}; {rates(best)}")
    waited = overheads(pinned, best.rate)
    single = statistics.median(waited)
    small = min(pinned, key=lambda timing: timing.size)
    if copies.bursts:
        occupied, how = _occupied(copies, best.rate)
        put("pcie.overhead", occupied, how)
        latency = max(single - occupied, 0.0)
        put("pcie.latency", latency, f"a copy begun and waited for, {between(waited)} besides its bytes, less overhead")
    else:
        how = f"a copy begun and waited for, {between(waited)} besides its bytes; smallest: {spread(small)}"
        put("pcie.overhead", single, how)
        put("pcie.latency", 0, "in the overhead: copies were waited for one by one")
    lanes, how = _lanes(copies)
    put("pcie.lanes", lanes, how)
    if copies.pageable:
        best = fastest(copies.pageable)
        put("pcie.pageable", rate_of(best), f"{human_bytes(best.size)}; {rates(best)}")


def _occupied(copies: CopyTimes, bandwidth: float) -> tuple[float, str]:
    """Return what each further copy of a burst of the smallest size took besides its bytes, and its source."""
    size, burst = min(copies.bursts.items())
    few, many = min(burst), max(burst)
    if few == many:
        raise ConfigError(f"bursts of {few} copies were measured: give two counts, so that a copy's cost can be told")
    each = (burst[many].median - burst[few].median) / (many - few)
    whole = Timing(size, tuple(seconds / many for seconds in burst[many].seconds))
    where = f"each copy of {human_bytes(size)} more in a burst of {few} to {many} on the GPU's clock, less its bytes"
    return max(each - size / bandwidth, 0.0), f"{where}; each of {many}: {spread(whole)}"


def _lanes(copies: CopyTimes) -> tuple[int, str]:
    if not copies.streams:
        return 1, "one stream"
    best = max(timing.rate for timing in copies.streams.values())
    lanes = min(count for count, timing in copies.streams.items() if timing.rate >= ENOUGH * best)
    each = ", ".join(
        f"{count} {format_quantity(rounded(timing.rate, 3), 'bytes/s')}" for count, timing in copies.streams.items()
    )
    return lanes, f"fewest streams within 5 % of the best rate: {each}"
