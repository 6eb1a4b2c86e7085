"""Names out of files on terminals, in tables and in pictures: shown as they are, steering nothing."""

from __future__ import annotations

import ast
import io
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lrcsim.cli.output
from lrcsim.base.text import printable, quoted
from lrcsim.cli.output import console
from lrcsim.traces import RoutingTrace

HOSTILE = (
    "[q4] [/b] [bold]x[/bold] [/] \x1b]0;title\x07 \x9b31m \u202eright\u2066 \u2028 a\nError: fake \ue0ff \ue0fe "
    "$\\frac{ $x$ :warning: back\\"
)
"""Markup, escape sequences in 7 and 8 bits, reading directions, line ends, formulas, emoji codes."""

SHOWN = (
    r"[q4] [/b] [bold]x[/bold] [/] \x1b]0;title\x07 \x9b31m \u202eright\u2066 \u2028 a\nError: fake \ue0ff \ue0fe "
    "$\\frac{ $x$ :warning: back\\"
)
"""What is seen of it."""


def hidden(text: str) -> set[str]:
    """Return the characters of an output that are not simply seen."""
    return {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    experts = np.random.default_rng(0).random((60, 2, 8)).argsort(axis=2)[:, :, :2]
    path = tmp_path / "hostile.h5"
    RoutingTrace.from_arrays(
        experts, num_experts=8, offsets=[0, 30, 60], model=HOSTILE, domains=[HOSTILE, "b"], expert_bytes=100
    ).save(path)
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "T"],
        ["curve", "T", "--policy", "lru"],
        ["srp", "T", "-m", "4"],
        ["srp", "T", "-m", "4", "--by", "domain"],
        ["sch", "T", "-m", "4"],
        ["balance", "T", "-m", "4", "--by", "domain"],
        ["trace", "info", "T"],
        ["run", "T", "--hardware", "rtx-3090"],
    ],
    ids=" ".join,
)
def test_commands_show_names_as_they_are(arguments: list[str], hostile: Path, lrcsim: Callable[..., Any]) -> None:
    code, out, err = lrcsim(*(str(hostile) if word == "T" else word for word in arguments))
    assert code == ("--hardware" in arguments)  # there is no such model
    assert not hidden(out + err)
    if not code:
        shown = " ".join(SHOWN.split())
        assert shown.replace(" ", "") in re.sub(r"\s", "", out)  # tables break lines


def test_paths_and_words_of_the_command_line(tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    odd = tmp_path / "a\x1b[31m\nError: fake.h5"
    odd.write_bytes(b"no trace")
    for arguments in (
        ["run", odd],
        ["trace", "check", odd],
        ["run", "--policy", "\x1b[31mlru"],
        ["run", "--\x1b[31m"],
        ["\x1b[31mrun"],
        ["hardware", "\x1b[31m"],
        ["models", "\x9b"],
    ):
        code, out, err = lrcsim(*arguments)
        assert code in (1, 2)
        assert not hidden(out + err)
        assert code == 2 or err.count("\n") == 1


@given(st.text())
def test_nothing_hidden_is_left(text: str) -> None:
    assert not hidden(printable(text)) - {"\u200c", "\u200d", "\u00ad"}
    assert "\n" not in printable(text)


def on_screen(markup: str) -> str:
    """Return what a console prints."""
    out = console()
    out.file = io.StringIO()
    out.width = 10_000
    out.print(markup, soft_wrap=True)
    text: str = out.file.getvalue()
    return text.removesuffix("\n")


PIECES = (
    "[",
    "]",
    "/",
    "bold",
    "dim",
    "b",
    "[bold]",
    "[/bold]",
    "[/]",
    "\\",
    "[q4]",
    "[link=x]",
    "a",
    " ",
    "\x1b[1m",
    ":a:",
    "@",
)


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_name_is_shown_as_it_is(name: str) -> None:
    assert on_screen(f"<[bold]{quoted(name)}[/bold]>") == f"<{printable(name)}>"


@given(
    st.lists(st.sampled_from([piece for piece in PIECES if "bold" not in piece and "dim" not in piece])).map("".join)
)
def test_a_name_that_nobody_has_quoted_breaks_nothing(name: str) -> None:
    """The console takes for markup only what the commands themselves write."""
    if "\\" not in name:
        assert on_screen(f"<{name}>") == f"<{printable(name)}>"
    on_screen(f"[bold]{name}[/bold]")


def test_markup_of_the_commands_is_markup() -> None:
    assert on_screen("[bold]lru[/bold] [yellow]Note:[/yellow] x") == "lru Note: x"


def test_pictures_have_names_as_they_are(hostile: Path, tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    """A name with a dollar sign was a formula, and most are none that matplotlib can set."""
    pytest.importorskip("matplotlib")
    for arguments in (
        ["curve", hostile, "--policy", "lru", "--plot", tmp_path / "curve.svg"],
        ["srp", hostile, "-m", "4,8", "--plot", tmp_path / "srp.svg"],
        ["balance", hostile, "-m", "4,8", "--plot", tmp_path / "balance.svg"],
    ):
        code, _, err = lrcsim(*arguments)
        assert (code, err) == (0, "")
        drawn = Path(arguments[-1]).read_text(encoding="utf-8")
        assert not hidden(drawn)
        assert r"\x1b]0;title\x07" in drawn


def test_axes_in_powers_of_ten_are_still_set() -> None:
    pytest.importorskip("matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from lrcsim.plots.figure import _plain_names

    figure, axes = plt.subplots()
    axes.loglog([1, 1000], [1, 1000])
    axes.set(title="$x$")
    _plain_names(figure)
    figure.canvas.draw()
    assert all(label.get_parse_math() for label in axes.get_xticklabels())
    assert not axes.title.get_parse_math()
    plt.close(figure)


def test_the_commands_print_through_the_door() -> None:
    """`click.echo` is for fixed words: whatever is put into a text goes through `echo` or the console."""
    folder = Path(lrcsim.cli.output.__file__).parent
    for file in set(folder.glob("*.py")) - {folder / "screen.py", folder / "main.py"}:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "print", "click.secho"):
                assert isinstance(node.args[0], ast.Constant), f"{file.name}:{node.lineno}: print it with echo()"
