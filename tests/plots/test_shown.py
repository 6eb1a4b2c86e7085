"""Results in a notebook: short reprs, tables, figures, and both small where they are shown."""

from __future__ import annotations

import re
import sys
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcsim
from lrcsim.base.errors import ConfigError
from lrcsim.base.shown import Shown
from lrcsim.traces import RoutingTrace


def toy(**options: Any) -> RoutingTrace:
    """Two layers, top-1: a prompt of two tokens (experts 0, 1), then 0, 1, 2 decoded; layer 1 has always expert 3."""
    experts = np.array([[[e], [3]] for e in (0, 1, 0, 1, 2)])
    given = {"num_experts": 4, "expert_bytes": 100, "phase": [0, 0, 1, 1, 1], "domains": ["a<b"], "model": "<toy>"}
    return RoutingTrace.from_arrays(experts, **{**given, **options})


@pytest.fixture(scope="module")
def bundled() -> RoutingTrace:
    whole = RoutingTrace.open()
    names = ("phase", "weights")
    columns: dict[str, Any] = {name: whole.read(name, 0, 600) for name in names}
    return RoutingTrace.from_arrays(
        whole.experts[:600], num_experts=64, offsets=[0, 300, 600], expert_bytes=196_608, model=whole.model, **columns
    )


@pytest.fixture(scope="module")
def everything(bundled: RoutingTrace) -> dict[str, Shown]:
    return {
        "trace": bundled,
        "result": lrcsim.simulate(bundled, "lfu", "2x"),
        "timed": lrcsim.simulate(bundled, "lru", "2x", hardware="rtx-4090"),
        "samples": lrcsim.simulate(bundled, "lru", "2x", scope="model", hardware="rtx-4090", samples=True),
        "curve": lrcsim.hit_rate_curve(bundled, "lru"),
        **{f"srp {level}": lrcsim.srp(bundled, level=level) for level in ("model", "layer", "expert", "position")},
        "sch": lrcsim.sch(bundled, cache="2x"),
        "plan": lrcsim.plan("gpt-oss-20b", "rtx-4090", vram="8GiB", ram="32GiB", context=4096),
    }


KINDS = ["trace", "result", "timed", "samples", "curve", "sch", "plan"]
KINDS += [f"srp {level}" for level in ("model", "layer", "expert", "position")]


@pytest.mark.parametrize("kind", KINDS)
def test_each_has_a_short_repr_a_table_and_a_figure(everything: dict[str, Shown], kind: str, tmp_path: Path) -> None:
    result = everything[kind]
    assert len(repr(result)) < 500
    assert len(result.to_arrow()) >= 1
    for size, wide in (("page", 7), ("column", 3.3), ("4x3", 4)):
        path = tmp_path / f"{size}.svg"
        figure = result.plot(str(path), size=size, title="A title of mine")
        assert figure.get_size_inches()[0] == wide
        assert "A title of mine" in re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())
    assert tuple(figure.get_size_inches()) == (4, 3)
    html = result._repr_html_()
    assert html.startswith(f"<pre>{escape(repr(result))[:10]}")
    assert 'src="data:image/png;base64,' in html
    assert len(html) < 300_000


def test_drawing_leaves_the_notebook_alone(everything: dict[str, Shown]) -> None:
    """No window, no open figure of pyplot's, no other backend, no other settings."""
    import matplotlib

    before = dict(matplotlib.rcParams)
    everything["curve"].plot()
    assert dict(matplotlib.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_a_figure_that_is_saved_later_keeps_its_fonts(everything: dict[str, Shown], tmp_path: Path) -> None:
    everything["curve"].plot().savefig(tmp_path / "a.pdf")
    assert b"/Type3" not in (tmp_path / "a.pdf").read_bytes()


def test_the_table_of_a_result_hand_solved() -> None:
    """Capacity 1: layer 0 of the prompt looks up {0, 1}, misses both and keeps 1; decode misses 0, 1, 2.

    Layer 1: the prompt misses 3, decode hits it three times.
    """
    table = lrcsim.simulate(toy(), "lru", 1).to_arrow()
    counted = [("prefill", 0, 2, 2), ("prefill", 1, 1, 1), ("decode", 0, 3, 3), ("decode", 1, 3, 0)]
    names = ("phase", "layer", "accesses", "hits", "misses", "hit_rate", "bytes_loaded")
    assert table.column_names == list(names)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        (phase, layer, n, n - missed, missed, 1 - missed / n, 100 * missed) for phase, layer, n, missed in counted
    ]


