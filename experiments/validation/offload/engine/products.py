"""Products of several experts at once, out of whichever slots they are in, in one captured graph.

An expert's place is data, not part of the graph: `Work` says which slots, and how much each token wants of each. Two
ways, of which `choose` takes the faster one that computes the right thing:

* ``gathered``: the experts are copied together, then two batched products. Runs everywhere; moves every weight three
  times instead of once.
* ``grouped``: two grouped products (`torch._grouped_mm`) over all slots of a layer, most of them with no rows. Moves
  every weight once; one graph for each layer. On a GPU from Hopper on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lrcsim.experiments.validation.offload.engine.device import Device
from lrcsim.experiments.validation.offload.engine.experts import split
from lrcsim.experiments.validation.offload.engine.shape import EngineShape

Way = str
WAYS: tuple[Way, ...] = ("grouped", "gathered")
TOLERANCE = 0.03
"""Largest difference from float32 products, as a share of the largest value: bfloat16 has 8 bits, sums over hidden."""


@dataclass(frozen=True)
class Places:
    """What the products read and write on the device; it stays.

    Attributes:
        slots: bfloat16 [S, numbers].
        h: bfloat16 [tokens, hidden], what enters the experts.
        weights: float32 [tokens, k + 1], router weights by rank, the last 0.
        work: int64 [k, 1 + tokens]: of each expert its slot, and the rank at which each token wants it, k for not.
        out: float32 [tokens, hidden], to which the outputs are added.
    """

    slots: Any
    h: Any
    weights: Any
    work: Any
    out: Any


class Products:
    """Adds weighted outputs of experts to ``places.out``.

    Args:
        device: where.
        shape: of the model.
        places: what to read and write.
        way: of `WAYS`.
        room: slots of each layer; those of layer l are ``l * room`` and on.
    """

    def __init__(self, device: Device, shape: EngineShape, places: Places, way: Way, room: int) -> None:
        torch = device.torch
        self.device, self.shape, self.places, self.way, self.room = device, shape, places, way, room
        self.tokens = int(places.h.shape[0])
        self._numbers = torch.arange(room, device=device.where)
        self._graphs: dict[tuple[int, int], Any] = {}
        self._grouped_mm = grouped_product(torch)

    def prepare(self, layers: Sequence[int], counts: Sequence[int]) -> None:
        """Capture the graphs for so many experts at once."""
        for layer in layers if self.way == "grouped" else layers[:1]:
            for count in counts:
                self._graphs[layer if self.way == "grouped" else 0, count] = self.device.capture(self.of(layer, count))

    def graph(self, layer: int, count: int) -> Any:
        """Return the graph of the first ``count`` experts of ``places.work``, by ascending slots of a layer."""
        return self._graphs[layer if self.way == "grouped" else 0, count]

    def of(self, layer: int, count: int) -> Callable[[], None]:
        """Return what computes them."""
        product = self._grouped if self.way == "grouped" else self._gathered

        def run() -> None:
            places = self.places
            work = places.work[:count]
            outputs = product(layer, work[:, 0], count)  # [count, tokens, hidden]
            weights = places.weights.gather(1, work[:, 1:].T)  # [tokens, count]
            places.out.add_((outputs.float() * weights.T.unsqueeze(2)).sum(0))

        return run

    def _gathered(self, layer: int, slots: Any, count: int) -> Any:
        gate_up, down = split(self.places.slots.index_select(0, slots), self.shape)
        x = self.places.h.unsqueeze(0).expand(count, -1, -1)
        return self._activated(x.bmm(gate_up.transpose(1, 2))).bmm(down.transpose(1, 2))

    def _grouped(self, layer: int, slots: Any, count: int) -> Any:
        first = layer * self.room
        gate_up, down = split(self.places.slots[first : first + self.room], self.shape)
        before = (slots.unsqueeze(0) - first <= self._numbers.unsqueeze(1)).sum(1)  # experts up to each slot
        ends = (before * self.tokens).to(self.device.torch.int32)
        rows = self.places.h.repeat(count, 1)
        inside = self._activated(self._grouped_mm(rows, gate_up.transpose(1, 2), offs=ends))
        return self._grouped_mm(inside, down.transpose(1, 2), offs=ends).view(count, self.tokens, -1)

    def _activated(self, wide: Any) -> Any:
        gate, up = wide.chunk(2, dim=-1)
        return self.device.torch.nn.functional.silu(gate) * up


def grouped_product(torch: Any) -> Any:
    """Return torch's grouped product of matrices by whichever name it has; None where it has none."""
    return getattr(torch.nn.functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


def difference(products: Products, layer: int, count: int) -> float:
    """Return how far a product is from the same in float32, as a share of the largest value."""
    places, torch = products.places, products.device.torch
    places.out.zero_()
    products.of(layer, count)()
    found, expected = places.out.clone(), torch.zeros_like(places.out)
    h = places.h.float()
    for row in places.work[:count]:
        gate_up, down = split(places.slots[int(row[0])].float(), products.shape)
        gate, up = (h @ gate_up.T).chunk(2, dim=1)
        output = (torch.nn.functional.silu(gate) * up) @ down.T
        expected += output * places.weights.gather(1, row[1:].unsqueeze(1))
    places.out.zero_()
    return float((found - expected).abs().max() / expected.abs().max())


def choose(
    device: Device, shape: EngineShape, places: Places, room: int, layer: int, seconds: Callable[[Products], float]
) -> tuple[Way, dict[str, str | float]]:
    """Return the faster of the ways that compute the right thing here, and what was found of each.

    Args:
        device: where.
        shape: of the model.
        places: with experts in some slots of a layer, and ``work`` naming k of them, ascending.
        room: slots of each layer.
        layer: which layer's.
        seconds: times one that is prepared for that layer and k experts.

    Returns:
        The name, and by name the seconds of k experts, or why it is not used.

    Raises:
        RuntimeError: none computes the right thing.
    """
    found: dict[str, str | float] = {}
    times: dict[Way, float] = {}
    count = int(places.work.shape[0])
    for way in WAYS:
        if way == "grouped" and not (device.grouped and grouped_product(device.torch)):
            found[way] = "not here: this torch has no grouped products, or asks the host for them before Hopper"
            continue
        try:
            products = Products(device, shape, places, way, room)
            off = difference(products, layer, count)
            if not off <= TOLERANCE:
                found[way] = f"computes something else: {off:.2g} of the largest value off"
                continue
            products.prepare([layer], [count])
            found[way] = times[way] = seconds(products)
        except (RuntimeError, TypeError) as error:  # torch's, of a product that this version or GPU does not have
            found[way] = f"fails: {str(error).splitlines()[0]}"
    if not times:
        raise RuntimeError(f"no way to compute experts works here: {found}")
    return min(times, key=times.__getitem__), found
