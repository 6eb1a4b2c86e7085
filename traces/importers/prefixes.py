"""How much of a prompt repeats an earlier sequence of the same file: what a prefix cache may have held.

A sequence is known by its token ids, or, where there are none, by its routing: a server returns the rows of a cached
prefix as they were when it ran.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BLOCK = 16
BRANCHES = 8
MOST_BLOCKS = 1 << 19
LONG = 16
SHORTEST_BY_ROWS = 8
"""Rows that must be equal: fewer may be so by chance where layers and experts are few."""


class Prefixes:
    """The sequences so far as a tree of blocks of 16 tokens, in bounded memory.

    At most 2**19 blocks are kept (8 million tokens, about 150 MB), and 8 continuations of each; later sequences are
    compared with those.
    """

    def __init__(self) -> None:
        self._next: dict[int, list[bytes]] = {}
        self._blocks = 0

    def shared(self, prompt: Sequence[int] | npt.NDArray[np.int64]) -> int:
        """Return how many tokens at the beginning of a prompt an earlier sequence has too, all but its last at most."""
        data = np.asarray(prompt, np.int64).tobytes()
        node = at = 0
        while True:
            block = data[at * 8 : (at + BLOCK) * 8]
            following = self._next.get(node, [])
            if len(block) == BLOCK * 8 and block in following:
                node, at = hash((node, block)), at + BLOCK
                continue
            at += max((_common(block, other) for other in following), default=0)
            return max(0, min(at, len(prompt) - 1))

    def add(self, sequence: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Keep a sequence: token ids that were run, prompt and generated ones, or `row_marks` of them."""
        data = np.asarray(sequence, np.int64).tobytes()
        node = 0
        for at in range(0, len(data), BLOCK * 8):
            block = data[at : at + BLOCK * 8]
            following = self._next.setdefault(node, [])
            if block not in following:
                if self._blocks >= MOST_BLOCKS or len(following) >= BRANCHES:
                    return
                following.append(block)
                self._blocks += 1
            node = hash((node, block))

    @staticmethod
    def tells(shared: int, prompt: int, by_rows: bool = False) -> bool:
        """Whether a shared beginning is more than a template's: a block of 16 tokens, or half of the prompt."""
        return shared >= (SHORTEST_BY_ROWS if by_rows else 1) and (shared >= LONG or 2 * shared >= prompt)


def row_marks(experts: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Return int64 [rows], a number for the routing of each row in all its layers, of int32 [rows, L, k] expert ids."""
    flat = experts.reshape(len(experts), experts.shape[1] * experts.shape[2])
    factors = np.random.default_rng(0).integers(0, 1 << 62, flat.shape[1]) * 2 + 1
    marks = np.zeros(len(flat), np.int64)
    for column, factor in zip(flat.T, factors, strict=True):  # a product of all at once would take eight times the file
        marks += column * factor
    return marks


def _common(one: bytes, other: bytes) -> int:
    size = min(len(one), len(other)) // 8
    differs = np.frombuffer(one, np.int64, size) != np.frombuffer(other, np.int64, size)
    return int(np.argmax(differs)) if differs.any() else size
