"""The caches of a running model: the pools of a replay, asked and told layer-step by layer-step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.replay import make_pools
from lrcsim.simulator.setup.run import Run


class Caches:
    """The pools of a run, with what has to be remembered from layer-step to layer-step.

    A step is one token. The layers of a pool must come in the order in which tokens run; where every layer has a pool
    of its own, all tokens of a layer may come before those of the next, since no pool knows of another.

    Args:
        run: capacity, policy, rule of access; of its trace only the table of layers is looked at.

    Attributes:
        accesses: experts looked up so far.
        misses: of these, those that were not resident.
        left_out: of the misses, those that were not admitted.
    """

    def __init__(self, run: Run) -> None:
        trace = run.trace
        self.stride, self.counts = trace.num_experts, trace.layers.num_experts.tolist()
        self.pools = make_pools(run)
        layers = trace.num_layers
        self._pool_of_layer = [0] * layers if len(self.pools) == 1 else list(range(layers))
        self._method = [pool.method(run.access) for pool in self.pools]
        policy = self.pools[0].policy
        self.weighed = "weights" in policy.needs | policy.wants
        self._refills, self._warm = policy.refills, run.warm
        self._step, self._request = [-1] * len(self.pools), [-1] * len(self.pools)
        self.accesses = self.misses = self.left_out = 0

    def begin(self, layer: int, step: int, request: int) -> None:
        """Begin a layer-step: a cold cache is emptied before a request, a policy that refills itself does so.

        Args:
            layer: the MoE layer.
            step: number of the token, from 0 over all requests.
            request: number of the request.
        """
        at = self._pool_of_layer[layer]
        pool = self.pools[at]
        view = pool.view
        view.step, view.layer, view.request, view.phase = step, layer, request, 1
        if step == self._step[at]:
            return
        if request != self._request[at]:
            if not self._warm and self._request[at] >= 0:
                pool.empty()
            self._request[at] = request
        if self._refills:
            pool.refill()
        self._step[at] = step

    def residents(self, layer: int) -> npt.NDArray[np.bool_]:
        """Return bool [E], which experts of a layer are in the cache."""
        resident, first = self.pools[self._pool_of_layer[layer]].resident, layer * self.stride
        return np.array([key in resident for key in range(first, first + self.counts[layer])])

    def use(self, layer: int, ids: list[int], weights: list[float], needed: set[int] | None = None) -> list[int]:
        """Use a token's experts, in rank order; return those that were not resident.

        Args:
            layer: the MoE layer; `begin` has been called.
            ids: experts of the token.
            weights: of each.
            needed: the experts that are loaded if they miss; None: all. The policy does not hear of the others' misses.
        """
        at, first = self._pool_of_layer[layer], layer * self.stride
        pool = self.pools[at]
        if self.weighed:
            pool.view.weights = weights
        keys = [first + expert for expert in ids]
        if needed is None:
            missed = [key - first for key in self._method[at](keys)]
        else:
            admitted = {first + expert for expert in needed}
            found = pool.coresident(keys, lambda missed: [key for key in missed if key in admitted])
            missed = [key - first for key in found]
            self.left_out += len(set(missed) - needed)
        self.accesses += len(ids)
        self.misses += len(missed)
        return missed
