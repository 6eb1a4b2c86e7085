"""What the caches count and how they lose room, worked out by hand."""

from __future__ import annotations

from helpers import engine, trace


def test_low_precision_copies_count_at_their_own_size() -> None:
    # A prompt loads 0, 100 bytes, and 1 as a copy of a quarter; each decoded token the copy again.
    routing = trace("01", "01", "01", phase=[0, 1, 1], weights=[[[0.75, 0.25]]] * 3)
    made = engine(routing, 4, action="low:0.5,0.25", sizes=[100])
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


def test_first_uses_of_a_cold_cache_are_counted_by_request() -> None:
    # 0 is used by both requests: emptied in between, it is a first use twice; in a warm one once.
    routing = trace("0", "0", "0", offsets=[0, 1, 3])
    for warm, cold in ((True, 1), (False, 2)):
        made = engine(routing, 2, warm=warm)
        made.run()
        assert made.residency.finish().cold_misses == cold


def test_steps_are_counted_by_phase() -> None:
    made = engine(trace("0", "1", "2", "0", phase=[0, 0, 1, 1]), 2)
    made.run()
    assert made.residency.finish().steps.tolist() == [1, 2]  # the prompt is one


def test_an_expert_that_was_brought_and_hit_is_no_first_use_when_it_misses() -> None:
    # One slot, refilled every three tokens with what is used most: 0, then 2. 1 misses, a first use; 0 had hit before.
    made = engine(trace("0", "0", "1", "2", "2", "0"), 1, policy="sch-static:3")
    made.run()
    counts = made.residency.finish()
    assert (counts.misses.sum(), counts.cold_misses, counts.preloaded.tolist()) == (2, 1, [2])


def test_what_never_got_in_is_counted_in_every_pool() -> None:
    # One slot per layer. 0 is used again before 1, so 1 passes by, in either layer.
    made = engine(trace("0|0", "1|1", "0|0"), 1, policy="belady-bypass")
    made.run()
    counts = made.residency.finish()
    assert (counts.misses.sum(), counts.bypassed, counts.evictions, counts.resident) == (4, 2, 0, 2)


def test_only_residents_of_its_own_layer_stand_in_for_an_expert() -> None:
    # One pool. Both experts of a layer could be replaced, but nothing of layer 1 is there when it begins: all four are
    # loaded. For the second token 1, which it does not use, stands in for 2, in either layer.
    routing = trace("01|01", "02|02", weights=[[[0.5, 0.5]] * 2] * 2)
    made = engine(routing, 6, scope="model", action="substitute:1,keep=0")
    made.run()
    counts = made.residency.finish()
    assert counts.loads is not None
    assert counts.loads.tolist() == [0, 4]
    assert counts.misses.sum() == 6
