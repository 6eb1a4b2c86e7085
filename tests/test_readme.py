"""What README and the docs show is run: the Python snippets, and the policy as the file it says to save."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import numpy as np
import numpy.typing as npt
import pytest

from lrcsim.simulator import hit_rate_curve, simulate
from lrcsim.traces import RoutingTrace

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [command for command in re.findall(r"`(lrcsim [a-z][^`]*)`", README) if "COMMAND" not in command]
PICTURES = ROOT / "docs/pictures"
SVG = "{http://www.w3.org/2000/svg}"


def test_from_python(capsys: pytest.CaptureFixture[str]) -> None:
    """Tokens {0 1} {1 2} {0 1}, 3 slots: LRU misses 0, 1, 2 and hits 1, 0, 1, and so does the optimum."""
    (snippet,) = [snippet for snippet in SNIPPETS if "from_arrays" in snippet]
    exec(compile(snippet, "README.md", "exec"), {})
    assert capsys.readouterr().out == "0.5 0.5\n"


def test_your_own_policy(tmp_path: Path) -> None:
    (snippet,) = [snippet for snippet in SNIPPETS if "class Sticky" in snippet]
    (tmp_path / "mine.py").write_text(snippet)
    trace = RoutingTrace.from_arrays([[[e]] for e in (0, 0, 1, 2, 0)], num_experts=4)
    # 0 is used in two steps in a row, so 2 puts out 1, and 0 is still there at the end; LRU would have put out 0.
    result = simulate(trace, f"{tmp_path}/mine.py:Sticky", 2, record=True)
    assert result.counts.hit is not None
    assert result.counts.hit.tolist() == [False, True, False, False, True]
    assert result.lru is not None
    assert result.lru.hit_rate == 0.2


def test_your_own_compiled_policy(tmp_path: Path) -> None:
    (snippet,) = [snippet for snippet in SNIPPETS if "class Patient" in snippet]
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 10
    (tmp_path / "mine.py").write_text(snippet)
    trace = RoutingTrace.from_arrays([[[e]] for e in (0, 0, 1, 2, 1, 0)], num_experts=3)
    curve = hit_rate_curve(trace, f"{tmp_path}/mine.py:Patient", capacities=[1, 2])
    # When 2 comes into two slots, 0 has 2 uses in 4 steps and 1 has 1 in 2: 0 goes, used longer ago. 1 hits, 0 misses.
    assert curve.engine == "compiled"
    assert curve.hit_rate.tolist() == [1 / 6, 2 / 6]
    replayed = simulate(trace, f"{tmp_path}/mine.py:Patient", 2, record=True)
    assert replayed.counts.hit is not None
    assert replayed.counts.hit.tolist() == [False, True, False, False, True, False]


def test_about_twenty_lines() -> None:
    (snippet,) = [snippet for snippet in SNIPPETS if "class Sticky" in snippet]
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 20


def test_worked_example_of_the_accounting_page(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/accounting.md").read_text(), flags=re.DOTALL)
    exec(compile(snippet, "accounting.md", "exec"), {})
    assert capsys.readouterr().out == "coresident 2\nsequential 0\npaper 4\n"


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]:
        text = page.read_text("utf-8")
        for target in re.findall(r"\]\((?!http)([^)#]+)|src(?:set)?=\"([^\"]+)", text):
            target = "".join(target)
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_table_is_understood(command: str) -> None:
    """The command and its options are there; what they are given is not looked at."""
    from lrcsim.cli.main import cli

    words = shlex.split(command)[1:]
    found: click.Command | None = cli
    while isinstance(found, click.Group) and words:
        found = found.get_command(click.Context(found), words.pop(0))
    assert found is not None
    known = {flag for param in found.params for flag in (*param.opts, *param.secondary_opts)} | {"--help"}
    assert {word for word in words if word.startswith("-")} <= known


def drawn(path: Path) -> list[npt.NDArray[np.float64]]:
    """Return the curves of a figure, in order: float64 [points, 2], as shares of the axes' width and height."""
    groups = ElementTree.parse(path).iter(f"{SVG}g")
    axes = next(group for group in groups if group.get("id") == "axes_1")
    paths = [_points(path) for group in axes for path in group.findall(f"{SVG}path")]
    frame = paths[0]  # of the background
    low, high = frame.min(axis=0), frame.max(axis=0)
    return [np.abs(points - (low[0], high[1])) / (high - low) for points in paths if len(points) > 10]


def _points(path: ElementTree.Element) -> npt.NDArray[np.float64]:
    numbers = re.findall(r"-?\d+(?:\.\d+)?", path.get("d", ""))
    return np.array(numbers, np.float64).reshape(-1, 2)


def test_the_picture_shows_hit_rates() -> None:
    """A curve of 64 sizes, 1/8x to 8x, is as wide as 8 - 1/8 of 8.4 units (5 % are left free), 100 % are the height."""
    curves = drawn(PICTURES / "curve.svg")
    for points, policy in zip(curves, ("lru", "lfu", "belady"), strict=True):
        wanted = hit_rate_curve(RoutingTrace.open(), policy)
        relative = points[:, 0] / points[-1, 0] * 8
        assert np.interp(wanted.relative, relative, points[:, 1]) == pytest.approx(wanted.hit_rate, abs=2e-3)


@pytest.mark.parametrize("dark", [False, True])
def test_its_command_still_makes_the_picture(dark: bool, lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    """The same curves, not the same bytes: matplotlib may put them down otherwise.

    If the change is meant: ``lrcsim curve --size 7x3.6 --plot docs/pictures/curve.svg``, and with ``--style
    docs/pictures/dark.mplstyle`` curve-dark.svg.
    """
    (command,) = [command for command in COMMANDS if command.endswith("--plot curve.svg")]
    committed, made = PICTURES / ("curve-dark.svg" if dark else "curve.svg"), tmp_path / "made.svg"
    style = ["--style", str(PICTURES / "dark.mplstyle")] if dark else []
    assert lrcsim(*shlex.split(command)[1:-1], str(made), *style)[0] == 0
    sizes = np.linspace(0.02, 0.94, 200)
    for old, new in zip(drawn(committed), drawn(made), strict=True):
        assert np.interp(sizes, *new.T) == pytest.approx(np.interp(sizes, *old.T), abs=2e-3)
    texts = [[word.text for word in ElementTree.parse(path).iter(f"{SVG}text")] for path in (committed, made)]
    assert texts[0] == texts[1]
