"""Tables by hand: what stands where, how numbers are written, what a CSV holds."""

from __future__ import annotations

from pathlib import Path

from lrcsim.base.tables import Table, plain, write_csv

NAN, INF = float("nan"), float("inf")


def test_tables_as_markdown_and_csv(tmp_path: Path) -> None:
    rows = [{"name": "a|b", "x": 0.12345, "95 %": (0.1, INF)}, {"name": "c", "x": NAN, "95 %": None}]
    table = Table("t", "Caption.", rows, "Foot.")
    assert table.markdown().splitlines() == [
        *("Caption.", "", "| name | x | 95 % |", "|---|---:|---|"),
        *("| a\\|b | 0.123 | 0.100 to beyond |", "| c | – | – |", "", "Foot."),
    ]
    table.write_csv(tmp_path)
    text = (tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()
    assert text == ["name,x,95 % low,95 % high,95 %", "a|b,0.12345,0.1,,", "c,,,,"]


def test_formats_are_of_numbers_and_put_their_columns_right() -> None:
    rows = [{"rate": 12.345, "label": "x", "span": (1.0, 2.0)}, {"rate": "", "label": "y", "span": None}]
    table = Table("t", "", rows, formats={"rate": "{:.1f} %", "label": "{}", "span": "{:.0f}x"})
    assert table.lines() == [
        *("| rate | label | span |", "|---:|---:|---:|"),
        *("| 12.3 % | x | 1x to 2x |", "|  | y | – |"),
    ]


def test_json_has_no_number_that_is_none() -> None:
    assert plain({"a": (NAN, 1.5), 2: [INF, "x", None]}) == {"a": [None, 1.5], "2": [None, "x", None]}


def test_csv_of_rows_with_the_columns_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_csv(path, [{"b": 1.5, "a": NAN}, {"b": True, "c": None}], ("a",))
    assert path.read_text(encoding="utf-8").splitlines() == ["a,b,c", ",1.5,", ",True,"]
    write_csv(path, [], ("a", "b"))
    assert path.read_text(encoding="utf-8").splitlines() == ["a,b"]
