"""What the compiled event loop counts, and what it is told of a block: plain arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.compiled.uncounted import inner_loop_njit
from lrcsim.simulator.setup.outcomes import Outcome

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

COLD_MISSES, REQUEST, DISPLACED, DISPLACED_MISSED = range(4)
"""Places in `Book.counter`."""

NOTHING, PREFETCHED, ADMITTED, REPINNED = range(4)
"""What an expert that was brought behind everything urgent was brought as: places in `Book.brought`."""

ISSUED, USEFUL, LATE, WASTED = range(4)
"""What became of it: places in each row there. ``LATE`` counts bytes of prefetches, and uses of the others."""


class Book(NamedTuple):
    """What is counted from block to block.

    Attributes:
        counter: int64 [4]: misses of experts not used before, the last request (-1 at first), and of `PrefetchUse` what
            was displaced.
        brought: int64 [4, 4], by kind (`PREFETCHED` ...): `PrefetchUse` and `UploadUse`.
        accesses: int64 [2, L], by phase and layer.
        misses: int64 [2, L].
        outcomes: int64 [outcomes, 2], misses by what became of them, by phase.
        loaded_bytes: int64 [2], by phase, without prefetches.
        shares: float64 [outcomes, 2], `GivenUp.shares`.
        tokens: int64 [2], `GivenUp.tokens`.
        moved: float64 [links, 2], bytes by phase.
        seen: bool [L * E], missed (or used, where the policy refills) since the cache was last emptied.
        unused: uint8 [L * E], what an expert was brought as and not used yet since.
        displaced: bool [L * E], evicted for a prefetch and not missed yet.
    """

    counter: Ints
    brought: Ints
    accesses: Ints
    misses: Ints
    outcomes: Ints
    loaded_bytes: Ints
    shares: Floats
    tokens: Ints
    moved: Floats
    seen: npt.NDArray[np.bool_]
    unused: npt.NDArray[np.uint8]
    displaced: npt.NDArray[np.bool_]

    @classmethod
    def empty(cls, layers: int, keys: int, links: int) -> Book:
        """Start at nothing."""
        by_layer, by_outcome = (2, layers), (len(Outcome), 2)
        counter = np.zeros(4, np.int64)
        counter[REQUEST] = -1
        return cls(
            counter,
            np.zeros((4, 4), np.int64),
            np.zeros(by_layer, np.int64),
            np.zeros(by_layer, np.int64),
            np.zeros(by_outcome, np.int64),
            np.zeros(2, np.int64),
            np.zeros(by_outcome),
            np.zeros(2, np.int64),
            np.zeros((links, 2)),
            np.zeros(keys, np.bool_),
            np.zeros(keys, np.uint8),
            np.zeros(keys, np.bool_),
        )


class Work(NamedTuple):
    """A block of the schedule, and what is known of it beforehand.

    Attributes:
        keys: int32 [accesses].
        tokens: int64 [accesses], tokens of the step that use each; empty: one each.
        starts: int64 [layer-steps + 1], accesses of each.
        layer: int64 [layer-steps].
        needed: bool [accesses], whether some token cannot do without it (`Lossy.vital`); empty where nobody asks.
        given: float64 [accesses], its shares of router weight, summed over the tokens; likewise.
        use_starts: int64 [layer-steps + 1], uses of each (`UsesTable`); likewise.
        use_token: int32 [uses]; likewise.
        use_place: int32 [uses]; likewise.
        use_order: int32 [uses]; likewise.
        use_tokens: int64 [layer-steps]; likewise.
        use_light: bool [most uses of a layer-step], room; likewise.
        ahead_starts: int64 [layer-steps + 1], proposals of each to be brought ahead; empty without a prefetcher.
        ahead: int32 [proposals], keys, the most wanted first.
        saves: float64 [accesses], seconds longer on the CPU than on the GPU (`Prices.saved`); empty where nobody asks.
        first: int64 [steps + 1], layer-steps of each.
        request: int64 [steps].
        phase: uint8 [steps].
        sizes: int64 [steps, 5], `StepTable.sizes`.
        transfers: int64 [steps], that can be asked for in each, at most.
        number: int64 [steps], of each among the forward passes of the run.
    """

    keys: npt.NDArray[np.int32]
    tokens: Ints
    starts: Ints
    layer: Ints
    needed: npt.NDArray[np.bool_]
    given: Floats
    use_starts: Ints
    use_token: npt.NDArray[np.int32]
    use_place: npt.NDArray[np.int32]
    use_order: npt.NDArray[np.int32]
    use_tokens: Ints
    use_light: npt.NDArray[np.bool_]
    ahead_starts: Ints
    ahead: npt.NDArray[np.int32]
    saves: Floats
    first: Ints
    request: Ints
    phase: npt.NDArray[np.uint8]
    sizes: Ints
    transfers: Ints
    number: Ints


@inner_loop_njit
def take_used(book, key, late, size):  # type: ignore[no-untyped-def]
    """Take note that an expert is used where the model runs: there, or waited for (`Tally.used`)."""
    kind = book.unused[key]
    if kind != NOTHING:
        book.unused[key] = NOTHING
        if late and kind == PREFETCHED:
            book.brought[kind, LATE] += size
        else:
            book.brought[kind, USEFUL] += size
            book.brought[kind, LATE] += late


@inner_loop_njit
def take_evicted(book, key, for_prefetch, size):  # type: ignore[no-untyped-def]
    """Take note that an expert left the cache (`Tally.evicted`)."""
    kind = book.unused[key]
    if kind != NOTHING:
        book.unused[key] = NOTHING
        book.brought[kind, WASTED] += size
    if for_prefetch:
        book.counter[DISPLACED] += 1
        book.displaced[key] = True


@inner_loop_njit
def take_brought(book, key, size, kind):  # type: ignore[no-untyped-def]
    """Take note that an expert is brought behind everything urgent (`Tally.uploaded`)."""
    book.brought[kind, ISSUED] += size
    book.unused[key] = kind
    book.displaced[key] = False


@inner_loop_njit
def take_emptied(book, sizes):  # type: ignore[no-untyped-def]
    """Take note that what was prefetched is not in the cache any more (`Tally.emptied`)."""
    for key in range(len(book.unused)):
        if book.unused[key] != NOTHING:
            book.brought[book.unused[key], WASTED] += sizes[key]
    book.unused[:] = NOTHING
    book.displaced[:] = False
