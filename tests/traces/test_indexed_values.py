"""Whatever a kernel indexes or counts with is checked where it is read: any column, any type, from files and memory."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_files import make_trace

from lrcsim.base.errors import TraceError
from lrcsim.simulator import hit_rate_curve, simulate, srp
from lrcsim.traces import LayerTable, RoutingTrace, check, check_file
from lrcsim.traces.check import check_tokens

# name: (place in the file, type it is stored as, value put at token 7, where it is read for hits)
WRONG: dict[str, tuple[str, str, Any, bool]] = {
    "phase 2": ("tokens/phase", "u1", 2, True),
    "phase 255": ("tokens/phase", "u1", 255, True),
    "phase -1": ("tokens/phase", "i1", -1, True),
    "phase 2**40": ("tokens/phase", "i8", 2**40, True),
    "expert beyond E": ("routing/experts", "<u2", 8, True),
    "expert far beyond E": ("routing/experts", ">u2", 60_000, True),
    "expert twice": ("routing/experts", "<u2", [3, 3], True),
    "prediction beyond E": ("routing/predictions/1", "<u2", 60_000, False),
    "residency 3": ("routing/residency", "u1", 3, False),
    "residency 300": ("routing/residency", "u2", 300, False),
    "weight NaN": ("routing/weights", "f4", np.nan, False),
    "weight infinite": ("routing/weights", ">f8", np.inf, False),
    "token id beyond int32": ("tokens/id", "i8", 2**32 + 5, False),
    "token id -2": ("tokens/id", "i4", -2, False),
    "predicted token id -2": ("tokens/predicted_id", "i4", -2, False),
}


def spoilt(path: Path, place: str, dtype: str, value: Any) -> Path:
    """A good trace with one token's value changed, the column stored in a type of choice."""
    make_trace(3, tokens=12, residency=True, token_ids=True, predicted_ids=True, predictions=True).save(path, version=1)
    with h5py.File(path, "r+") as file:
        data = file[place][()].astype(dtype)
        if np.ndim(value):
            data[7, 0] = value
        else:
            data.reshape(len(data), -1)[7, 0] = value
        del file[place]
        file[place] = data
    return path


@pytest.mark.parametrize("name", WRONG)
def test_it_is_refused_where_it_is_read(name: str, tmp_path: Path) -> None:
    place, dtype, value, for_hits = WRONG[name]
    path = spoilt(tmp_path / "t.h5", place, dtype, value)
    assert [problem.where.split(",")[0] for problem in check_file(path)] == ["token 7"]
    column = {"tokens/id": "token_ids", "tokens/predicted_id": "predicted_ids"}.get(place, place.partition("/")[2])
    with RoutingTrace.open(path) as trace:
        with pytest.raises(TraceError, match=r"t\.h5: token 7"):
            trace.column(column)
        with pytest.raises(TraceError, match="token 7"):
            trace.read(column, 5, 9)
        trace.read(column, 0, 7)
        trace.read(column, 8, 12)
        if for_hits:
            for policy in ("lru", "lfu", "belady", "sch-static:4", "arc"):
                with pytest.raises(TraceError, match="token 7"):
                    hit_rate_curve(trace, policy=policy)
                with pytest.raises(TraceError, match="token 7"):
                    simulate(trace, policy=policy, cache="2x")
        if column == "experts":
            with pytest.raises(TraceError, match="token 7"):
                srp(trace, 4)


def test_big_endian_and_wide_types_are_read_as_any_other(tmp_path: Path) -> None:
    make_trace(3, residency=True, token_ids=True).save(tmp_path / "t.h5", version=1)
    with RoutingTrace.open(tmp_path / "t.h5") as trace:
        wanted = {name: trace.column(name) for name in trace.columns}
        hits = hit_rate_curve(trace, policy="belady").hit_rate
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        kinds = {"routing/experts": ">u2", "routing/weights": ">f4", "tokens/phase": ">i8", "tokens/id": ">i8"}
        for place, dtype in kinds.items():
            data = file[place][()].astype(dtype)
            del file[place]
            file[place] = data
    with RoutingTrace.open(tmp_path / "t.h5") as trace:
        for name, data in wanted.items():
            np.testing.assert_array_equal(trace.column(name), data)
            assert trace.column(name).dtype == data.dtype
        np.testing.assert_array_equal(hit_rate_curve(trace, policy="belady").hit_rate, hits)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_drawn_values_are_found_by_check_and_by_reading_alike(tmp_path: Path, data: st.DataObject) -> None:
    """Any value of any integer type anywhere: `check_file` finds it exactly where `read` refuses it; no kernel runs."""
    place = data.draw(
        st.sampled_from(["tokens/phase", "routing/experts", "routing/residency", "routing/predictions/1"])
    )
    dtypes = ["u2"] if place in ("routing/experts", "routing/predictions/1") else ["u1", "i1", "u2", "i4", "i8", "u8"]
    dtype = np.dtype(data.draw(st.sampled_from(dtypes)))
    info = np.iinfo(dtype)
    value = data.draw(st.one_of(st.integers(int(info.min), int(info.max)), st.integers(0, 9)))
    path = spoilt(tmp_path / "t.h5", place, dtype.str, value)
    problems = check_file(path)
    with RoutingTrace.open(path) as trace:
        wrong = False
        for name in trace.columns:
            try:
                trace.column(name)
            except TraceError:
                wrong = True
        assert wrong == bool(problems)
        if place in ("tokens/phase", "routing/experts"):
            try:
                hit_rate_curve(trace, policy="lru")
            except TraceError:
                assert problems
            else:
                assert not problems


