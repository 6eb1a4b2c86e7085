"""Queue algorithms, "evict, then insert", with plain lists, oldest entry first; see `naive`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

from naive_traces import Params, part


class Queues:
    """A queue algorithm. ``choose`` names the victim and takes it out of its queue."""

    def __init__(self, capacity: int, params: Params) -> None:
        self.capacity = capacity

    def begin(self) -> None:
        """Begin with a batch (or, one by one, with an access)."""

    def hit(self, key: int) -> None:
        """Use a resident."""

    def miss(self, key: int) -> None:
        """Ask for an expert that is not resident."""

    def insert(self, key: int) -> None:
        """Let an expert in."""
        raise NotImplementedError

    def choose(self, protected: Sequence[int]) -> int:
        """Put one out."""
        raise NotImplementedError


class Clock(Queues):
    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.queue: list[int] = []
        self.used: list[int] = []

    def hit(self, key: int) -> None:
        if key not in self.used:
            self.used.append(key)

    def insert(self, key: int) -> None:
        self.queue.append(key)

    def choose(self, protected: Sequence[int]) -> int:
        while True:
            key = self.queue.pop(0)
            if key in protected:
                self.queue.append(key)
            elif key in self.used:
                self.used.remove(key)
                self.queue.append(key)
            else:
                return key


class Sieve(Queues):
    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.queue: list[int] = []
        self.used: list[int] = []
        self.hand = 0

    def hit(self, key: int) -> None:
        if key not in self.used:
            self.used.append(key)

    def insert(self, key: int) -> None:
        self.queue.append(key)

    def choose(self, protected: Sequence[int]) -> int:
        while True:
            if self.hand >= len(self.queue):
                self.hand = 0
            key = self.queue[self.hand]
            if key not in protected and key not in self.used:
                self.queue.remove(key)
                if self.hand == len(self.queue):  # it was the newest: the next sweep begins with the oldest
                    self.hand = 0
                return key  # else the hand stands at the next newer one
            if key not in protected:
                self.used.remove(key)
            self.hand += 1


class Slru(Queues):
    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.probation: list[int] = []
        self.kept: list[int] = []
        self.room = part(params["share"], capacity)

    def hit(self, key: int) -> None:
        (self.kept if key in self.kept else self.probation).remove(key)
        self.kept.append(key)
        while len(self.kept) > self.room:
            self.probation.append(self.kept.pop(0))

    def insert(self, key: int) -> None:
        self.probation.append(key)

    def choose(self, protected: Sequence[int]) -> int:
        for queue in (self.probation, self.kept):
            for key in queue:
                if key not in protected:
                    queue.remove(key)
                    return key
        raise AssertionError("nothing to evict")


class S3Fifo(Queues):
    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.small: list[int] = []
        self.main: list[int] = []
        self.ghost: list[int] = []
        self.small_room = max(1, part(params["share"], capacity))
        self.main_room = capacity - self.small_room
        self.ghost_room = part(0.9, capacity)
        self.threshold = params["threshold"]
        self.hits: dict[int, int] = {}
        self.remembered: list[int] = []
        self.filling = True

    def begin(self) -> None:
        self.remembered = []

    def hit(self, key: int) -> None:
        self.hits[key] += 1

    def miss(self, key: int) -> None:
        if key in self.ghost:
            self.ghost.remove(key)
            self.remembered.append(key)

    def insert(self, key: int) -> None:
        self.hits[key] = 0
        no_room = self.filling and len(self.small) >= self.small_room
        (self.main if key in self.remembered or no_room else self.small).append(key)

    def choose(self, protected: Sequence[int]) -> int:
        self.filling = False
        while True:
            main = [key for key in self.main if key not in protected]
            small = [key for key in self.small if key not in protected]
            if small and (len(self.main) <= self.main_room or not main):
                for key in small:
                    self.small.remove(key)
                    if self.hits[key] < self.threshold:
                        if self.ghost_room:
                            self.ghost = [*self.ghost, key][-self.ghost_room :]
                        return key
                    self.main.append(key)
                    self.hits[key] = 0
            else:
                key = main[0]
                self.main.remove(key)
                if self.hits[key] == 0:
                    return key
                self.main.append(key)
                self.hits[key] = min(self.hits[key], 3) - 1


class Arc(Queues):
    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.t1: list[int] = []
        self.t2: list[int] = []
        self.b1: list[int] = []
        self.b2: list[int] = []
        self.target = Fraction(0)
        self.causes: list[str] = []  # where each miss of the batch was found: "b1", "b2" or ""
        self.again: list[int] = []  # those of them that were in a ghost list

    def begin(self) -> None:
        self.causes, self.again = [], []

    def hit(self, key: int) -> None:
        (self.t1 if key in self.t1 else self.t2).remove(key)
        self.t2.append(key)

    def miss(self, key: int) -> None:
        one, two = len(self.b1), len(self.b2)
        if key in self.b1:
            self.target = min(Fraction(self.capacity), self.target + max(Fraction(1), Fraction(two, one)))
            self.b1.remove(key)
            self.causes.append("b1")
            self.again.append(key)
        elif key in self.b2:
            self.target = max(Fraction(0), self.target - max(Fraction(1), Fraction(one, two)))
            self.b2.remove(key)
            self.causes.append("b2")
            self.again.append(key)
        else:
            self.causes.append("")

    def insert(self, key: int) -> None:
        (self.t2 if key in self.again else self.t1).append(key)

    def choose(self, protected: Sequence[int]) -> int:
        cause = self.causes.pop(0) if self.causes else ""
        ghosts = True
        if cause == "":
            if len(self.t1) + len(self.b1) >= self.capacity:
                if self.b1:
                    self.b1.pop(0)
                else:
                    ghosts = all(key in protected for key in self.t1)
            elif len(self.t1) + len(self.t2) + len(self.b1) + len(self.b2) >= 2 * self.capacity and self.b2:
                self.b2.pop(0)
        one = [key for key in self.t1 if key not in protected]
        two = [key for key in self.t2 if key not in protected]
        size = len(self.t1)
        from_one = not ghosts or size > self.target or (cause == "b2" and size == self.target)
        if one and (from_one or not two):
            self.t1.remove(one[0])
            if ghosts:
                self.b1 = [*self.b1, one[0]][-self.capacity :]
            return one[0]
        self.t2.remove(two[0])
        self.b2 = [*self.b2, two[0]][-self.capacity :]
        return two[0]


class TwoQ(Queues):
    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.kin, self.kout = (max(1, part(params[name], capacity)) for name in ("share", "ghost"))
        self.a1in: list[int] = []
        self.a1out: list[int] = []
        self.am: list[int] = []
        self.again: list[int] = []  # those of the batch that were in A1out

    def begin(self) -> None:
        self.again = []

    def hit(self, key: int) -> None:
        if key in self.am:
            self.am.remove(key)
            self.am.append(key)

    def miss(self, key: int) -> None:
        if key in self.a1out:
            self.a1out.remove(key)
            self.again.append(key)

    def insert(self, key: int) -> None:
        (self.am if key in self.again else self.a1in).append(key)

    def choose(self, protected: Sequence[int]) -> int:
        once = [key for key in self.a1in if key not in protected]
        more = [key for key in self.am if key not in protected]
        if once and (len(self.a1in) > self.kin or not more):
            self.a1in.remove(once[0])
            self.a1out = [*self.a1out, once[0]][-self.kout :]
            return once[0]
        self.am.remove(more[0])
        return more[0]


class Lirs(Queues):
    """The stack is one list of (expert, status), bottom first; "hir" are resident, "out" are not."""

    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.most_lir = capacity - max(1, part(params["share"], capacity))
        self.stack: list[tuple[int, str]] = []
        self.queue: list[int] = []
        self.evicted: list[int] = []
        self.again: list[int] = []
        self.evicted_yet = False

    def begin(self) -> None:
        self.again = []

    def lirs(self) -> list[int]:
        return [key for key, status in self.stack if status == "lir"]

    def on_top(self, key: int, status: str) -> None:
        """Put an expert on top of the stack, whatever it was, with a status."""
        self.stack = [(other, its) for other, its in self.stack if other != key] + [(key, status)]
        if status == "lir":
            self.queue = [other for other in self.queue if other != key]
            if len(self.lirs()) > self.most_lir:
                bottom = self.lirs()[0]
                self.stack = [(other, "hir" if other == bottom else its) for other, its in self.stack]
                self.queue.append(bottom)
        self.prune()

    def prune(self) -> None:
        while self.stack and self.stack[0][1] != "lir":
            self.stack.pop(0)
        there = [key for key, _ in self.stack]
        self.evicted = [key for key in self.evicted if key in there]

    def hit(self, key: int) -> None:
        if (key, "lir") in self.stack or (key, "hir") in self.stack:
            self.on_top(key, "lir")
        else:
            self.queue.remove(key)
            self.queue.append(key)
            self.on_top(key, "hir")

    def miss(self, key: int) -> None:
        if (key, "out") in self.stack:
            self.stack.remove((key, "out"))
            self.evicted.remove(key)
            self.again.append(key)

    def insert(self, key: int) -> None:
        if key in self.again or (not self.evicted_yet and len(self.lirs()) < self.most_lir):
            self.on_top(key, "lir")
        else:
            self.queue.append(key)
            self.on_top(key, "hir")

    def choose(self, protected: Sequence[int]) -> int:
        self.evicted_yet = True
        key = next(key for key in [*self.queue, *self.lirs()] if key not in protected)
        self.queue = [other for other in self.queue if other != key]
        self.stack = [(other, "out" if other == key else status) for other, status in self.stack]
        self.evicted.append(key)
        self.prune()
        if len(self.evicted) > self.capacity:
            self.stack.remove((self.evicted.pop(0), "out"))
        return key


class WTinyLfu(Queues):
    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.window_room = max(1, part(params["window"], capacity))
        self.main_room = capacity - self.window_room
        self.kept_room = part(params["share"], self.main_room)
        self.window: list[int] = []
        self.probation: list[int] = []
        self.kept: list[int] = []
        self.sample = int(params["sample"]) * capacity
        self.count: dict[int, int] = {}
        self.counted = 0

    def use(self, key: int) -> None:
        self.count[key] = min(15, self.count.get(key, 0) + 1)
        self.counted += 1
        if self.counted >= self.sample:
            self.counted //= 2
            self.count = {other: uses // 2 for other, uses in self.count.items()}

    def hit(self, key: int) -> None:
        self.use(key)
        if key in self.window:
            self.window.remove(key)
            self.window.append(key)
            return
        (self.kept if key in self.kept else self.probation).remove(key)
        self.kept.append(key)
        while len(self.kept) > self.kept_room:
            self.probation.append(self.kept.pop(0))

    def miss(self, key: int) -> None:
        self.use(key)

    def insert(self, key: int) -> None:
        self.window.append(key)
        while len(self.window) > self.window_room and len(self.probation + self.kept) < self.main_room:
            self.probation.append(self.window.pop(0))

    def choose(self, protected: Sequence[int]) -> int:
        new = [key for key in self.window if key not in protected]
        main = [key for key in self.probation + self.kept if key not in protected]
        if new and (not main or self.count[new[0]] <= self.count[main[0]]):
            self.window.remove(new[0])
            return new[0]
        (self.kept if main[0] in self.kept else self.probation).remove(main[0])
        if new:
            self.window.remove(new[0])
            self.probation.append(new[0])
        return main[0]


class Random(Queues):
    """Draw by L'Ecuyer's combined generator, again where the draw is protected; the last resident fills the gap."""

    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.residents: list[int] = []
        self.one = self.two = 0  # seeds, which outlive an emptied pool

    def begin_draws(self, seed: int, layer: int) -> None:
        start = random.Random(f"{seed}/{layer}")
        self.one, self.two = start.randrange(1, 2147483563), start.randrange(1, 2147483399)

    def insert(self, key: int) -> None:
        self.residents.append(key)

    def choose(self, protected: Sequence[int]) -> int:
        while True:
            self.one = 40014 * self.one % 2147483563
            self.two = 40692 * self.two % 2147483399
            share = Fraction((self.one - self.two) % 2147483562, 2147483562)
            place = int(share * len(self.residents))
            key = self.residents[place]
            if key not in protected:
                self.residents[place] = self.residents[-1]
                self.residents.pop()
                return key


QUEUES: dict[str, type[Queues]] = {
    "clock": Clock,
    "sieve": Sieve,
    "slru": Slru,
    "s3-fifo": S3Fifo,
    "arc": Arc,
    "2q": TwoQ,
    "lirs": Lirs,
    "w-tinylfu": WTinyLfu,
    "random": Random,
}
