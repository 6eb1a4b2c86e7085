"""What the caches count, and how they lose room, worked out by hand."""

from __future__ import annotations

from helpers import engine, trace


def test_low_precision_copies_count_at_their_own_size() -> None:
    # A prompt loads 0, 100 bytes, and 1 as a copy of a quarter; each decoded token the copy again.
    routing = trace("01", "01", "01", phase=[0, 1, 1], weights=[[[0.75, 0.25]]] * 3)
    made = engine(routing, 4, action="low:0.5,0.25", sizes=[100])
    made.residency.sizes = [100]
    made.run()
    counts = made.residency.finish()
    assert counts.loads is not None
    assert counts.loaded_bytes is not None
    assert counts.loads.tolist() == [2, 2]
    assert counts.loaded_bytes.tolist() == [125, 50]


def test_a_kv_cache_larger_than_the_cache_leaves_nothing_not_less() -> None:
    # Two slots of which five are taken in step 1: none is left, what is used passes through. Then both are back.
    routing = trace("01", "0", "0", "0")
    made = engine(routing, 2, shrink=lambda step, pool: 5 * (step.number == 1))
    pool = made.residency.pools[0]
    capacities: list[tuple[int, int]] = []
    look_up = made.residency.look_up

    def watched(step: object, work: object) -> object:
        capacities.append((pool.capacity, pool.view.slots))
        return look_up(step, work)  # type: ignore[arg-type]

    made.residency.look_up = watched  # type: ignore[method-assign, assignment]
    made.run()
    assert capacities == [(2, 2), (0, 0), (2, 2), (2, 2)]
    counts = made.residency.finish()
    assert counts.misses.sum() == 2 + 1 + 1  # and a hit in the last step
    assert counts.evictions == 2 + 1
