"""mkdocs hook: the Python reference, one page for each package with the names of its ``__all__``.

mkdocstrings reads sources. The packages stand at the repository's root, whatever that is called, so they are copied to
where their names say they are.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "traces", "simulator", "simulator.time", "policies", "hardware", "models", "runtimes", "recorder", "frontier",
    "sweeps", "planner", "reports", "errors",
)  # fmt: skip
BESIDES = {  # what others refer to, and is imported from its module
    "traces": ("traces.importers.import_trace", "traces.importers.Options", "traces.exporters.export_trace"),
    "simulator": (
        "simulator.setup.options.Options",
        "simulator.setup.run.Run",
        "simulator.curves.allocate.allocate",
        "simulator.curves.allocate.Allocation",
        "simulator.replay.Counts",
    ),
    "simulator.time": (
        "simulator.time.run_in_time.Timed",
        "simulator.time.tally.Tally",
        "simulator.serving.steps.Step",
        "simulator.serving.batching.batched",
        "simulator.serving.arrivals.arrival_steps",
    ),
}
_copy: list[tempfile.TemporaryDirectory[str]] = []


def copy_sources(target: Path) -> None:
    """Copy the modules of all packages of pyproject.toml, as ``lrcsim/...`` in a folder.

    There ``lrcsim`` is an ordinary package: the parts of a namespace would be looked for elsewhere too.
    """
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    for package in listed:
        place = Path(*package.split(".")[1:])
        (target / "lrcsim" / place).mkdir(parents=True, exist_ok=True)
        if place.parts:
            for module in (ROOT / place).glob("*.py"):
                shutil.copy(module, target / "lrcsim" / place)
    (target / "lrcsim/__init__.py").touch()


@event_priority(100)  # before mkdocstrings reads its settings
def on_config(config: Any) -> Any:
    """Tell mkdocstrings where the sources are."""
    on_post_build(config)
    _copy.append(tempfile.TemporaryDirectory(prefix="lrcsim-docs-"))
    copy_sources(Path(_copy[0].name))
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_copy[0].name]
    return config


def on_post_build(config: Any) -> None:  # noqa: ARG001  # mkdocs passes it by name
    """Drop the copy."""
    while _copy:
        _copy.pop().cleanup()


def text_of(module: object) -> str:
    """Return a docstring as Markdown: single backquotes for code."""
    return inspect.cleandoc(getattr(module, "__doc__", None) or "").replace("``", "`")


def entry(package: str, name: str) -> str:
    """Return the directive for one name; a function may stand in a module of its own name, which hides it."""
    if (ROOT / package.replace(".", "/") / f"{name}.py").exists():
        return f'<a id="lrcsim.{package}.{name}"></a>\n\n::: lrcsim.{package}.{name}.{name}'
    return f"::: lrcsim.{package}.{name}"


def page(package: str) -> str:
    """Return the page of one package as Markdown: functions first, then classes, then constants."""
    module = importlib.import_module(f"lrcsim.{package}")
    names = sorted(module.__all__, key=lambda name: (name.isupper(), name[0].isupper(), name.lower()))
    parts = [f"# lrcsim.{package}", text_of(module), *(entry(package, name) for name in names)]
    if package in BESIDES:
        parts += ["## In modules of the package", *(f"::: lrcsim.{name}" for name in BESIDES[package])]
    return "\n\n".join(parts) + "\n"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    from mkdocs.structure.files import File

    for package in PACKAGES:
        files.append(File.generated(config, f"api/{package}.md", content=page(package)))
    return files