def test_what_lies_in_memory_is_looked_through_for_repeats_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_trace(3).save(tmp_path / "t.h5")
    looked: list[int] = []
    whole = check.any_repeated
    monkeypatch.setattr(check, "any_repeated", lambda ids, *told: looked.append(len(ids)) or whole(ids, *told))
    trace = make_trace(3)
    assert looked == [12]
    trace.read("experts", 0, 12)
    trace.read("experts", 3, 5, layer=1)
    assert looked == [12]
    with RoutingTrace.open(tmp_path / "t.h5") as opened:  # from a file: whenever it is read, until it is kept
        opened.read("experts", 0, 12)
        opened.read("experts", 0, 12)
        assert opened.experts.shape[0] == 12
        opened.read("experts", 0, 5)
    assert looked == [12] * 4
    trace.experts[7, 0, 0] = 60  # ranges are looked at each time
    with pytest.raises(TraceError, match="token 7, layer 0: expert id 60, allowed 0"):
        hit_rate_curve(trace, policy="lru")


def test_arrays_changed_behind_its_back_are_refused_too() -> None:
    trace = make_trace(3)
    trace.columns["phase"] = np.full(12, 7, np.int64)
    with pytest.raises(TraceError, match="token 0: phase 7"):
        hit_rate_curve(trace, policy="lru")
    for columns, message in (
        ({"experts": np.zeros((3, 1, 1), np.int16), "phase": np.zeros(3)}, "phase: is of type float64"),
        ({"experts": np.zeros((3, 1, 1), np.int16), "step": np.array([0, -1, 0])}, "token 1: step -1"),
        ({"experts": np.zeros((3, 1, 1), np.int16), "kept": np.array([0, 1, 2])}, "token 2: kept 2"),
        ({"experts": np.zeros((3, 1, 1)), "phase": np.zeros(3, np.uint8)}, "experts: is of type float64"),
    ):
        made = RoutingTrace(LayerTable.build(1, 2, 1), columns, np.array([0, 3]))
        with pytest.raises(TraceError, match=message):
            [made.read(name, 0, 3) for name in columns]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": np.array([0, 5])}, "must be the number of tokens, 3"),
        ({"offsets": np.array([0.0, 3.0])}, "must be integers"),
        ({"columns": {"experts": np.zeros((3, 2, 1), np.int16)}}, "the table has 1 layers"),
        ({"columns": {"experts": np.zeros((3, 1, 1), np.int16), "phase": np.zeros(2, np.uint8)}}, "phase: has shape"),
        ({"columns": {"phase": np.zeros(3, np.uint8)}}, "no column 'experts'"),
    ],
)
def test_parts_that_do_not_fit_make_no_trace(change: dict[str, Any], message: str) -> None:
    good = {"columns": {"experts": np.zeros((3, 1, 1), np.int16)}, "offsets": np.array([0, 3])}
    with pytest.raises(TraceError, match=message):
        RoutingTrace(LayerTable.build(1, 2, 1), **(good | change))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_layers": 10**9}, "MoE layers, allowed"),
        ({"num_layers": 70_000}, "too many"),
        ({"num_layers": 2, "num_experts": 0}, "num_experts must be 1 to"),
        ({"num_layers": 2, "num_experts": 2**40}, "num_experts must be"),
        ({"num_layers": 2, "expert_bytes": 2**62}, "expert_bytes must be"),
        ({"num_layers": 2, "expert_bytes": -1}, "expert_bytes must be"),
        ({"num_layers": 2, "expert_bytes": 10**30}, "expert_bytes must be"),
        ({"num_layers": 2, "block": [0, 2**40]}, "block must be"),
        ({"num_layers": 2, "num_shared": 2**50}, "num_shared must be"),
        ({"num_layers": 2, "block": np.array([[0], [1]])}, "block must be one integer or a list of 2"),
    ],
)
def test_tables_of_layers_have_limits(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message) as caught:
        LayerTable.build(**({"num_experts": 100, "top_k": 1} | given))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


def test_repeated_experts_are_found_among_unrecorded_ones_and_at_any_rank() -> None:
    # Three ranks of four: -1 twice is no repetition, 2 twice is one, wherever it stands; beyond 32 ranks it is sorted.
    layers = LayerTable.build(1, 40, 4)
    good = np.array([[[-1, -1, 2, 3]], [[0, 1, 2, 3]]])
    assert check_tokens({"experts": good}, layers, 0) == []
    for ranks in ((0, 1), (0, 3), (2, 3)):
        bad = good.copy()
        bad[1, 0, list(ranks)] = 2
        bad[1, 0, [rank for rank in range(4) if rank not in ranks]] = [5, 6]
        assert "expert 2 stands twice" in str(check_tokens({"experts": bad}, layers, 0)[0])
    wide = np.arange(40).reshape(1, 1, 40)
    assert check_tokens({"experts": wide}, LayerTable.build(1, 40, 40), 0) == []
    wide = wide.copy()
    wide[0, 0, 39] = 0
    assert check_tokens({"experts": wide}, LayerTable.build(1, 40, 40), 9)[0].where == "token 9, layer 0"


def test_without_the_compiler_too(tmp_path: Path) -> None:
    """The reproducer of an out-of-bounds write, with the kernels as plain Python: one line there as well."""
    path = spoilt(tmp_path / "t.h5", "tokens/phase", "u1", 2)
    code = (
        "import sys\nfrom lrcsim.traces import RoutingTrace\nfrom lrcsim.simulator import hit_rate_curve\n"
        "from lrcsim.base.errors import TraceError\n"
        "for policy in ('lru', 'belady', 'sch-static:4'):\n"
        "    try:\n        hit_rate_curve(RoutingTrace.open(sys.argv[1]), policy=policy)\n"
        "    except TraceError as error:\n        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("token 7: phase 2") == 3
