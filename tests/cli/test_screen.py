"""Lines on a terminal: broken between words, never between a number and its unit; in a pipe whole."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.text import printable
from lrcsim.cli.screen import GLUE, Screen, echo, glued

CASES = [
    ("3.4 MiB a token, 12 % of 25.80 GB/s, 0.5 s", "3.4_MiB a token, 12_% of 25.80_GB/s, 0.5_s"),
    ("36 tokens/s, 1 token", "36_tokens/s, 1_token"),
    ("8 Bytes, 3 sizes, 5 %a", "8 Bytes, 3 sizes, 5 %a"),
]


class Terminal(io.StringIO):
    """Looks like a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("text", "shown"), CASES)
def test_numbers_stay_with_their_units(text: str, shown: str) -> None:
    assert glued(text).replace(GLUE, "_") == shown


def test_a_line_goes_on_below_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "20")
    echo("  it loads 3.4 MiB for each token")
    echo("a/path/that/is/longer/than/the/line of 5 s")
    echo("lrcsim run --policy lru", whole=True)
    # 20 letters: "  it loads 3.4" would fit, but the number takes its unit along
    assert out.getvalue().split("\n") == [
        "  it loads 3.4 MiB", "  for each token", "a/path/that/is/longer/than/the/line", "of 5 s",
        "lrcsim run --policy lru", "",
    ]  # fmt: skip


def test_a_pipe_has_it_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    echo("word " * 60)
    assert capsys.readouterr().out.count("\n") == 1


def test_the_console_breaks_what_is_one_line_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "20")
    out = Screen()
    out.print("it loads some 3.4 MiB for each", soft_wrap=True)
    out.print("a/path/that/is/longer/than/the/line of 5 s", soft_wrap=True)
    lines = [line.rstrip() for line in sys.stdout.getvalue().splitlines()]  # type: ignore[attr-defined]  # a StringIO
    assert lines == ["it loads some", "3.4 MiB for each", "a/path/that/is/longer/than/the/line of 5 s"]


@given(st.text())
def test_no_text_of_a_file_has_the_glue(text: str) -> None:
    assert GLUE not in printable(text + GLUE)
    assert glued(text).replace(GLUE, " ") == text.replace(GLUE, " ")


def test_ctrl_c_while_the_command_line_is_imported() -> None:
    code = (
        "import builtins; from lrcsim.__main__ import main; ours = builtins.__import__\n"
        "def bring(name, *rest):\n"
        "    if name == 'lrcsim.cli.main': raise KeyboardInterrupt\n"
        "    return ours(name, *rest)\n"
        "builtins.__import__ = bring; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Aborted.\n")
