"""The figure of a Pareto front: axes as asked, a front for each machine, its points named."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from lrcsim.plots.results import plot_front

TABLE = pa.table(
    {
        "hardware": ["a", "a", "a", "a", "b", "b"],
        "policy": ["lru", "lru", "lfu", "lfu", "lru", "lfu"],
        "cache": ["1x", "2x", "1x", "2x", "1x", "1x"],
        "decode_tokens_per_s": [10.0, 20.0, 9.0, 15.0, 5.0, 6.0],
        "hit_rate": [0.4, 0.3, 0.5, 0.2, 0.9, 0.8],
        "error": [None] * 6,
    }
)


def lines(figure: Any) -> dict[str, list[tuple[float, float]]]:
    (axes,) = figure.axes
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.get_lines()}


def test_the_first_column_goes_to_the_right_and_every_machine_has_its_front() -> None:
    """Machine a: (9, 50), (10, 40), (20, 30); (15, 20) is beaten by (20, 30). Machine b: both stay."""
    figure = plot_front(None, TABLE, TABLE, ["decode_tokens_per_s", "hit_rate"])
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("decode tokens/s", "hit rate [%]")
    found = lines(figure)
    assert found["Pareto front, a"] == [(9, 50), (10, 40), (20, 30)]
    assert found["Pareto front, b"] == [(5, 90), (6, 80)]
    assert len(found["6 runs"]) == 6
    names = sorted(text.get_text() for text in axes.texts)
    assert names == ["lfu, 1x", "lfu, 1x", "lru, 1x", "lru, 1x", "lru, 2x"]


def test_the_other_way_round() -> None:
    figure = plot_front(None, TABLE, TABLE, ["hit_rate", "decode_tokens_per_s"])
    assert lines(figure)["Pareto front, b"] == [(80, 6), (90, 5)]
    assert figure.axes[0].get_xlabel() == "hit rate [%]"


def test_one_machine_needs_no_name() -> None:
    one = TABLE.slice(0, 4)
    figure = plot_front(None, one, one, ["decode_tokens_per_s", "hit_rate"])
    assert set(lines(figure)) == {"4 runs", "Pareto front"}


def test_fronts_are_of_the_candidates() -> None:
    figure = plot_front(None, TABLE, TABLE.slice(1, 3), ["decode_tokens_per_s", "hit_rate"])
    assert lines(figure)["Pareto front"] == [(9, 50), (20, 30)]
