"""Two precisions: which experts are in the low one, what they then weigh, and how much of the router goes to them.

One layer of 4 experts; in the profile 0 is used three times, 2 and 3 once, 1 never. Half of them in low precision: 1,
and of 2 and 3, used alike, the one of larger number. Of the trace, tokens 0 | 1 | 3 | 2 with weights 4, 2, 1 and 1, two
of four choices and 3 of 8 of the weight are in low precision.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import machines
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.models import expert_bytes, geometry_of
from lrcsim.simulator import hit_rate_curve, simulate
from lrcsim.simulator.setup.low_copy import LowCopy, parse_low_copy
from lrcsim.simulator.setup.run import Run
from lrcsim.sweeps.tasks import _sized_one_by_one
from lrcsim.traces import LayerTable, RoutingTrace

PROFILE = RoutingTrace.from_arrays([[[e]] for e in (0, 2, 0, 3, 0)], num_experts=4)
WEIGHTS = np.array([4, 2, 1, 1], np.float32).reshape(4, 1, 1)
TRACE = RoutingTrace.from_arrays(
    [[[0]], [[1]], [[3]], [[2]]], num_experts=4, weights=WEIGHTS, phase=[0, 0, 1, 1], expert_bytes=[10**6]
)
MODEL = machines.geometry(layers=1, moe_layers=(0,), hidden=256, expert_width=256)
"""An expert: two matrices of 256 x 256; in bf16 262,144 bytes, in q4_0 (18 bytes for 32 weights) 73,728."""


def test_solved_by_hand() -> None:
    low = LowCopy.of("q4_0", PROFILE.layers, np.array([3.0, 0, 1, 1]))
    assert (low.label(), low.cold.tolist()) == ("q4_0:0.5", [False, True, False, True])
    assert low.sizes(np.array([262_144]), MODEL).tolist() == [[262_144, 73_728, 262_144, 73_728]]
    assert low.shares(TRACE) == {
        "dtype": "q4_0",
        "share": 0.5,
        "experts": 2,
        "of_experts": 4,
        "choices": 0.5,
        "weight": 3 / 8,
        "prefill": {"choices": 0.5, "weight": 2 / 6},
        "decode": {"choices": 0.5, "weight": 1 / 2},
    }


def test_shares_without_weights_phases_or_choices() -> None:
    low = LowCopy.of("q4_0", PROFILE.layers, np.array([3.0, 0, 1, 1]))
    plain = RoutingTrace.from_arrays([[[3]], [[-1]]], num_experts=4)
    found = low.shares(plain)
    assert (found["choices"], found["weight"]) == (1, None)
    assert (found["prefill"], found["decode"]) == ({"choices": None, "weight": None}, {"choices": 1, "weight": None})


@pytest.mark.parametrize(
    ("spec", "read"),
    [
        ("q4_k", ("q4_k", 0.5)),
        ("q4_k:0.75", ("q4_k", 0.75)),
        ("q4_k:75%", ("q4_k", 0.75)),
        ("q4_k:1", ("q4_k", 1)),
        ("q8_0,0-3:ffn_down_exps=q6_k", ("q8_0,0-3:ffn_down_exps=q6_k", 0.5)),
        ("q8_0,0-3:ffn_down_exps=q6_k:.25", ("q8_0,0-3:ffn_down_exps=q6_k", 0.25)),
    ],
)
def test_forms(spec: str, read: tuple[str, float]) -> None:
    assert parse_low_copy(spec) == read


@pytest.mark.parametrize("spec", ["q4_k:0", "q4_k:1.5", "q4_k:101%", "q4:x:0.5", ":0.5", "", "q4_k:-1", 4])
def test_what_is_refused(spec: Any) -> None:
    with pytest.raises(ConfigError):
        parse_low_copy(spec)


@given(uses=st.lists(st.integers(0, 3), min_size=7, max_size=7), share=st.sampled_from([0.2, 0.25, 0.5, 0.6, 1]))
def test_every_layer_has_its_share_and_none_is_used_less(uses: list[int], share: float) -> None:
    layers = LayerTable.build(2, [4, 3], 1)
    table = np.array([*uses, 0], float)
    counts = [int(share * n + 1e-9) for n in (4, 3)]
    if not sum(counts):
        with pytest.raises(ConfigError, match="leaves no expert in low precision"):
            LowCopy.of(f"q4_0:{share}", layers, table)
        return
    cold = LowCopy.of(f"q4_0:{share}", layers, table).cold.reshape(2, 4)
    assert cold.sum(axis=1).tolist() == counts
    assert not cold[1, 3]  # there is no such expert
    for layer, number in enumerate((4, 3)):
        rank = sorted(range(number), key=lambda key: (-table[4 * layer + key], key))
        assert [key for key in rank if cold[layer, key]] == rank[number - counts[layer] :]


def test_a_run_has_the_hits_of_these_sizes() -> None:
    bundled = RoutingTrace.open()
    trace = RoutingTrace.from_arrays(
        bundled.experts[:400],
        num_experts=bundled.num_experts,
        weights=bundled.weights[:400],  # type: ignore[index]
        expert_bytes=bundled.expert_bytes,
        model=bundled.model,
        provenance=bundled.provenance,
    )
    told: dict[str, Any] = {"cache": "30MiB", "scope": "model", "bounds": False}
    found = simulate(trace, low_copy="q4_k:0.5", profile=bundled, **told)
    sizes = found.trace.expert_bytes
    assert sizes is not None
    assert sizes.shape == (bundled.num_layers, bundled.num_experts)
    low, whole = expert_bytes(geometry_of(bundled), "q4_k"), bundled.expert_bytes
    assert whole is not None
    assert {tuple(sorted(set(row))) for row in sizes.tolist()} == {(int(low[0]), int(whole[0]))}
    given = simulate(trace, expert_bytes=sizes.tolist(), **told)
    assert found.counts.misses.tolist() == given.counts.misses.tolist()
    assert found.bytes_loaded() == given.bytes_loaded()
    plain = simulate(trace, **told)
    assert plain.hit_rate is not None
    assert found.hit_rate is not None
    assert found.hit_rate > plain.hit_rate  # more fits
    data = found.to_dict()
    assert data["config"]["low_copy"] == "q4_k:0.5"
    assert 0 < data["low_copy"]["weight"] < data["low_copy"]["choices"] < 0.5
    assert not any("hindsight" in warning for warning in found.warnings)
    own = simulate(trace, low_copy="q4_k:0.5", profile="self", **told)
    assert any("hindsight, which no engine has" in warning for warning in own.warnings)
    again = Run.from_dict(data["run"] | {"options": data["run"]["options"] | {"profile": None}}, trace, profile=bundled)
    assert again.trace.expert_bytes is not None
    assert again.trace.expert_bytes.tolist() == sizes.tolist()
    curve = hit_rate_curve(trace, capacities=["30MiB"], scope="model", low_copy="q4_k:0.5", profile=bundled)
    assert curve.hit_rate[0] == found.hit_rate


def test_slots_save_no_room() -> None:
    told: dict[str, Any] = {"profile": RoutingTrace.open("bundled:teacher-forced"), "bounds": False}
    trace = RoutingTrace.open()
    slots = simulate(trace, "lru", "2x", low_copy="q4_k", **told)
    assert slots.counts.misses.tolist() == simulate(trace, "lru", "2x", **told).counts.misses.tolist()
    assert any("q4_k saves no room" in warning for warning in slots.warnings)
    assert not any("saves no room" in one for one in simulate(trace, "lru", "9MiB", low_copy="q4_k", **told).warnings)


def test_on_a_machine_low_precision_moves_less() -> None:
    # 1 and 3 are low: 262,144 + 73,728 + 73,728 + 262,144 bytes for the four cold misses.
    told: dict[str, Any] = {"hardware": machines.machine(), "model": MODEL, "dtype": "bf16"}
    result = simulate(TRACE, "lru", 4, low_copy="q4_0", profile=PROFILE, **told)
    assert result.bytes_loaded() == 2 * (262_144 + 73_728)
    assert simulate(TRACE, "lru", 4, **told).bytes_loaded() == 4 * 262_144
    assert result.config["expert_bytes"] == [[262_144, 73_728, 262_144, 73_728]]
    # as the trace has them, 10^6 bytes, where no dtype is named
    del told["dtype"]
    assert simulate(TRACE, "lru", 4, low_copy="q4_0", profile=PROFILE, **told).bytes_loaded() == 2 * 1_073_728


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "needs a profile to know which experts are used least"),
        ({"profile": PROFILE}, "needs the model's geometry, and the trace's model 'unknown' is not a built-in one"),
        ({"profile": PROFILE, "low_copy": "q9"}, "q9"),
        ({"profile": PROFILE, "low_copy": "q4_0:0.1"}, "leaves no expert in low precision: 0.1 of a layer's 4 is less"),
        (
            {"profile": PROFILE, "hardware": machines.machine(), "model": MODEL, "dtype": "q4_0"},
            "takes 73,728 bytes of an expert of layer 0, as stored it has 73,728: name a smaller format",
        ),
        (
            {"profile": PROFILE, "hardware": machines.machine(), "model": MODEL, "expert_bytes": [[1, 2, 3, 4]]},
            "here they differ already",
        ),
    ],
)
def test_what_does_not_go(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        simulate(TRACE, "lru", 2, **({"low_copy": "q4_0"} | options))


def test_the_command_line(lrcsim: Any, tmp_path: Path) -> None:
    told = ("--cache", "9MiB", "--profile", "bundled:teacher-forced", "--low-copy", "q4_k:75%")
    shown = lrcsim("run", *told)
    assert shown.code == 0
    text = " ".join(shown.out.split())
    assert "q4_k: 384 of 512 experts, those used least in the profile;" in text
    assert re.search(r"% of the router's choices, [\d.]+ % of its weight", text)
    assert "1.1 MiB per layer" in text
    refused = lrcsim("run", "--low-copy", "q4_k")
    assert (refused.code, "needs a profile" in refused.err) == (1, True)


def test_a_file_of_sizes(lrcsim: Any, tmp_path: Path) -> None:
    sizes = np.full((8, 64), 100_000)
    sizes[:, ::2] = 200_000
    np.save(tmp_path / "sizes.npy", sizes)
    (tmp_path / "sizes.json").write_text(str(sizes.tolist()))
    trace = RoutingTrace.open()
    found = [
        simulate(trace, "lru", "20MB", bounds=False, expert_bytes=given)
        for given in (sizes, sizes.tolist(), str(tmp_path / "sizes.npy"), tmp_path / "sizes.json")
    ]
    assert len({one.bytes_loaded() for one in found}) == 1
    assert lrcsim("run", "--cache", "20MB", "--expert-bytes", tmp_path / "sizes.npy").code == 0
    (tmp_path / "no.json").write_text("{}")
    (tmp_path / "no.npy").write_bytes(b"\x93NUMPY nothing")
    np.save(tmp_path / "floats.npy", sizes * 1.0)
    np.save(tmp_path / "objects.npy", np.array([{}]))
    for name, says in {
        "no.json": "must be a JSON list",
        "no.npy": "is no array of numpy",
        "floats.npy": "must be an array of integers [L] or [L, E], is float64 [8, 64]",
        "objects.npy": "must be an array of integers",
        "none.npy": "there is no such file",
        "none.json": "cannot be read",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(says)):
            simulate(trace, "lru", "20MB", expert_bytes=str(tmp_path / name))
        assert lrcsim("run", "--cache", "20MB", "--expert-bytes", tmp_path / name).code == 1


def test_a_sweep_counts_these_runs_one_by_one() -> None:
    assert all(
        _sized_one_by_one(values)
        for values in (
            {"low_copy": "q4_k"},
            {"expert_bytes": [1, 2]},
            {"expert_bytes": "a.npy"},
            {"expert_bytes": "a.json"},
        )
    )
    assert not any(_sized_one_by_one(values) for values in ({}, {"expert_bytes": "2MiB"}, {"expert_bytes": 5}))
