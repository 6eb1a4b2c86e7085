"""Look for experts that stand twice in one token's top-k: the dear part of checking a trace."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

WIDE = 32
"""Ranks from which a sort finds repeated experts faster than comparing every two ranks."""

ROWS_AT_ONCE = 32_768
"""Rows compared at a time: they stay in a processor's cache."""

WORD = 8
"""Most ranks that are compared at once, as the bytes of one word; for fewer than 5 words give nothing."""

get_byte_kernel: Callable[[], Callable[[npt.NDArray[np.uint64]], bool]] | None = None
"""What gives the compiled function that tells whether any word holds a byte twice. `lrcsim.simulator` sets it when it
is imported: traces know of no compiler. None: rows are compared by rank, which takes longer (benchmarks/NOTES.md)."""

COMPILED_FROM = 1 << 27
"""Ids of a trace from which importing numba for it (0.15 s) takes less time than doing without. Who simulates has
imported it already, and nothing is imported for him."""


def any_repeated(experts: npt.NDArray[Any], lowest: int, highest: int, ids_in_all: int = 0) -> bool:
    """Tell whether any expert stands twice at one token and layer.

    Args:
        experts: int [tokens, L, K], negative where none is recorded.
        lowest: the smallest of them.
        highest: the largest.
        ids_in_all: how many ids there are to look at, these and those of other calls.
    """
    ranks = experts.shape[2]
    rows = experts.reshape(-1, ranks)
    if ranks == 1:
        return False
    if ranks > WIDE:
        ordered = np.sort(rows, axis=1)
        return bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any())
    in_words = lowest >= 0 and 4 < ranks <= WORD and highest < 256 - (WORD - ranks)
    if in_words and get_byte_kernel is not None and ("numba" in sys.modules or ids_in_all >= COMPILED_FROM):
        any_repeated_byte = get_byte_kernel()
        return any(any_repeated_byte(words) for words in _words(rows))
    narrow = lowest >= -1 and highest < 255
    for low in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[low : low + ROWS_AT_ONCE]
        by_rank = np.ascontiguousarray((part.astype(np.uint8) if narrow else part).T)  # -1 becomes 255
        for rank in range(1, ranks):
            equal = by_rank[rank] == by_rank[:rank]
            if equal.any() and (lowest >= 0 or (equal & _recorded(by_rank[rank])).any()):
                return True
    return False


def _recorded(ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return ids != 255 if ids.dtype == np.uint8 else ids >= 0


def _words(rows: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.uint64]]:
    """Yield rows of ids as bytes of words, uint64 [some]; bytes beyond the ranks hold numbers that are no ids."""
    ranks = rows.shape[1]
    filled = np.empty((min(len(rows), ROWS_AT_ONCE), WORD), np.uint8)
    filled[:, ranks:] = np.arange(256 - WORD + ranks, 256)
    one_row = np.dtype((np.void, ranks))  # copied as a whole: four times as fast
    for low in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[low : low + ROWS_AT_ONCE].astype(np.uint8)
        if ranks < WORD:
            filled[: len(part), :ranks].view(one_row)[:] = part.view(one_row)
        yield (part if ranks == WORD else filled[: len(part)]).reshape(-1).view(np.uint64)
