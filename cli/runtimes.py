"""`lrcsim runtimes`: what engines' software makes of machines, and where each number of it is from."""

from __future__ import annotations

from typing import Any

import click

from lrcsim.base.text import quoted
from lrcsim.cli.output import answer, console, json_option
from lrcsim.cli.tables import print_rows


@click.command()
@click.argument("name", required=False)
@click.option("--hardware", metavar="NAME|FILE", help="What it makes of this machine; lrcsim hardware lists them.")
@json_option
@click.option("--toml", "toml_path", metavar="FILE", help="Write the runtime as TOML, to start your own from.")
def runtimes(name: str | None, hardware: str | None, json_path: str | None, toml_path: str | None) -> None:
    """List the runtimes, or show one with each number and its source.

    NAME is a built-in runtime or a TOML file. Numbers may differ by kind of device and class of processor; --hardware
    takes those of one machine.
    """
    from lrcsim.base.errors import ConfigError
    from lrcsim.base.files import write_text
    from lrcsim.hardware import load_profile
    from lrcsim.runtimes import load_runtime, to_toml
    from lrcsim.runtimes import runtimes as built_in

    if name is None:
        if hardware or toml_path:
            raise ConfigError("--hardware and --toml are for one runtime: name it, as in lrcsim runtimes llama.cpp ...")
        if answer(json_path, list(map(_row, built_in().values())), "runtimes"):
            _list(list(built_in().values()))
        return
    document = load_runtime(name)
    profile = None if hardware is None else load_profile(hardware)
    made = None if profile is None else document.on(profile)
    if toml_path is not None:
        write_text(toml_path, to_toml(document if made is None else made))
    if answer(json_path, _row(document) | ({} if profile is None else _on(made, profile)), "runtimes"):
        _describe(document)
        if profile is None:
            _numbers(document)
        else:
            _resolved(made, profile)


def _row(document: Any) -> dict[str, Any]:
    """Return a runtime as JSON values; numbers by path, in SI base units."""
    from dataclasses import asdict

    row = asdict(document)
    return row | {key: list(row[key]) for key in ("strategies", "devices")}


def _on(made: Any, profile: Any) -> dict[str, Any]:
    """Return what it makes of a machine as JSON values; null: the machine's own number."""
    from dataclasses import asdict

    from lrcsim.runtimes.machine_kinds import cpu_class, device_kind

    parts = {key: value for key, value in asdict(made).items() if key in ("device", "cpu", "loads")}
    kinds = {"name": profile.name, "device": device_kind(profile), "cpu": cpu_class(profile)}
    return {"hardware": kinds, "on_hardware": parts | {"sources": made.sources}}


def _list(documents: list[Any]) -> None:
    headings = ("runtime", "is", "formats", "devices", "strategies")
    rows = [
        (
            f"[bold]{one.name}[/bold]",
            _is(one),
            one.formats,
            ", ".join(one.devices) or "any",
            ", ".join(one.strategies) or "any",
        )
        for one in documents
    ]
    print_rows(headings, rows, left=range(len(headings)), whole=(0, 1, 2))
    out = console()
    out.print()
    print_rows(("", ""), [(one.name, one.description) for one in documents], left=(0, 1), whole=(0,))
    out.print("\nOne with its numbers and their sources: lrcsim runtimes NAME [--hardware NAME].", highlight=False)


def _is(document: Any) -> str:
    if not document.engine:
        return "no engine"
    return "released" if document.released else "fork"


def _describe(document: Any) -> None:
    out = console()
    out.print(f"[bold]{quoted(document.name)}[/bold]: {quoted(document.description)}")
    rows = [
        ("engine", ", ".join(filter(None, (document.engine, document.url)))),
        ("is", _is(document)),
        ("formats", document.formats),
        ("devices", ", ".join(document.devices) or "any"),
        ("strategies", ", ".join(document.strategies) or "any"),
    ]
    print_rows(("", ""), [(key, quoted(value)) for key, value in rows if value], left=(0, 1), whole=(0,))


def _numbers(document: Any) -> None:
    """Print every number, for any machine and where kinds of machines differ."""
    from lrcsim.runtimes.load import written

    rows = [
        (path, written(path, value), f"[dim]{quoted(document.sources.get(path, 'no source'))}[/dim]")
        for path, value in sorted(document.numbers.items())
    ]
    if rows:
        print_rows(("", "", ""), rows, left=(0, 2), whole=(0, 1))
    else:
        console().print("It has no numbers of its own: all are the machine's.")


def _resolved(made: Any, profile: Any) -> None:
    """Print what it makes of a machine, key by key."""
    from lrcsim.runtimes.load import written
    from lrcsim.runtimes.machine_kinds import cpu_class, device_kind
    from lrcsim.runtimes.runtime import PARTS, keys

    kinds = f"device {device_kind(profile)}, processor {cpu_class(profile)}"
    console().print(f"on [bold]{quoted(profile.name)}[/bold] ({kinds}):")
    rows = []
    for path in (f"{part}.{key}" for part in PARTS for key in keys(part)):
        value = made.at(path)
        source = made.sources.get(path) or ("no source" if path in made.sources else "")
        text = "the machine's" if value is None else written(path, value)
        rows.append((path, text, f"[dim]{quoted(source)}[/dim]"))
    print_rows(("", "", ""), rows, left=(0, 2), whole=(0, 1))
