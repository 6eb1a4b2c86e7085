"""A definition-level twin of time with loads ahead: one link of one lane, LRU caches by layer, the oracle, one GPU.

Nothing here is shared with lrcsim. Time does not jump from event to event of one queue: the link is a list of transfers
and the moment from which it is free, and is brought up to a moment when somebody wants to know. That suffices because
only a layer-step asks for transfers, one at a time, and all of its wishes come at the same moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf


@dataclass
class Machine:
    """Seconds and bytes; an expert is as large as any other."""

    size: float
    bandwidth: float
    overhead: float  # seconds of each chunk before it moves
    chunk: float
    dense: float  # seconds of a layer before its routing
    books: float  # seconds per layer behind that
    per_miss: float  # seconds more for each expert that missed
    expert: float
    output: float


@dataclass
class Transfer:
    """An expert on its way."""

    key: int
    urgent: bool
    left: float
    arrived: float = inf
    cancelled: bool = False


@dataclass
class Link:
    """A lane: all that was ever asked for, in this order; when the chunk under way ends; seconds at work; bytes."""

    machine: Machine
    asked: list[Transfer] = field(default_factory=list)
    moving: Transfer | None = None
    begun: float = 0.0
    ends: float = 0.0
    busy: float = 0.0
    moved: float = 0.0

    def waiting(self) -> list[Transfer]:
        """Those of which something is left to move, the urgent ones first."""
        left = [one for one in self.asked if one.left > 0 and not one.cancelled]
        return [one for one in left if one.urgent] + [one for one in left if not one.urgent]

    def begin(self, now: float) -> None:
        """Move the next chunk: of the transfer under way, unless it is none or lets an urgent one go first."""
        waiting, last = self.waiting(), self.moving
        self.moving = None
        if not waiting:
            return
        goes_on = last is not None and last in waiting and (last.urgent or not waiting[0].urgent)
        self.moving = last if goes_on else waiting[0]
        self.begun = now
        assert self.moving is not None
        self.ends = now + self.machine.overhead + min(self.moving.left, self.machine.chunk) / self.machine.bandwidth

    def until(self, moment: float) -> None:
        """Let all chunks end that end before a moment."""
        while self.moving is not None and self.ends < moment:
            self.end_chunk()

    def end_chunk(self) -> None:
        """End the chunk under way, and begin the next."""
        one, now = self.moving, self.ends
        assert one is not None
        size = min(one.left, self.machine.chunk)
        one.left -= size
        self.moved += size
        self.busy += now - self.begun
        if one.left == 0 and not one.cancelled:
            one.arrived = now
        self.begin(now)

    def ask(self, key: int, urgent: bool, now: float) -> Transfer:
        """Ask for an expert now."""
        made = Transfer(key, urgent, self.machine.size)
        self.asked.append(made)
        if self.moving is None:
            self.begin(now)
        return made

    def wait_for(self, one: Transfer) -> float:
        """Let time pass until an expert has come; return when it did."""
        while one.arrived == inf:
            self.end_chunk()
        return one.arrived


@dataclass
class Found:
    """What a run took; bytes of prefetches asked for, used when there, used when under way, and put out unused."""

    ends: list[float] = field(default_factory=list)  # of each token
    misses: int = 0
    issued: int = 0
    useful: int = 0
    late: int = 0
    evicted: int = 0
    busy: float = 0.0
    moved: float = 0.0


def run(tokens: list[list[list[int]]], slots: int, machine: Machine, distance: int) -> Found:
    """Run tokens, [token][layer] -> distinct experts, each layer's cache with room for a token's and more.

    Args:
        tokens: the trace; every token is a step.
        slots: experts that each layer's cache holds.
        machine: seconds and bytes.
        distance: layer-steps that the oracle looks ahead; 0: nothing is brought ahead.
    """
    layers = len(tokens[0])
    link, found, now = Link(machine), Found(), 0.0
    resident: list[list[int]] = [[] for _ in range(layers)]  # of each layer, the one used longest ago first
    flying: dict[tuple[int, int], Transfer] = {}
    unused: set[tuple[int, int]] = set()

    def put_out(layer: int, kept: set[int]) -> None:
        """Evict what was used longest ago, of those that need not stay, until the rest fits."""
        while len(resident[layer]) > slots:
            gone = next(expert for expert in resident[layer] if expert not in kept)
            resident[layer].remove(gone)
            found.evicted += 1
            unused.discard((layer, gone))
            if (layer, gone) in flying:
                flying.pop((layer, gone)).cancelled = True

    coming = [(layer, batch) for token in tokens for layer, batch in enumerate(token)]
    for place, (layer, batch) in enumerate(coming):
        missed = [expert for expert in batch if expert not in resident[layer]]
        now += machine.dense + machine.books + machine.per_miss * len(missed)
        link.until(now)
        for key in [key for key, one in flying.items() if one.arrived < inf]:
            del flying[key]
        gpu = now
        awaited: list[Transfer] = []
        for expert in batch:
            key = (layer, expert)
            if expert in missed:
                continue
            if key in unused:
                unused.discard(key)
                if key in flying:
                    found.late += 1
                else:
                    found.useful += 1
            if key in flying:
                awaited.append(flying.pop(key))
                awaited[-1].urgent = True
            else:
                gpu += machine.expert
        resident[layer] = [expert for expert in resident[layer] if expert not in batch] + batch
        put_out(layer, set(batch))
        found.misses += len(missed)
        awaited += [link.ask(expert, True, now) for expert in missed]
        last = (place // layers + 2) * layers  # the oracle looks to the end of the next token
        if distance and place + distance < min(len(coming), last):
            later, wanted = coming[place + distance]
            for expert in wanted:
                key = (later, expert)
                kept = {own for at, own in flying if at == later} | (set(batch) if later == layer else set())
                kept &= set(resident[later])
                if expert in resident[later] or len(kept) + 1 > slots:
                    continue
                resident[later].append(expert)
                put_out(later, {*kept, expert})
                found.issued += 1
                unused.add(key)
                flying[key] = link.ask(expert, False, now)
        for one in awaited:
            link.wait_for(one)
        for one in sorted(awaited, key=lambda one: one.arrived):
            gpu = max(gpu, one.arrived) + machine.expert
        now = gpu
        if layer == layers - 1:
            now += machine.output
            found.ends.append(now)
    link.until(now)
    under_way = 0.0 if link.moving is None else max(now - link.begun - machine.overhead, 0) * machine.bandwidth
    found.busy = link.busy + (0.0 if link.moving is None else now - link.begun)
    found.moved = link.moved + under_way
    return found
