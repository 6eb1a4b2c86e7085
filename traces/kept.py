"""What was worked out from a trace, kept for as long as the trace is there."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from lrcsim.traces.trace import Identity, RoutingTrace

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """Values of one kind that depend on nothing but a trace's columns and their key.

    Copies of a trace share them, also with other sizes of experts, so loops over policies and machines pay once.
    """

    def __init__(self) -> None:
        self._by_trace: WeakKeyDictionary[Identity, dict[Hashable, Value]] = WeakKeyDictionary()

    def of(self, trace: RoutingTrace) -> dict[Hashable, Value]:
        """Return what is known of a trace, by key."""
        return self._by_trace.setdefault(trace.identity, {})

    def once(self, trace: RoutingTrace, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return the value under a key, computed if it is not known yet."""
        known = self.of(trace)
        if key not in known:
            known[key] = compute()
        return known[key]
