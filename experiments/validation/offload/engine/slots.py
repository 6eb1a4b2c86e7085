"""The engine's own cache: which expert is in which slot of a layer. Written apart from the simulator's, to check it.

Experts used in a step are together in the cache while it runs. Those that are missing come in; then the least recently
used leave, none of the step's own unless it has more experts than the cache has room.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class LayerCache:
    """One layer's slots.

    Args:
        first: number of its first slot.
        capacity: experts it keeps.
        room: slots it has; as many as the largest batch, or more.
        fixed: keys that are there from the beginning and for good; then nothing else is ever let in.

    Attributes:
        slot: by key, least recently used first.
    """

    def __init__(self, first: int, capacity: int, room: int, fixed: Sequence[int] | None = None) -> None:
        self.capacity = capacity
        self.fixed = fixed is not None
        self.slot: dict[int, int] = {key: first + place for place, key in enumerate(fixed or ())}
        self._free = list(range(first + room - 1, first + len(self.slot) - 1, -1))
        self._passing: list[int] = []

    def look_up(self, batch: Sequence[int]) -> tuple[list[int], list[int]]:
        """Take in a batch; return its hits and its misses, each in order. Every key has a slot until `end`, if any."""
        slot = self.slot
        hits = [key for key in batch if key in slot]
        misses = [key for key in batch if key not in slot]
        if self.fixed:
            return hits, misses
        self._make_room(len(misses), batch)
        own = {key: slot.pop(key) for key in hits}
        for key in batch:
            slot[key] = own[key] if key in own else self._free.pop()
        excess = len(slot) - self.capacity
        self._passing = list(slot)[:excess] if excess > 0 else []  # only the batch is left
        return hits, misses

    def bring_ahead(self, key: int, protected: Iterable[int]) -> int | None:
        """Give a slot to an expert before its use; None where it is there, or a protected one would have to go."""
        slot = self.slot
        kept = sum(other in slot for other in protected)
        if key in slot or kept >= self.capacity:
            return None
        self._make_room(1, protected)
        slot[key] = self._free.pop()
        return slot[key]

    def end(self) -> None:
        """Let go of what was only passing through."""
        for key in self._passing:
            self._free.append(self.slot.pop(key))
        self._passing = []

    def _make_room(self, coming: int, protected: Iterable[int]) -> None:
        kept = set(protected)
        excess = len(self.slot) + coming - self.capacity
        for key in [key for key in self.slot if key not in kept][: max(excess, 0)]:
            self._free.append(self.slot.pop(key))


def batch_of(rows: Sequence[int]) -> list[int]:
    """Return the different values of all tokens' rows, in the order of their last use; negative ones are none."""
    order: dict[int, None] = {}
    for value in rows:
        if value >= 0:
            order.pop(value, None)
            order[value] = None
    return list(order)
