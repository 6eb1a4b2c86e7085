"""A machine as a runtime uses it: its links and its overheads replaced, everything else left alone."""

from __future__ import annotations

from dataclasses import replace

from lrcsim.hardware import HardwareProfile, Link
from lrcsim.runtimes.runtime import LoadUse, Runtime

PAGEABLE = 8e9
"""Bytes/s of copies from memory that is not pinned, where neither link nor runtime says: others measured 8 GB/s on
desktops and 6.5 under WSL2; the host of an H200 reaches 18.2 (experiments/validation/offload/h200)."""


def machine_under(profile: HardwareProfile, runtime: Runtime) -> HardwareProfile:
    """Return the machine with what a runtime puts in place of its numbers; ``ideal`` leaves every number as it is.

    * ``layer_overhead``, ``expert_overhead``, ``gpu.overhead``, ``cpu.overhead``: the runtime's, where it has them; the
      first and the third stay where the host launches ahead: its launches pass beside them (`Host`).
    * ``cpu.bandwidth`` and ``cpu.compute``: the shares of them that it reaches.
    * The links that every load takes: its share of the bandwidth, no more than pageable copies where memory is not
      pinned; the overhead of a copy; its lanes, and the most that one of them carries. How many copies an expert is
      stays with the runtime: who moves it pays the overhead for each.
    """
    device, cpu, loads = runtime.device, runtime.cpu, runtime.loads
    layer = profile.layer_overhead if device.layer is None or device.ahead else device.layer
    made = replace(
        profile,
        layer_overhead=layer,
        expert_overhead=profile.expert_overhead if loads.miss is None else loads.miss,
        cpu=replace(
            profile.cpu,
            bandwidth=profile.cpu.bandwidth * cpu.share,
            compute=profile.cpu.compute * cpu.compute,
            overhead=profile.cpu.overhead if cpu.expert is None else cpu.expert,
        ),
    )
    if device.kernel is not None and not device.ahead:
        if made.gpu is None:
            made = replace(made, cpu=replace(made.cpu, overhead=device.kernel))
        else:
            made = replace(made, gpu=replace(made.gpu, overhead=device.kernel))
    taken = {link.name for link in profile.load_links}
    copied = {profile.device_link.name} if profile.device_link is not None else set()
    links = (_used(link, loads, link.name in copied) if link.name in taken else link for link in profile.links)
    return replace(made, links=tuple(links))


def _used(link: Link, loads: LoadUse, copied: bool) -> Link:
    bandwidth = link.bandwidth * loads.bandwidth
    if copied and not loads.pinned:
        bandwidth = min(bandwidth, link.pageable or loads.pageable or PAGEABLE)
    lane = link.lane_bandwidth if loads.lane_bandwidth is None else loads.lane_bandwidth
    return replace(
        link,
        bandwidth=bandwidth,
        overhead=link.overhead + loads.copy,
        lanes=link.lanes if loads.lanes is None else loads.lanes,
        lane_bandwidth=lane,
    )
