"""Requests of the past, and how like each the running one is: what trace-match looks up (MoE-Infinity)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

KEPT, NEXT, REQUEST = range(3)
"""Places in `Remembered.counter`."""


class Remembered(NamedTuple):
    """Uses by layer and expert of past requests, and their cosines with those of the running one.

    Where the running request uses experts, only the dot products of that layer change, and uses are whole numbers: so
    dot products are kept, exactly, and a layer-step takes additions of its own experts' rows. With n requests of
    L x E experts: 12 n L E bytes.

    Attributes:
        uses: int32 [L, E, n], steps of each request that used an expert.
        lengths: float64 [L, n], Euclidean lengths of its rows ``uses[layer, :, request]``.
        shares: float64 [n, L, E], the same rows, each divided by its sum.
        largest: float64 [n, L], the largest share of each row.
        running: int64 [L, E], uses of the running request.
        squares: int64 [L], the sum of their squares.
        dots: int64 [L, n], dot products of the rows of the running request and of each.
        cosines: float64 [L, n], of these rows; 0 where one has no uses.
        likeness: float64 [n], their sum over the layers.
        counter: int64 [3]: how many requests are kept, the place of the next one, and the running request, -1 at first.
    """

    uses: npt.NDArray[np.int32]
    lengths: Floats
    shares: Floats
    largest: Floats
    running: Ints
    squares: Ints
    dots: Ints
    cosines: Floats
    likeness: Floats
    counter: Ints

    @classmethod
    def empty(cls, requests: int, layers: int, experts: int) -> Remembered:
        """Start with nothing; there is room for so many requests, and then the oldest is forgotten."""
        return cls(
            np.zeros((layers, experts, requests), np.int32),
            np.zeros((layers, requests)),
            np.zeros((requests, layers, experts)),
            np.zeros((requests, layers)),
            np.zeros((layers, experts), np.int64),
            np.zeros(layers, np.int64),
            np.zeros((layers, requests), np.int64),
            np.zeros((layers, requests)),
            np.zeros(requests),
            np.array([0, 0, -1]),
        )

    def begin(self, request: int) -> None:
        """Keep the request that has run, if it used anything, and begin another."""
        if self.running.any():
            place = int(self.counter[NEXT])
            self.uses[:, :, place] = self.running
            self.lengths[:, place] = np.sqrt(self.squares)
            self.shares[place] = self.running / np.maximum(self.running.sum(axis=1, keepdims=True), 1)
            self.largest[place] = self.shares[place].max(axis=1)
            room = len(self.likeness)
            self.counter[KEPT], self.counter[NEXT] = min(self.counter[KEPT] + 1, room), (place + 1) % room
        for changed in (self.running, self.squares, self.dots, self.cosines, self.likeness):
            changed[:] = 0
        self.counter[REQUEST] = request

    def use(self, layer: int, experts: Sequence[int]) -> None:
        """Count a layer-step of the running request."""
        for expert in experts:
            self.squares[layer] += 2 * self.running[layer, expert] + 1
            self.running[layer, expert] += 1
            self.dots[layer] += self.uses[layer, expert]
        lengths = np.sqrt(self.squares[layer]) * self.lengths[layer]
        cosines = np.divide(self.dots[layer], lengths, out=np.zeros_like(lengths), where=lengths > 0)
        self.likeness[:] += cosines - self.cosines[layer]
        self.cosines[layer] = cosines

    def nearest(self) -> int:
        """Return the place of the request most like the running one, of equals the oldest; -1: none is kept."""
        kept, room = int(self.counter[KEPT]), len(self.likeness)
        if not kept:
            return -1
        by_age = (np.arange(kept) + (self.counter[NEXT] if kept == room else 0)) % room
        return int(by_age[np.argmax(self.likeness[by_age])])
