"""Background admission: which of the experts that missed and run on the CPU are uploaded for their next uses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lrcsim.hardware import HardwareProfile
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.simulator.setup.costs import Costs

ROUNDING = 1e-9
"""What was lost to the CPU is as much as an upload where it falls short by this share: both are sums that round."""


class Prices:
    """What an upload takes of the link, and what it saves: both undisturbed.

    Args:
        costs: seconds of compute.
        profile: the machine, as the runtime uses it.
        sizes: bytes of each expert, by key.
        runtime: what runs the model.

    Attributes:
        upload: seconds that each expert takes of the link to the GPU, by key: its bytes at the link's bandwidth (of one
            lane), and the overhead of each chunk or copy. Latency is none of them: transfers overlap in it.
    """

    def __init__(self, costs: Costs, profile: HardwareProfile, sizes: Sequence[int], runtime: Runtime = IDEAL) -> None:
        self.costs = costs
        self.upload = [0.0] * len(sizes)
        link = profile.device_link
        if link is not None:
            rate = min(link.bandwidth, link.lane_bandwidth or link.bandwidth)
            for key, size in enumerate(sizes):
                chunks = max(math.ceil(size / (link.chunk or size)), 1)
                self.upload[key] = max(chunks, runtime.loads.copies) * link.overhead + size / rate

    def saved(self, layer: int, tokens: int, key: int) -> float:
        """Return how many seconds longer an expert takes on the CPU than on the GPU, for so many tokens of a step."""
        overhead, size, rate = self.costs.on_cpu(layer, tokens, key)
        return overhead + size / rate - self.costs.expert(layer, tokens, key)


def no_uploads(profile: HardwareProfile, overlap: bool) -> str:
    """Return why nothing can be uploaded beside compute, in a few words with what to do; empty where it can.

    Args:
        profile: the machine.
        overlap: whether transfers run beside compute.
    """
    if profile.device_link is None:
        return f"{profile.name} has no link from main memory to a GPU: use load"
    return "" if overlap else "transfers do not run beside compute here: leave out --no-overlap, or use split"


class Admission:
    """Chooses at most so many of a layer-step's misses, those that most tokens use first, then in batch order.

    A miss is a candidate from its ``touches``-th on, counted within the run and anew from its last admission. With
    ``payback`` besides only once the CPU has taken as many seconds longer with it, in its misses since, as the upload
    takes of the link: as many uses are expected of an expert as it has had. This is the break-even rule of renting and
    buying, which costs at most twice what the best choice in hindsight does (Karlin, Manasse, Rudolph, Sleator,
    Competitive snoopy caching, Algorithmica 3, 1988).

    Args:
        number: experts uploaded per layer-step, at most.
        touches: misses of an expert from which on it is admitted.
        payback: whether the upload has to have been lost to the CPU before.
    """

    def __init__(self, number: int, touches: int = 1, payback: bool = False) -> None:
        self.number = number
        self.touches = touches
        self.payback = payback
        self.missed: dict[int, int] = {}
        self.lost: dict[int, float] = {}  # seconds, since the last admission

    def choose(
        self, missed: Sequence[int], layer: int, tokens: Sequence[int] | None, prices: Prices | None
    ) -> set[int]:
        """Return those of the misses of a layer-step that are to be uploaded, and count them.

        Args:
            missed: keys, in batch order.
            layer: their MoE layer.
            tokens: of the step that use each; None: one each.
            prices: of uploads; only with ``payback``.
        """
        candidates = []
        for place, key in enumerate(missed):
            count = self.missed[key] = self.missed.get(key, 0) + 1
            may = count >= self.touches
            if self.payback:
                assert prices is not None  # whoever runs a trace in time sets them
                used_by = 1 if tokens is None else tokens[place]
                lost = self.lost[key] = self.lost.get(key, 0.0) + prices.saved(layer, used_by, key)
                may = may and lost >= prices.upload[key] * (1 - ROUNDING)
            if may:
                candidates.append(place)
        if tokens is not None:
            candidates.sort(key=lambda place: -tokens[place])
        chosen = {missed[place] for place in candidates[: self.number]}
        for key in chosen:
            self.missed[key], self.lost[key] = 0, 0.0
        return chosen
