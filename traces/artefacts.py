"""Signs that a recorder wrote something other than what the model routed: a trace is not wrong, but worth a look.

Each sign is looked for while a trace streams by, and is chosen so that the routing of no real model shows it: where
chance could (few experts, few layers, few tokens) nothing is said.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.traces.check import Problem
from lrcsim.traces.layers import LayerTable

Ids = npt.NDArray[np.signedinteger[Any]]
Ints = npt.NDArray[np.int64]

SURPRISE = 25.0
"""Natural logarithm of how unlikely a coincidence must be before it is told (1 in 70 billion)."""

RUN = 4
"""Tokens one after the other with the same experts in all layers, at least; more where layers and experts are few."""

MANY = 32
"""Such tokens in a row that are told however long the trace is. Real models do six, on a line of dashes."""

EVERY = 4
"""One token in so many that repeats the one before is told, however short the runs: rows that are written twice."""

ENOUGH = 64
"""Tokens that a layer must have before it is called constant, or a copy."""


class Artefacts:
    """Looks at the runs of a trace, given its layers and request offsets, in order; says at the end what it noticed."""

    def __init__(self, layers: LayerTable, offsets: npt.NDArray[np.int64]) -> None:
        self.layers, self.offsets = layers, offsets
        self.tokens = 0
        self.strides = _Strides(layers)
        self.rows = _Rows(layers)
        self.columns = _LayerColumns(layers)
        self.weights = _Weights()
        self.switches = 0

    def see(self, columns: Mapping[str, npt.NDArray[Any]], first_token: int) -> None:
        """Look at the columns of a run of tokens that `check_tokens` found nothing wrong with."""
        experts = columns["experts"]
        count = len(experts)
        starts = self.offsets[np.searchsorted(self.offsets, first_token) :]
        starts = np.unique(starts[starts < first_token + count]) - first_token
        phase = columns.get("phase")
        self.strides.see(experts, starts, phase, first_token)
        self.rows.see(experts, starts, first_token)
        self.columns.see(experts)
        if "weights" in columns:
            self.weights.see(columns["weights"], experts)
        if phase is not None:
            within = np.ones(max(count - 1, 0), bool)
            within[starts[starts > 0] - 1] = False
            self.switches += int(np.count_nonzero((phase[1:] != phase[:-1]) & within))
        self.tokens += count

    def warnings(self) -> list[Problem]:
        """Return what was noticed, each with the first place."""
        found = [*self.strides.found(), *self.rows.found(), *self.columns.found(self.tokens), *self.weights.found()]
        if len(self.layers) > self.tokens:
            what = f"{len(self.layers)} layers and only {self.tokens} tokens: are the axes [layers, tokens, k]?"
            found.append(Problem("the trace", what))
        if self.switches > max(self.tokens // 4, 8):
            what = f"prefill and decode take turns {self.switches:,} times within requests: is this column the phase?"
            found.append(Problem("phase", what))
        return found


class _Strides:
    """A view of the first k columns of a full ranking, stored as if it were contiguous.

    ``torch.argsort(logits)[:, :k]`` (or a sort) is a view with a stride of E. Its memory read as [tokens, k] is the
    first token's ranking of all E experts, k by k, then the second's: E consecutive ids are a permutation of all
    experts. Where real routers do that, it is by chance, of which the probability is known.
    """

    def __init__(self, layers: LayerTable) -> None:
        self.experts, self.k = int(layers.num_experts.max()), int(layers.top_k.max())
        self.usable = layers.uniform and 2 * self.k <= self.experts
        self.chunks = 0
        self.permutations = np.zeros(len(layers), np.int64)
        self.first: int | None = None
        per_chunk = self.experts // self.k
        ways = [math.comb(self.experts - i * self.k, self.k) for i in range(per_chunk)] if self.usable else [1]
        self.by_chance = sum(math.log(way) for way in ways) - per_chunk * math.log(max(ways))

    def see(self, experts: Ids, starts: Ints, phase: npt.NDArray[Any] | None, first_token: int) -> None:
        """Look at the beginning of each request, or of its prompt: that is one step of many tokens."""
        if not self.usable:
            return
        count = len(experts)
        ends = np.append(starts, count)[1:]
        if phase is not None:
            changes = np.append(np.flatnonzero(np.diff(phase)) + 1, count)
            ends = np.minimum(ends, changes[np.searchsorted(changes, starts, side="right")])
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            chunks = min((end - start) * self.k // self.experts, 4)
            if chunks == 0:
                continue
            used = -(-chunks * self.experts // self.k)
            flat = experts[start : start + used].transpose(1, 0, 2).reshape(experts.shape[1], -1)
            ranked = np.sort(flat[:, : chunks * self.experts].reshape(len(flat), chunks, self.experts), axis=2)
            whole = (ranked == np.arange(self.experts)).all(axis=2)
            self.chunks += chunks
            self.permutations += whole.sum(axis=1)
            if self.first is None and whole.any():
                self.first = first_token + start

    def found(self) -> list[Problem]:
        """Return a warning when there are far more permutations than chance makes."""
        if self.first is None:
            return []
        layers = np.flatnonzero(4 * self.permutations >= self.chunks)
        seen, of = int(self.permutations[layers].sum()), self.chunks * len(layers)
        if not seen:
            return []
        surprise = seen * (math.log(seen / of) - self.by_chance) - seen  # Chernoff's bound
        if surprise < SURPRISE + 0.7 * len(self.permutations):
            return []
        what = (
            f"no expert comes twice in {self.experts / self.k:g} tokens in a row ({seen:,} of {of:,} times): a strided "
            "view of a full ranking (argsort(...)[:, :k]) stored as if it were contiguous; record it with .contiguous()"
        )
        return [Problem(f"token {self.first}, {_named(layers, len(self.permutations))}", what)]


class _Rows:
    """Tokens one after the other with the same experts in every layer, and rows that are no routing (0, 1, 2 ...)."""

    def __init__(self, layers: LayerTable) -> None:
        ways = [math.comb(int(e), int(k)) for e, k in zip(layers.num_experts, layers.top_k, strict=True)]
        told = sum(math.log(way) for way in ways) / 2  # of one row; real routers prefer some experts: half of it
        self.cells = int(layers.top_k.sum())
        self.usable = told > 4 and self.cells >= 4
        self.least = max(RUN, 1 + math.ceil(SURPRISE / told)) if self.usable else 0
        self.counting = np.where(
            np.arange(int(layers.top_k.max())) < layers.top_k[:, None], np.arange(int(layers.top_k.max())), -1
        )
        self.before: Ids | None = None
        self.start = 0  # of the run that the last token belongs to
        self.tokens = self.repeated = self.longest = self.filled = 0
        self.pairs = self.differ = self.alike = 0  # tokens with one before; with another row; cells alike in those
        self.first = self.first_filled = self.first_pair = -1

    def see(self, experts: Ids, starts: Ints, first_token: int) -> None:
        """Compare every token with the one before it, within requests."""
        if not self.usable:
            return
        before = np.concatenate([experts[:1] if self.before is None else self.before[None], experts[:-1]])
        equal = experts == before
        same = equal.all(axis=(1, 2)) & (experts >= 0).any(axis=(1, 2))
        if self.before is None:
            same[0] = False
        same[starts] = False
        self.pairs += len(experts)
        self.differ += int(np.count_nonzero(~same))
        self.alike += int(np.count_nonzero(equal[~same] & (experts[~same] >= 0)))
        if self.first_pair < 0 and same.any():
            self.first_pair = first_token + int(np.argmax(same)) - 1
        self.before = experts[-1].copy()
        begins = np.concatenate([[self.start], first_token + np.flatnonzero(~same)])
        self._add(begins[:-1], np.diff(begins))
        self.start, self.tokens = int(begins[-1]), first_token + len(experts)
        pattern = (experts == self.counting).all(axis=(1, 2))
        if pattern.any() and self.first_filled < 0:
            self.first_filled = first_token + int(np.argmax(pattern))
        self.filled += int(np.count_nonzero(pattern))

    def _add(self, begins: Ints, lengths: Ints) -> None:
        long = lengths >= self.least
        if long.any():
            self.repeated += int(lengths[long].sum())
            self.longest = max(self.longest, int(lengths.max()))
            if self.first < 0:
                self.first = int(begins[np.argmax(long)])

    def found(self) -> list[Problem]:
        """Return warnings for runs of equal rows and for rows of 0, 1, 2 ..."""
        if not self.usable:
            return []
        self._add(np.array([self.start]), np.array([self.tokens - self.start]))
        problems = []
        likeness = self.alike / max(self.differ * self.cells, 1)  # of cells of rows that differ: a few experts for all
        natural = 4 * self.pairs * likeness**self.cells
        if self.repeated > natural and (self.longest >= MANY or self.repeated > self.tokens // 100):
            what = (
                f"{self.repeated:,} tokens have the routing of the token before them in all layers, up to "
                f"{self.longest:,} in a row: padding, a buffer read again, or one token repeated"
            )
            problems.append(Problem(f"token {self.first}", what))
        elif self.tokens >= ENOUGH and self.pairs - self.differ > max(natural, self.tokens // EVERY):
            what = (
                f"{self.pairs - self.differ:,} of {self.tokens:,} tokens have the routing of the token before them in "
                "all layers: rows written twice?"
            )
            problems.append(Problem(f"token {self.first_pair}", what))
        if self.filled >= self.least - 1 > 0:
            what = f"{self.filled:,} tokens use experts 0, 1, 2 ... in every layer: rows that were never written"
            problems.append(Problem(f"token {self.first_filled}", what))
        return problems


class _LayerColumns:
    """Layers that choose the same experts for every token, that equal another layer, and experts never used."""

    def __init__(self, layers: LayerTable) -> None:
        self.layers = layers
        count = len(layers)
        self.sets: list[Ids | None] = [None] * count
        self.constant = layers.top_k < layers.num_experts
        self.seen = np.zeros(count, np.int64)
        self.digests = [hashlib.blake2b(digest_size=16) for _ in range(count)]
        self.largest = -1
        self.least = int(layers.num_experts.max())
        self.accesses = 0

    def see(self, experts: Ids) -> None:
        """Look at the layers' columns of a run."""
        recorded = experts >= 0
        self.accesses += int(np.count_nonzero(recorded))
        self.largest = max(self.largest, int(experts.max()))
        if recorded.any():
            self.least = min(self.least, int(experts.min(where=recorded, initial=np.iinfo(experts.dtype).max)))
        for layer in range(experts.shape[1]):
            column = np.ascontiguousarray(experts[:, layer])
            self.digests[layer].update(column.astype("<i4", copy=False).tobytes())
            full = column[(column >= 0).sum(axis=1) == self.layers.top_k[layer]]
            self.seen[layer] += len(full)
            if self.constant[layer] and len(full):
                first = np.sort(full[0]) if self.sets[layer] is None else self.sets[layer]
                self.sets[layer] = first
                self.constant[layer] = bool((np.sort(full, axis=1) == first).all())

    def found(self, tokens: int) -> list[Problem]:
        """Return warnings for what holds of all tokens."""
        problems = []
        constant = np.flatnonzero(self.constant & (self.seen >= ENOUGH))
        if len(constant):
            k = int(self.layers.top_k[constant[0]])
            what = f"routes all {self.seen[constant[0]]:,} tokens to the same {k} expert{'s' * (k > 1)}"
            problems.append(Problem(_named(constant, len(self.seen)), what, len(constant)))
        twins: dict[bytes, int] = {}
        equal = []
        for layer, digest in enumerate(self.digests):
            other = twins.setdefault(digest.digest(), layer)
            if other != layer and not self.constant[layer] and self.seen[layer] >= ENOUGH:
                equal.append((other, layer))
        if equal:
            what = f"has exactly the routing of layer {equal[0][0]}, token by token: one layer read twice?"
            problems.append(Problem(f"layer {equal[0][1]}", what, len(equal)))
        experts = int(self.layers.num_experts.max())
        if self.accesses >= 50 * experts:
            if 2 * (self.largest + 1) <= experts:
                what = f"is {experts}, but no id above {self.largest} occurs in {self.accesses:,} accesses"
                problems.append(Problem("num_experts", what))
            if self.least > 0 and len(self.layers) > 1:
                what = f"no id below {self.least} occurs in any layer: do the file's ids count from {self.least}?"
                problems.append(Problem("experts", what))
        return problems


