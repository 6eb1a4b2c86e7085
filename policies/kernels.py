"""The compiled loops there are. A built-in policy names those that run it (`Policy.kernels`).

A third, the loop for "evict the smallest score", needs no name: it runs every `CompiledScore`.
"""

from __future__ import annotations

from enum import IntEnum


class Queue(IntEnum):
    """Loops over experts in queues, at one capacity: a branch each in `lrcsim.simulator.compiled.queue_rules`."""

    CLOCK = 0
    SIEVE = 1
    SLRU = 2
    S3_FIFO = 3
    ARC = 4
    LRU = 5
    DALI = 6
    STATIC = 7
    RANDOM = 8
    FIFO = 9
    MRU = 10
    TWO_Q = 11
    LIRS = 12
    W_TINYLFU = 13
    REPIN = 14


class Stack(IntEnum):
    """Passes that count the hits at every capacity in slots at once: `lrcsim.simulator.compiled.every_size`."""

    STATIC = -2
    LRU = -1
    LFU = 0
    NEXT_USE = 1
    NEXT_USE_BYPASS = 2
    LOOKAHEAD = 3
