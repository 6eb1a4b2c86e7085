"""Published decode speeds: the data, the fit, the summary; and that `plan` holds against them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.experiments.validation.published_speeds import __main__ as command
from lrcsim.experiments.validation.published_speeds import accuracy as accuracy_module
from lrcsim.experiments.validation.published_speeds.accuracy import LEAST, MOST, accuracies, as_toml, left_out
from lrcsim.experiments.validation.published_speeds.fit import HUBER, NUMBERS, documents_with, fit, minimise, placed
from lrcsim.experiments.validation.published_speeds.points import Point, published, read_table
from lrcsim.experiments.validation.published_speeds.predict import (
    ENGINES,
    Prediction,
    predict,
    predict_all,
    runtime_of,
)
from lrcsim.experiments.validation.published_speeds.summary import by_class, summarise
from lrcsim.planner.accuracy import SETTINGS
from lrcsim.runtimes import load_runtime, runtimes

SHARED = Path(__file__).resolve().parents[4] / "shared" / "measured" / "points.csv"
COLUMNS = "id,source_url,class,hardware,model,quant,engine,flags,context,measured_tps,lrcsim_command,note"


def point(name: str = "p", box: str = "one", setting: str = "cpu-only", speed: float = 10.0) -> Point:
    return Point(
        name, "https://e.org", setting, "a machine", box, "a model", "Q8_0", "llama.cpp", 0, speed, "all-resident",
        {"model": "qwen3-30b-a3b", "hardware": "desktop-cpu", "dtype": "q4_0", "set": ["dram.memory=64GiB"]},
    )  # fmt: skip


def said(ratio: float, box: str = "one", setting: str = "cpu-only", half: float = 1.2) -> Prediction:
    """A prediction that is ``ratio`` times what was measured, with a range of a factor either way."""
    speed = 10.0 * ratio
    return Prediction(point(box=box, setting=setting), speed, (speed / half, speed * half), 1.0)


@cache
def predictions() -> list[Prediction]:
    return predict_all(published())


def test_points_are_whole() -> None:
    points = published()
    assert len({one.name for one in points}) == len(points) == 68
    for one in points:
        assert one.setting in SETTINGS, one.name
        assert one.source.startswith("https://"), one.name
        assert one.tokens_per_s > 0, one.name
        assert one.context >= 0, one.name
        assert runtime_of(one.engine) is not None, one.name


@pytest.mark.skipif(not SHARED.exists(), reason="the table that the points were taken from is not here")
def test_points_are_those_of_the_table() -> None:
    for mine, given in zip(published(), read_table(SHARED), strict=True):
        assert mine == replace(given, box=mine.box, note=mine.note, plan=mine.plan, hit_rate=mine.hit_rate)
        assert mine.hit_rate == (None if given.hit_rate is None else pytest.approx(given.hit_rate))
        assert dict(mine.plan) == dict(given.plan)


@pytest.mark.parametrize("setting", ["all", *SETTINGS])
def test_plan_holds_against_them(setting: str) -> None:
    found = next(one for one in by_class(predictions()) if one.setting == setting)
    if setting == "all":
        assert found.near >= 0.9
        assert found.order >= 0.97
    if found.points >= 5:
        assert 0.9 <= found.mean <= 1.12
        assert found.low >= 0.7
        assert found.high <= 1.45


def test_ranges_hold() -> None:
    found = by_class(predictions())[0]
    assert found.inside >= 0.8
    assert found.width <= 2.0


def test_runtimes_have_what_the_fit_gives() -> None:
    found = fit(placed(published()))
    for number in NUMBERS:
        for runtime in number.runtimes:
            for path in number.paths:
                stored = load_runtime(runtime).numbers[path]
                assert stored == pytest.approx(found[number.name], rel=0.02), (runtime, path)
                assert "published_speeds" in load_runtime(runtime).sources[path], (runtime, path)


def test_documents_with_other_numbers() -> None:
    values = {number.name: number.start for number in NUMBERS}
    changed = documents_with(values)
    assert changed["llama.cpp"].numbers["cpu.server.share"] == values["CPU, server: share of bandwidth"]
    assert changed["ktransformers"].numbers["device.cuda.experts"] == values["CUDA: share of bandwidth"]
    assert changed["imp"] == runtimes()["imp"]


def test_minimise_plain_least_squares() -> None:
    # A line y = a + b x through (0, 1), (1, 3), (2, 5.03): all residuals are below HUBER, so this is the usual line:
    # mean of x 1, of y 3.01; b = sum (x - 1) y / 2 = (5.03 - 1) / 2 = 2.015; a = 3.01 - 2.015 = 0.995.
    x, y = np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.03])
    found = minimise(lambda line: line[0] + line[1] * x - y, np.array([0.9, 2.1]), 3)
    assert found == pytest.approx([0.995, 2.015], abs=1e-6)


def test_minimise_outliers_count_linearly() -> None:
    # One number, values 0, 0, 0 and 100: the mean is 25. With Huber's loss the outlier pulls with the force HUBER,
    # the other three hold with their distance each: 3 v = HUBER.
    values = np.array([0.0, 0.0, 0.0, 100.0])
    found = minimise(lambda place: place[0] - values, np.array([1.0]), 4)
    assert found == pytest.approx([HUBER / 3], rel=1e-3)


def test_minimise_terms_beyond_the_errors_are_squares() -> None:
    # 0 as an error and 1 as a term that holds: both are squares here, so the middle.
    found = minimise(lambda place: np.array([0.1 * place[0], 0.1 * (place[0] - 1)]), np.array([3.0]), 1)
    assert found == pytest.approx([0.5], abs=1e-6)


def test_summary_hand_solved() -> None:
    # Ratios 0.5, 1, 2: geometric mean 1, one of three within a factor of 1.3, one inside a range of 1.2 either way;
    # percentiles between the points: 0.5 + 0.2 * 0.5 = 0.6 and 1 + 0.8 * 1 = 1.8. All were measured alike: no order.
    found = summarise([said(0.5), said(1.0), said(2.0)])
    assert found.mean == pytest.approx(1)
    assert (found.low, found.high) == (pytest.approx(0.6), pytest.approx(1.8))
    assert found.near == found.inside == pytest.approx(1 / 3)
    assert found.width == pytest.approx(1.44)


def test_rank_correlation_hand_solved() -> None:
    # Measured 1, 2, 3, predicted 1, 3, 2: ranks differ by 0, 1, 1, so 1 - 6 * 2 / (3 * 8) = 0.5.
    ends = (0.1, 9.0)
    made = [Prediction(point(speed=speed), said, ends, 1.0) for speed, said in ((1.0, 1.0), (2.0, 3.0), (3.0, 2.0))]
    assert summarise(made).order == pytest.approx(0.5)


def test_classes_without_points_are_left_out() -> None:
    assert [one.setting for one in by_class([said(1.0), said(1.1, setting="flash")])] == ["all", "cpu-only", "flash"]


def test_accuracy_hand_solved() -> None:
    # Two machines, ratios 1.1 and 1 / 1.1: log(measured / predicted) is -0.0953 and +0.0953, their mean 0 and their
    # standard deviation 0.0953 * sqrt(2) = 0.1348. Student's t of one degree of freedom is 6.31: half of the range
    # would be 6.31 * 0.1348 * sqrt(1.5) = 1.04, more than MOST: MOST either way.
    found = accuracies([said(1.1, "one"), said(1 / 1.1, "two")])["cpu-only"]
    assert (found.low, found.high) == (pytest.approx(math.exp(-MOST)), pytest.approx(math.exp(MOST)))
    assert (found.points, found.machines, found.inside, found.runtimes) == (2, 2, 1.0, ("llama.cpp",))
    # Eleven machines that are all 10 % too fast: no spread, so LEAST, around 1 / 1.1.
    found = accuracies([said(1.1, str(box)) for box in range(11)])["cpu-only"]
    assert found.low == pytest.approx(math.exp(-LEAST) / 1.1)
    assert found.high == pytest.approx(math.exp(LEAST) / 1.1)


def test_accuracy_takes_a_machine_once() -> None:
    # Ten points of one machine weigh as one: the middle of the range is the mean of the machines' means.
    found = accuracies([*(said(1.2, "one") for _ in range(10)), said(1 / 1.2, "two")])["cpu-only"]
    assert found.low * found.high == pytest.approx(1)


def test_accuracy_is_a_document() -> None:
    import tomllib

    found = accuracies([said(1.0, str(box)) for box in range(4)])
    read = tomllib.loads(as_toml(found))
    assert list(read) == ["cpu-only"]
    assert read["cpu-only"]["low"] == pytest.approx(found["cpu-only"].low, abs=1e-3)
    assert read["cpu-only"]["runtimes"] == ["llama.cpp"]


def test_a_machine_is_left_out_of_its_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def watched(points: Sequence[Point]) -> dict[str, float]:
        seen.append({one.box for one in points})
        return {number.name: number.start for number in NUMBERS}

    monkeypatch.setattr(accuracy_module, "fit", watched)
    chosen = [one for one in published() if one.box in ("9950x", "7950x", "gb10")]
    found = left_out(chosen)
    assert [one.point for one in found] == chosen
    boxes = list(dict.fromkeys(one.box for one in chosen))
    assert seen == [{*boxes} - {box} for box in boxes]


@pytest.mark.parametrize(
    ("engine", "runtime"),
    [
        ("llama.cpp b9020", "llama.cpp"), ("ollama", "llama.cpp"), ("LM Studio", "llama.cpp"),
        ("ik_llama.cpp", "ik_llama.cpp"), ("mlx_lm", "mlx"), ("ktransformers 0.2.1", "ktransformers"), ("imp", "imp"),
        ("simple", None), ("BigMoeOnEdge", "bigmoeonedge-serial"), ("BigMoeOnEdge --overlap", "bigmoeonedge"),
        ("vLLM 0.30", "vllm"),
    ],
)  # fmt: skip
def test_engines_are_known_by_what_people_call_them(engine: str, runtime: str | None) -> None:
    found = runtime_of(engine)
    assert (None if found is None else found.name) == runtime


def test_engines_are_runtimes() -> None:
    assert {name for _, name in ENGINES} <= set(runtimes())


def test_a_row_that_the_plan_does_not_have() -> None:
    with pytest.raises(ConfigError, match="has no row lru, it has all-resident"):
        predict(replace(point(), row="lru"))


def table_with(tmp_path: Path, line: str, header: str = COLUMNS) -> Path:
    path = tmp_path / "points.csv"
    path.write_text(f"{header}\n{line}\n", encoding="utf-8")
    return path


def test_a_table_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command_line = (
        "lrcsim plan --model qwen3-30b-a3b --hardware desktop-cpu --set dram.memory=64GiB --dtype q4_0 --json -  "
        "# row all-resident, tokens_per_s"
    )
    path = table_with(tmp_path, f'mine,https://e.org,cpu-only,mine,m,q,llama.cpp,,0,10,"{command_line}",note')
    assert command.main(["--table", str(path), "--points"]) == 0
    assert "| mine | cpu-only | llama.cpp | 10.0 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "header", "message"),
    [
        ("a,b", "id,class", "column 'lrcsim_command' is missing"),
        ("a,u,cpu-only,h,m,q,e,,0,1,lrcsim run,n", COLUMNS, "line 2: 'lrcsim run' is no command"),
    ],
)
def test_wrong_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, header: str, message: str
) -> None:  # fmt: skip
    assert command.main(["--table", str(table_with(tmp_path, line, header))]) == 1
    assert message in capsys.readouterr().err


def test_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--table", str(tmp_path / "none.csv")]) == 1
    assert "cannot be read as a table of published speeds" in capsys.readouterr().err


def test_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [said(1.0), said(2.0, setting="flash")]
    monkeypatch.setattr(command, "predict_all", lambda points: made)
    path = tmp_path / "speeds.png"
    assert command.main(["--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
