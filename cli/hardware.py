"""`lrcsim hardware`: the machines that are built in, and where each number of one is from."""

from __future__ import annotations

import textwrap
from typing import Any

import click

from lrcsim.base.text import quoted
from lrcsim.cli.output import answer, console, json_option
from lrcsim.cli.screen import echo
from lrcsim.cli.tables import print_rows

WIDTH = 80


@click.command()
@click.argument("name", required=False)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one value: pcie.bandwidth=25.6GB/s, nvme=nvme-gen5. Repeatable.",
)
@json_option
@click.option("--toml", "toml_path", metavar="FILE", help="Write the profile as TOML, to start your own from.")
def hardware(name: str | None, overrides: tuple[str, ...], json_path: str | None, toml_path: str | None) -> None:
    """List the machines and their parts, or show one with each number and its source.

    NAME is a GPU or a processor, as a machine with its usual other parts; a machine of the list; auto, which is this
    one; a TOML file; or any of these with parts in place of its own: rtx-3060+ryzen-7950x+ddr5-5600-2ch. Names as
    people write them are good: 4090, "NVIDIA GeForce RTX 4090", "M2 Ultra 192GB".
    """
    from lrcsim.base.errors import ConfigError
    from lrcsim.base.files import write_text
    from lrcsim.hardware import load_profile, machine_names, to_toml

    if name is None:
        if overrides or toml_path:
            raise ConfigError("--set and --toml are for one profile: name it, as in lrcsim hardware rtx-4090 --set ...")
        rows = [_row(load_profile(machine)) for machine in machine_names()]
        if answer(json_path, rows, "hardware"):
            _list(rows)
        return
    profile = load_profile(name, overrides)
    if toml_path is not None:
        write_text(toml_path, to_toml(profile))
    if answer(json_path, _row(profile), "hardware"):
        _describe(profile)


def _row(profile: Any) -> dict[str, Any]:
    """Return a profile as JSON values: its links as the path that they are, and by their names."""
    from dataclasses import asdict

    from lrcsim.hardware.document import LINKS

    row = asdict(profile)
    return dict.fromkeys(LINKS) | {link["name"]: link for link in row["links"]} | row


def _rate(part: dict[str, Any] | None) -> str:
    if part is None:
        return "–"
    rate = part["bandwidth"] / 1e9
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _cells(row: dict[str, Any]) -> list[str]:
    gpu = row["gpu"]
    return [
        f"[bold]{row['name']}[/bold]",
        _gib(gpu),
        _rate(gpu),
        f"{gpu['compute'] / 1e12:,.0f}" if gpu else "–",
        _gib(row["dram"]),
        _rate(row["dram"]),
        _rate(row["cpu"]),
        "unified" if row["unified"] else _rate(row["pcie"]),
        _rate(row["nvme"]),
    ]


def _gib(part: dict[str, Any] | None) -> str:
    return "–" if part is None else f"{part['memory'] / 2**30:,.3g}"


def _list(rows: list[dict[str, Any]]) -> None:
    from lrcsim.hardware import profile_names

    shown = [row for row in rows if row["name"] in profile_names()]
    headings = ("machine", "GPU GiB", "GB/s", "TFLOP/s", "RAM GiB", "GB/s", "CPU", "PCIe", "NVMe")
    print_rows(headings, map(_cells, shown), whole=(0,), gap=1)
    echo("")
    echo("Effective rates in GB/s, not data sheets' peaks. Sources: lrcsim hardware NAME.")
    echo("Every GPU is a machine, in its usual host. Parts replace parts, in any order:")
    echo("rtx-3060+ryzen-7950x+ddr5-5600-2ch. The machine this runs on: auto.")
    for part, families in _families().items():
        echo("")
        echo(f"{part}:")
        for family, names in families.items():
            text = ", ".join(names) if part == family else f"{family}: {', '.join(names)}"
            lines = textwrap.wrap(
                text, min(WIDTH, console().width), initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
            for line in lines:
                echo(line)


def _families() -> dict[str, dict[str, list[str]]]:
    """Return the names of all components, by part and family; sizes of a GPU behind its name."""
    from lrcsim.hardware import component_names
    from lrcsim.hardware.cpus import processors
    from lrcsim.hardware.gpus import gpus

    found: dict[str, dict[str, list[str]]] = {"gpu": {}, "cpu": {}}
    for gpu in gpus().values():
        if gpu.name == gpu.base:
            sizes = " ".join(f"-{size}gb" for size in gpu.sizes[:-1])
            found["gpu"].setdefault(gpu.family, []).append(f"{gpu.name} ({sizes})" if sizes else gpu.name)
    for name, processor in processors().items():
        found["cpu"].setdefault(processor.family, []).append(name)
    for part in ("dram", "pcie", "nvme"):
        found[part] = {part: component_names(part)}
    found["dram"]["dram"].append("any other type-rate-channels, with -96gb or another size")
    return found


def _describe(profile: Any) -> None:
    from lrcsim.hardware.document import numbers

    out = console()
    out.print(f"[bold]{quoted(profile.name)}[/bold]: {quoted(profile.description)}")
    rows = [(path, text, f"[dim]{quoted(source)}[/dim]") for path, text, source in numbers(profile)]
    print_rows(("", "", ""), rows, left=(0, 2), whole=(0, 1))
    if profile.unified:
        out.print("unified memory: GPU and CPU share the DRAM, nothing is copied")
