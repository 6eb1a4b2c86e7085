"""Next-gate predictions: what the gate of a later layer says about the hidden state at an earlier one.

The state that enters the gate of layer l - d is also given to the gate of layer l; its choice is the prediction, made
d layers ahead, of what layer l runs. It is the standard predictor of expert prefetching, and costs one run of the gate
per layer and distance.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from lrcsim.recorder.sites import Site

CARRIES_STATE = {"ZayaRouter"}
"""Routers that are also given the state of the router one layer before: two layers ahead it is not known yet."""


class GatePredictor:
    """Asks every layer's gate about the states of the layers before it.

    Attributes:
        asking: true while a gate runs for a prediction, so that hooks can tell it from the model's own run.
    """

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self.asking = False
        self._states: list[Any] = []  # of the layers before, the nearest last

    def forget(self) -> None:
        """Begin another forward pass."""
        self._states = []

    def ask(self, site: Site, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[int, Any]:
        """Return ids [tokens, k] by distance, the likeliest first, as the gate of ``site`` sees them.

        Args:
            site: the layer whose gate has just run.
            args: what the model gave its gate; the state comes first.
            kwargs: the same by name.
        """
        name = next(iter(kwargs), "") if not args else ""
        state = args[0] if args else kwargs[name]
        found: dict[int, Any] = {}
        if site.guess is not None:
            self.asking = True
            try:
                for distance, earlier in enumerate(reversed(self._states), start=1):
                    if distance > 1 and type(site.router).__name__ in CARRIES_STATE:
                        break
                    output = (
                        site.router(earlier, *args[1:], **kwargs) if args else site.router(**{**kwargs, name: earlier})
                    )
                    ids, weights = site.guess(output)
                    found[distance] = ids.gather(-1, weights.argsort(dim=-1, descending=True, stable=True))
            finally:
                self.asking = False
        self._states = [*self._states, state][-self.ahead :]
        return found


class Recall:
    """Share of the executed experts that stood among the predicted ones, by distance."""

    def __init__(self) -> None:
        self._hits: dict[int, int] = {}
        self._asked: dict[int, int] = {}

    def add(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        """Count tokens; layers without a prediction (the first ones) are left out."""
        experts = columns["experts"]
        for name, predicted in columns.items():
            if not name.startswith("predictions/"):
                continue
            distance = int(name.rpartition("/")[2])
            counted = (experts >= 0) & (predicted >= 0).any(axis=2, keepdims=True)
            found = (experts[:, :, :, None] == predicted[:, :, None, :]).any(axis=3) & counted
            self._hits[distance] = self._hits.get(distance, 0) + int(found.sum())
            self._asked[distance] = self._asked.get(distance, 0) + int(counted.sum())

    def by_distance(self) -> dict[int, float | None]:
        """Return recall 0..1 by distance; None where nothing was predicted."""
        return {d: self._hits[d] / asked if (asked := self._asked[d]) else None for d in sorted(self._asked)}
