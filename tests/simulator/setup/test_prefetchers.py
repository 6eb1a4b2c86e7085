"""What each prefetcher proposes, worked out by hand; and how they are made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import number, run, trace

from lrcsim.base.errors import LrcsimError, PolicyError
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.simulator.setup.prefetchers import PREFETCHERS, NextGate, NoPrefetch, Prefetcher, make_prefetcher
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule


def proposals(spec: str, routing: RoutingTrace, profile: Sequence[float] | None = None) -> list[str]:
    """Return what is proposed at each layer-step, as ``"1.0 1.3"`` (layer.expert)."""
    prefetcher = make_prefetcher(spec)
    prefetcher.trace, prefetcher.stride = routing, routing.num_experts
    prefetcher.num_layers, prefetcher.top_k = routing.num_layers, routing.top_k
    zeros = np.zeros(routing.num_layers * routing.num_experts)
    prefetcher.profile = zeros if profile is None else np.asarray(profile, np.float64)
    prefetcher.reset()
    found = []
    for step in steps_of(Schedule(routing)):
        for place in range(len(step.layers)):
            keys = [divmod(int(key), prefetcher.stride) for key in prefetcher.propose(step, place)]
            found.append(" ".join(f"{layer}.{expert}" for layer, expert in keys))
    return found


@pytest.mark.parametrize("name", PREFETCHERS)
def test_every_prefetcher_has_a_case_solved_by_hand(name: str) -> None:
    solved = re.search(rf'proposals\("{name}[":]', Path(__file__).read_text(encoding="utf-8"))
    assert solved, f"add a case of {name} to {Path(__file__).name}"


def test_none_proposes_nothing() -> None:
    assert proposals("none", trace("0|1", "2|3")) == ["", "", "", ""]


def test_oracle_proposes_the_batch_that_comes() -> None:
    # Layer-steps in order: 0.0, then 1.1 and 1.2, then 0.3, then 1.4.
    routing = trace("0|12", "3|4")
    assert proposals("oracle", routing) == ["1.1 1.2", "0.3", "1.4", ""]
    assert proposals("oracle:2", routing) == ["0.3", "1.4", "", ""]


def test_oracle_sees_no_further_than_the_next_step() -> None:
    # One layer: what comes after the next step is out of sight.
    assert proposals("oracle:2", trace("0", "1", "2")) == ["", "", ""]


def test_next_gate_proposes_recorded_predictions() -> None:
    # predictions[1][token][layer]: what layer - 1 said of layer. Layer 0 has none; after the last layer comes nothing.
    predictions = {1: [[[-1, -1], [4, 5]], [[-1, -1], [3, -1]]]}
    routing = trace("01|23", "01|23", predictions=predictions)
    assert proposals("next-gate", routing) == ["1.4 1.5", "", "1.3", ""]
    assert proposals("next-gate:width=1", routing) == ["1.4", "", "1.3", ""]


def test_next_gate_of_a_prompt_goes_by_rank_then_token_each_once() -> None:
    # One step of two tokens: rank 0 says 4 and 3, rank 1 says 5 and 4; 4 only once.
    predictions = {1: [[[-1, -1], [4, 5]], [[-1, -1], [3, 4]]]}
    routing = trace("01|23", "01|23", predictions=predictions, phase=[0, 0])
    assert proposals("next-gate", routing) == ["1.4 1.3 1.5", ""]


def test_next_gate_two_layers_ahead() -> None:
    predictions = {2: [[[-1], [-1], [5]]]}
    assert proposals("next-gate:2", trace("0|1|2", predictions=predictions)) == ["2.5", "", ""]


def test_next_gate_from_a_file(tmp_path: Path) -> None:
    # In a file ids are unsigned: what was not predicted is 65535 there, and must not be proposed.
    routing = trace("0|1", "0|2", predictions={1: [[[-1], [4]], [[-1], [-1]]]})
    routing.save(tmp_path / "trace.h5")
    assert proposals("next-gate", RoutingTrace.open(tmp_path / "trace.h5")) == ["1.4", "", "", ""]


def test_next_gate_at_a_distance_that_was_not_recorded() -> None:
    with pytest.raises(LrcsimError, match="has no 'predictions/2', it has"):
        proposals("next-gate:2", trace("0|1|2", predictions={1: [[[-1], [4], [5]]]}))


def test_popularity_counts_uses_and_proposes_the_most_used_of_the_next_layer() -> None:
    # k = 1. Uses of layer 0: 0, then 2, then 2; of layer 1: 1, 3, 3. At layer 1 the next is layer 0 of the next step.
    # token 0: layer 1 unused yet: nothing; then 0.0. Token 1: 1.1 (once); 0.0 and 0.2 tie, the smaller id: 0.0.
    # Token 2: 1.1 and 1.3 tie: 1.1; then 0.2 (twice).
    assert proposals("popularity", trace("0|1", "2|3", "2|3")) == ["", "0.0", "1.1", "0.0", "1.1", "0.2"]


def test_popularity_starts_from_a_profile() -> None:
    # Profile of layer 1: expert 4 five times, 5 twice.
    profile = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 2]
    assert proposals("popularity:width=2", trace("0|1", "2|1"), profile) == ["1.4 1.5", "0.0", "1.4 1.5", "0.0 0.2"]


def test_temporal_proposes_what_the_next_layer_used_before() -> None:
    # At layer 1 the next is layer 0, which this very step has used.
    assert proposals("temporal", trace("0|12", "3|4", "5|0")) == ["", "0.0", "1.1 1.2", "0.3", "1.4", "0.5"]


def test_transition_learns_pairs_of_neighbouring_layers() -> None:
    # Steps 0-1 teach: with 0 in layer 0 came 1 once and 2 once, with 3 came 2. Step 2 uses 0 and 3 together, k = 2:
    # layer 1 expert 1 scores 1/2, expert 2 scores 1/2 + 1 = 1.5. Step 3 uses 4 alone, of which nothing is known.
    routing = trace("0_|1_", "03|2_", "03|2_", "4_|2_")
    # token 1, layer 0: of 0 it knows 1 (1 of 1), of 3 nothing.
    assert proposals("transition", routing) == ["", "", "1.1", "", "1.2 1.1", "", "", ""]


def test_transition_does_not_pair_layers_of_different_steps() -> None:
    # Layer 0 of the second step is not recorded: its layer 1 follows nothing, and 2 is not learned.
    assert proposals("transition", trace("0|1", "_|2", "0|1")) == ["", "", "", "1.1", ""]


def test_trace_match_follows_the_nearest_recorded_request() -> None:
    # Requests 0: 0|1|2 and 1: 3|4|5 are recorded. Request 2 starts with 3, like request 1: layers 1 and 2 of it come,
    # the nearer first, k = 1 of them: 1.4. At layer 1 the same request still fits better (mean cosine 1/2 against 0).
    routing = trace("0|1|2", "3|4|5", "3|0|5", offsets=[0, 1, 2, 3])
    # While request 1 runs only request 0 is known.
    assert proposals("trace-match", routing) == ["", "", "", "1.1", "2.2", "", "1.4", "2.5", ""]
    wide = proposals("trace-match:kept=1000,width=2", routing)
    assert wide[6:] == ["1.4 2.5", "2.5", ""]


def test_trace_match_ranks_by_share_and_distance() -> None:
    # Request 0: layer 1 uses 1 and 2 half each, layer 2 uses 3 always, L = 3. From layer 0: layer 1 is worth
    # 1/2 (1 - 1/4) = 0.375, layer 2 is worth 1 (1 - 2/4) = 0.5: the further one first.
    routing = trace("0|1|3", "0|2|3", "0|1|3", offsets=[0, 2, 3])
    assert proposals("trace-match:width=3", routing)[6] == "2.3 1.1 1.2"


def test_trace_match_forgets_the_oldest_request() -> None:
    # One is kept: request 2 knows request 1 alone.
    routing = trace("0|1", "3|4", "0|1", offsets=[0, 1, 2, 3])
    assert proposals("trace-match:1", routing) == ["", "", "1.1", "", "1.4", ""]


def test_a_run_with_every_prefetcher_keeps_the_account() -> None:
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((40, 3, 8)), axis=2)[:, :, :2]
    predictions = {1: np.argsort(rng.random((40, 3, 8)), axis=2)[:, :, :2]}
    routing = RoutingTrace.from_arrays(ids, num_experts=8, predictions=predictions, offsets=[0, 10, 25, 40])
    for name in PREFETCHERS:
        costs = FixedCosts(expert_s=0.3)  # a pool of 5 for the 6 of a token: also what was used last must be brought
        found = run(routing, 5, scope="model", prefetch=name, costs=costs, log=False).tally.prefetch
        assert found.issued == found.useful + found.late + found.wasted, name
        assert (found.issued > 0) == (name != "none"), name


# Making them


def test_names_parameters_classes_objects_and_files(tmp_path: Path) -> None:
    assert isinstance(make_prefetcher("none"), NoPrefetch)
    made = make_prefetcher("next-gate:distance=2,width=4")
    assert isinstance(made, NextGate)
    assert (made.distance, made.width, made.label()) == (2, 4, "next-gate:distance=2,width=4")
    assert isinstance(make_prefetcher(NextGate), NextGate)
    assert make_prefetcher(made) is made
    own = tmp_path / "own.py"
    own.write_text(
        "from lrcsim.simulator.time import Prefetcher\n"
        "class Mine(Prefetcher):\n"
        "    def propose(self, step, place):\n"
        "        return [step.layers[place].keys[0]]\n"
    )
    assert isinstance(make_prefetcher(f"{own}:Mine"), Prefetcher)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("orakle", "there is no prefetcher 'orakle', there are none, oracle, next-gate"),
        ("orakle", "; did you mean 'oracle'?"),
        ("oracle:0", "oracle: distance must be at least 1, given 0"),
        ("oracle:far", "oracle: distance must be a whole number"),
        ("temporal:2", "temporal"),
        ("popularity:depth=2", "popularity has no parameter 'depth'"),
        ("nowhere.py:Mine", "nowhere.py"),
    ],
)
def test_what_cannot_be_made_says_so(spec: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        make_prefetcher(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_in_events_are_exact() -> None:
    assert number(0.1 + 0.2) == "0.30000000000000004"