class _Weights:
    """Router weights that are all the same number, or that rise with the rank."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.count = self.rising = self.rows = 0

    def see(self, weights: npt.NDArray[Any], experts: Ids) -> None:
        """Look at the weights of the recorded experts of a run."""
        recorded = experts >= 0
        values = weights[recorded]
        if not len(values):
            return
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.count += len(values)
        if weights.shape[2] > 1:
            whole = recorded.all(axis=2)
            steps = np.diff(weights[whole].astype(np.float32), axis=1)
            self.rows += len(steps)
            self.rising += int(np.count_nonzero((steps > 0).all(axis=1)))

    def found(self) -> list[Problem]:
        """Return warnings for weights that cannot be a router's."""
        if self.count >= ENOUGH and self.low == self.high:
            return [Problem("weights", f"are {self.low:g} everywhere: they were not recorded")]
        if self.rows >= ENOUGH and self.rising > 0.95 * self.rows:
            return [Problem("weights", "rise with the rank: are the experts listed worst first?")]
        return []


def _named(layers: Ints, of: int) -> str:
    if len(layers) == of and of > 1:
        return "all layers"
    return f"layer{'s' * (len(layers) > 1)} " + ", ".join(map(str, layers[:8])) + (", ..." if len(layers) > 8 else "")
