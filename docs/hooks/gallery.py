"""mkdocs hook: the pictures of docs/figures.md, made from its commands, each for a light and for a dark page.

Every command runs once, in this process; what it draws is kept and drawn a second time in the dark style. Pictures stay
in build/gallery until the page or the code changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "figures.md"
FENCE = re.compile(r'^```(?P<kind>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<body>.*?)^```$', re.DOTALL | re.MULTILINE)
PLOT = re.compile(r"--plot (\w+)\.png")
NOT_SOURCE = {"tests", "docs", "experiments", "benchmarks", "examples", "build", "lrcsim.egg-info"}

DRAWN_BY = {
    "balance": ("plot_balance",),
    "ceilings": ("plot_ceilings",),
    "charts": ("draw_names",),
    "curves": ("plot_curves",),
    "metrics": ("plot_srp", "plot_sch"),
    "results": ("plot_pivot", "plot_front"),
    "shown": ("draw_plan", "draw_trace"),
    "time": ("plot_time",),
}
"""Modules of `lrcsim.plots` and the functions that commands draw with."""

DARK = """
figure.facecolor: 1e2129
axes.facecolor: 1e2129
savefig.facecolor: 1e2129
text.color: d5d7de
axes.labelcolor: d5d7de
axes.edgecolor: d5d7de
xtick.color: d5d7de
ytick.color: d5d7de
axes.prop_cycle: cycler('color', ['4F9FE0', 'E69F00', '2DBE8D', 'E79AC4', 'A6D8F7', 'F0E442'])
"""
"""Settings of figures on a dark page."""


class Drawing(NamedTuple):
    """A figure that a command has drawn, and can be drawn again.

    Attributes:
        name: of the picture, without its ending.
        draw: takes a path, or None; returns the figure.
    """

    name: str
    draw: Callable[[str | None], Any]


@contextlib.contextmanager
def kept() -> Iterator[list[Drawing]]:
    """Keep the drawings of commands that run within."""
    drawings: list[Drawing] = []
    before: list[tuple[Any, str, Any]] = []

    def keeping(function: Callable[..., Any]) -> Callable[..., Any]:
        def draw(*arguments: Any, **options: Any) -> Any:
            given = signature(function).bind(*arguments, **options)

            def again(path: str | None) -> Any:
                given.arguments["path"] = path
                return function(*given.args, **given.kwargs)

            drawings.append(Drawing(Path(given.arguments["path"]).stem, again))
            return function(*arguments, **options)

        return draw

    modules = {name: import_module(f"lrcsim.plots.{name}") for name in DRAWN_BY}  # all before one is changed
    for name, module in modules.items():
        for function in DRAWN_BY[name]:
            before.append((module, function, getattr(module, function)))
            setattr(module, function, keeping(getattr(module, function)))
    try:
        yield drawings
    finally:
        for module, function, own in before:
            setattr(module, function, own)


def commands(page: str, folder: Path) -> list[str]:
    """Write a page's files into a folder; return its commands in their order."""
    found: list[str] = []
    for fence in FENCE.finditer(page):
        if fence["title"]:
            (folder / fence["title"]).write_text(fence["body"], encoding="utf-8")
        if fence["kind"] == "console":
            found += [line[2:] for line in fence["body"].splitlines() if line.startswith("$ ")]
    return found


def run(command: str) -> None:
    """Run a command of the page here, and now, its output thrown away.

    Raises:
        RuntimeError: it fails.
    """
    from lrcsim.cli.main import main

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main(shlex.split(command)[1:])
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"{command}: {said.getvalue()}") from None


def pictures() -> Path:
    """Return the folder with the page's pictures, drawn unless they are there."""
    page = PAGE.read_text(encoding="utf-8")
    place = ROOT / "build" / "gallery" / _key(page)
    if place.is_dir():
        return place
    from lrcsim.plots.settings import figures

    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as made, contextlib.chdir(made):
        out = Path(made) / "pictures"
        out.mkdir()
        Path("dark.mplstyle").write_text(DARK, encoding="utf-8")
        with kept() as drawings:
            for command in commands(page, Path(made)):
                run(command)
        for drawing in drawings:
            Path(f"{drawing.name}.png").rename(out / f"{drawing.name}.png")
            with figures(style="dark.mplstyle"):
                drawing.draw(str(out / f"{drawing.name}-dark.png"))
        with contextlib.suppress(OSError):  # another build was faster
            os.rename(out, place)
    return place


def _key(page: str) -> str:
    """Return what changes when the page, its looks or the code do."""
    found = hashlib.sha256(page.encode() + Path(__file__).read_bytes())
    for path in sorted(ROOT.rglob("*.py")):
        if path.relative_to(ROOT).parts[0] not in NOT_SOURCE and ".venv" not in path.parts:
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


def with_pictures(page: str) -> str:
    """Return the page with its pictures behind the commands that draw them."""

    def shown(fence: re.Match[str]) -> str:
        names = PLOT.findall(fence["body"]) if fence["kind"] == "console" else []
        images = [
            f"![The figure that this command draws](figures/{name}{kind}.png#only-{scheme})"
            for name in names
            for kind, scheme in (("", "light"), ("-dark", "dark"))
        ]
        return "\n\n".join([fence[0], *images])

    return FENCE.sub(shown, page)


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures."""
    from mkdocs.structure.files import File

    for path in sorted(pictures().glob("*.png")):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001  # passed by name
    """Put the pictures into their page."""
    return with_pictures(markdown) if page.file.src_uri == PAGE.name else markdown
