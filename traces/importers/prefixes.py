"""How much of a prompt repeats an earlier sequence of the same file: what a prefix cache may have held."""

from __future__ import annotations

import numpy as np

__all__ = ["Prefixes"]

BLOCK = 16
BRANCHES = 8
MOST_BLOCKS = 1 << 19
LONG = 16


class Prefixes:
    """The sequences so far as a tree of blocks of 16 tokens, in bounded memory.

    At most 2**19 blocks are kept (8 million tokens, about 150 MB), and 8 continuations of each; later sequences are
    compared with those.
    """

    def __init__(self) -> None:
        self._next: dict[int, list[bytes]] = {}
        self._blocks = 0

    def shared(self, prompt: list[int]) -> int:
        """Return how many tokens at the beginning of a prompt some earlier sequence has too, all but its last at most.

        Args:
            prompt: token ids.
        """
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

    def add(self, sequence: list[int]) -> None:
        """Keep a sequence.

        Args:
            sequence: token ids that were run, prompt and generated ones.
        """
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
    def tells(shared: int, prompt: int) -> bool:
        """Whether a shared beginning is more than a template's: a block of 16 tokens, or half of the prompt.

        Args:
            shared: tokens, of `shared`.
            prompt: tokens of the prompt.
        """
        return shared > 0 and (shared >= LONG or 2 * shared >= prompt)


def _common(one: bytes, other: bytes) -> int:
    size = min(len(one), len(other)) // 8
    differs = np.frombuffer(one, np.int64, size) != np.frombuffer(other, np.int64, size)
    return int(np.argmax(differs)) if differs.any() else size
