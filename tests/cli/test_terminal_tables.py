"""How tables stand on a terminal: columns, headings, words that do not fit."""

from __future__ import annotations

import pytest

from lrcsim.cli.tables import print_rows, print_table


def test_the_first_column_stands_left_the_others_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("policy", "hits"), [("[bold]lru[/bold]", "7"), ("belady", "12")])
    assert capsys.readouterr().out.splitlines() == ["policy  hits", "lru        7", "belady    12"]


def test_no_heading_is_shown_where_all_are_empty(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("", ""), [("a", "b"), ("ab", "bc")], left=(0, 1), gap=1)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == ["a  b", "ab bc"]


def test_a_title_a_note_and_what_looks_like_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[red]t", [{"m": "[dim]x", "value": 1}], note="said of it")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["[red]t", "said of it", "", "m        value", "[dim]x       1", ""]
