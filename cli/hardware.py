"""`lrcsim hardware`: the machines that are built in, and where each number of one is from."""

from __future__ import annotations

from typing import Any

import click

from lrcsim.base.text import human_bytes, quoted
from lrcsim.cli.output import answer, console, json_option
from lrcsim.cli.screen import echo
from lrcsim.cli.tables import print_rows


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
    """List the hardware profiles, or show one with each number and its source.

    NAME is a built-in profile, a TOML file, or either with components that replace its parts:
    rtx-4090+pcie3-x8+ddr4-3200-2ch.
    """
    from lrcsim.base.errors import ConfigError
    from lrcsim.base.files import write_text
    from lrcsim.hardware import load_profile, profile_names, to_toml

    if name is None:
        if overrides or toml_path:
            raise ConfigError("--set and --toml are for one profile: name it, as in lrcsim hardware rtx-4090 --set ...")
        rows = [_row(load_profile(profile)) for profile in profile_names()]
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
    return "–" if part is None else f"{part['bandwidth'] / 1e9:,.1f}"


def _cells(row: dict[str, Any]) -> list[str]:
    gpu = row["gpu"]
    return [
        f"[bold]{row['name']}[/bold]",
        human_bytes(gpu["memory"]) if gpu else "–",
        _rate(gpu),
        f"{gpu['compute'] / 1e12:,.0f}" if gpu else "–",
        human_bytes(row["dram"]["memory"]),
        _rate(row["dram"]),
        _rate(row["cpu"]),
        "unified" if row["unified"] else _rate(row["pcie"]),
        _rate(row["nvme"]),
    ]


def _list(rows: list[dict[str, Any]]) -> None:
    from lrcsim.hardware import component_names
    from lrcsim.hardware.document import PARTS

    headings = ("profile", "GPU memory", "GB/s", "TFLOP/s", "DRAM", "GB/s", "CPU GB/s", "PCIe GB/s", "NVMe GB/s")
    print_rows(headings, map(_cells, rows), whole=range(len(headings)))
    click.echo("\nEffective rates, not data-sheet peaks. One with its sources: lrcsim hardware NAME.")
    click.echo("Components replace parts (rtx-4090+pcie3-x8+ddr4-3200-2ch):")
    for part in PARTS:
        if names := component_names(part):
            echo(f"  {part}: {', '.join(names)}")


def _describe(profile: Any) -> None:
    from lrcsim.hardware.document import numbers

    out = console()
    out.print(f"[bold]{quoted(profile.name)}[/bold]: {quoted(profile.description)}")
    rows = [(path, text, f"[dim]{quoted(source)}[/dim]") for path, text, source in numbers(profile)]
    print_rows(("", "", ""), rows, left=(0, 2), whole=(0, 1))
    if profile.unified:
        out.print("unified memory: GPU and CPU share the DRAM, nothing is copied")
