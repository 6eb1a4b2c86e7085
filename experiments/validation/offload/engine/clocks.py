"""Who has seen what: happens-before by vector clocks, to find a race in work that is enqueued on several streams.

Lamport, "Time, clocks, and the ordering of events in a distributed system", CACM 21 (7), 1978; as vectors: Mattern,
"Virtual time and global states of distributed systems", 1989. Each agent (the host, a stream) counts what it does, and
knows up to which count it has seen the others. A place may be read by who has seen its last write, and written by who
has seen its last write and every read since.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from lrcsim.experiments.validation.offload.engine.device import Place

HOST = 0
Clock = dict[int, int]


class MisuseError(AssertionError):
    """Something that a GPU would do, and do wrongly."""


def join(into: Clock, other: Clock) -> None:
    """Let a clock learn what another knows."""
    for agent, count in other.items():
        if count > into.get(agent, 0):
            into[agent] = count


@dataclass
class Clocks:
    """The clocks of all agents, and the last uses of all places.

    Attributes:
        known: by agent, what it has seen of each.
    """

    known: dict[int, Clock] = field(default_factory=lambda: defaultdict(dict))
    _written: dict[Place, tuple[int, int]] = field(default_factory=dict)
    _read: dict[Place, Clock] = field(default_factory=lambda: defaultdict(dict))

    def act(self, agent: int, reads: Iterable[Place] = (), writes: Iterable[Place] = ()) -> None:
        """Let an agent do something; a stream has then seen all that the host had seen when it enqueued it.

        Raises:
            MisuseError: a place is used before it is ready.
        """
        mine = self.known[agent]
        if agent != HOST:
            join(mine, self.known[HOST])
        mine[agent] = count = mine.get(agent, 0) + 1
        writes = list(writes)
        for place in reads:
            if place not in self._written:
                raise MisuseError(f"{place} is read and was never written")
            self._check(mine, place, "read", self._written[place])
            self._read[place][agent] = count
        for place in writes:
            if place in self._written:
                self._check(mine, place, "written", self._written[place])
            for reader, when in self._read.pop(place, {}).items():
                if reader != agent or when != count:
                    self._check(mine, place, "written", (reader, when))
            self._written[place] = agent, count

    @staticmethod
    def _check(mine: Clock, place: Place, verb: str, last: tuple[int, int]) -> None:
        agent, count = last
        if mine.get(agent, 0) < count:
            who = "the host" if agent == HOST else f"stream {agent}"
            raise MisuseError(f"{place} is {verb} before what {who} does with it is waited for")
