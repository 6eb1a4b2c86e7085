"""How tables stand on a terminal: columns, headings, words that do not fit."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from lrcsim.cli.tables import print_rows, print_table


def test_the_first_column_stands_left_the_others_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("policy", "hits"), [("[bold]lru[/bold]", "7"), ("belady", "12")])
    assert capsys.readouterr().out.splitlines() == ["policy  hits", "lru        7", "belady    12"]


def test_no_heading_is_shown_where_all_are_empty(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("", ""), [("a", "b"), ("ab", "bc")], left=(0, 1), gap=1)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == ["a  b", "ab bc"]


def test_no_line_ends_with_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(
        ("name", "a rule"), [("[bold]one[/bold]", "short"), ("two", ""), ("", ""), ("ten", "longer")], left=(0, 1)
    )
    assert capsys.readouterr().out == "name  a rule\none   short\ntwo\n\nten   longer\n"


def test_a_title_a_note_and_what_looks_like_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[red]t", [{"m": "[dim]x", "value": 1}], note="said of it")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["[red]t", "said of it", "", "m        value", "[dim]x       1", ""]


class Terminal(io.StringIO):
    """Looks like a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Print rows on a terminal of some columns, and give the lines."""

    def lines(width: int, *rows: Any, **options: Any) -> list[str]:
        file = Terminal()
        monkeypatch.setattr(sys, "stdout", file)
        monkeypatch.setattr("lrcsim.cli.screen.terminal_size", lambda _: (width, 20))
        monkeypatch.setenv("NO_COLOR", "1")
        print_rows(*rows, **options)
        return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()]

    return lines


HEADINGS, ROWS = ("policy", "hits", "rate"), [("lru", "1,234,567", "12.5 %"), ("belady", "7", "–")]


def test_what_fits_stands_as_a_table(on: Callable[..., list[str]]) -> None:
    # 6 + 2 + 9 + 2 + 6 = 25 columns
    table = ["policy       hits    rate", "lru     1,234,567  12.5 %", "belady          7       –"]
    assert on(25, HEADINGS, ROWS) == table


def test_what_does_not_is_stacked(on: Callable[..., list[str]]) -> None:
    # "  hits 1,234,567   rate 12.5 %" takes 30
    assert on(24, HEADINGS, ROWS) == ["policy", "lru", "  hits 1,234,567", "  rate 12.5 %", "belady", "  hits 7"]


def test_text_is_broken_between_words_before_anything_is_stacked(on: Callable[..., list[str]]) -> None:
    text = "one two three four five six seven"  # 33 letters, in a column of at least 24
    options = {"left": (0, 1), "whole": (0,)}
    assert on(30, ("name", "rule"), [("n", text)], **options) == [
        "name  rule",
        f"n     {text[:23]}",
        f"      {text[24:]}",
    ]
    assert on(29, ("name", "rule"), [("n", text)], **options) == ["n", f"  {text[:27]}", f"  {text[28:]}"]


def test_a_word_longer_than_a_line_is_whole(on: Callable[..., list[str]]) -> None:
    digest = "0123456789abcdef" * 4
    assert f"  sum {digest}" in on(40, ("name", "size", "sum"), [("file", "7 B", digest)], left=range(3))


def test_nothing_is_stacked_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    headings, cells = [f"column {i}" for i in range(30)], [f"cell {i}" for i in range(30)]
    print_rows(headings, [cells])
    header, line = capsys.readouterr().out.splitlines()
    assert header.split("  ") == headings
    assert line.split() == " ".join(cells).split()


def test_a_name_is_not_broken_for_a_text(on: Callable[..., list[str]]) -> None:
    # the name takes 36, the text 33, in 2 + 24 columns less than both
    name, text = "a name of thirty-six letters, to see", "one two three four five six seven"
    lines = on(62, ("name", "rule"), [(name, text)], left=(0, 1), whole=(0,))
    assert lines[1:] == [f"{name}  {text[:23]}", f"{'':36}  {text[24:]}"]