def test_the_table_of_a_trace_hand_solved() -> None:
    rows = toy().to_arrow(1, 3).to_pylist()
    assert rows == [
        {"request": 0, "domain": "a<b", "phase": phase, "token": token, "layer": layer, "rank": 0, "expert": expert}
        for phase, token, layer, expert in ((0, 1, 0, 1), (0, 1, 1, 3), (1, 2, 0, 0), (1, 2, 1, 3))
    ]
    assert len(toy().to_arrow()) == 10
    assert toy().to_arrow(5).num_rows == 0


def test_tables_hold_the_numbers(everything: dict[str, Shown], bundled: RoutingTrace) -> None:
    curve: Any = everything["curve"]
    assert curve.to_arrow()["hit_rate"].to_pylist() == curve.hit_rate.tolist()
    assert curve.to_arrow()["capacity"].to_pylist() == curve.capacities.tolist()
    by_layer: Any = everything["srp layer"]
    assert by_layer.to_arrow()["layer"].to_pylist() == list(range(8))
    assert by_layer.to_arrow()["value"].to_pylist() == by_layer.groups.value.tolist()
    by_expert: Any = everything["srp expert"]
    at = by_expert.to_arrow().slice(3 * 64 + 5, 1).to_pylist()[0]
    assert (at["layer"], at["expert"]) == (3, 5)
    assert at["value"] == pytest.approx(by_expert.groups.value[3, 5], nan_ok=True)
    whole: Any = everything["srp model"]
    assert whole.to_arrow().to_pylist()[0]["value"] == whole.value
    plan: Any = everything["plan"]
    rows = plan.to_arrow().to_pylist()
    assert [row["strategy"] for row in rows[: len(plan.rows)]] == [row.name for row in plan.rows]
    assert rows[0]["tokens_per_s"] == plan.rows[0].speed
    assert bundled.to_arrow().num_rows == 600 * 8 * 8


def test_a_name_out_of_a_file_is_text_in_html() -> None:
    html = toy()._repr_html_()
    assert "&lt;toy&gt;" in html
    assert "<toy>" not in html


def test_what_cannot_be_drawn_is_said_and_still_shown() -> None:
    nothing = toy(phase=None)
    empty = RoutingTrace.from_arrays(np.full((2, 2, 1), -1), num_experts=4)
    with pytest.raises(ConfigError, match="no expert of this trace was recorded"):
        empty.plot()
    assert "<img" not in empty._repr_html_()
    assert "<img" in nothing._repr_html_()
    too_large = lrcsim.plan("deepseek-v3", "rtx-4090", ram="8GiB", dtype="bf16")
    if not too_large.rows:
        with pytest.raises(ConfigError, match="does not fit"):
            too_large.plot()


def test_pandas_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"needs pandas, which is not installed: pip install pandas, or use to_arrow"):
        toy().to_pandas()


def test_pandas_gets_the_same(everything: dict[str, Shown]) -> None:
    pytest.importorskip("pandas")
    for result in everything.values():
        table, frame = result.to_arrow(), result.to_pandas()
        assert list(frame.columns) == table.column_names
        assert len(frame) == len(table)


def test_every_drawing_is_there() -> None:
    from importlib import import_module

    for kind in Shown.__subclasses__():
        for name in filter(None, (kind.drawn_by, kind.drawn_small_by)):
            module, _, function = name.partition(":")
            assert callable(getattr(import_module(f"lrcsim.{module}"), function))
