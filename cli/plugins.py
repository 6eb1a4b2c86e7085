"""`lrcsim prefetchers`, `miss-actions` and `routes`: what is built in, what is installed beside it, parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from lrcsim.base.text import quoted
from lrcsim.cli.output import answer, console, json_option
from lrcsim.cli.screen import echo
from lrcsim.cli.tables import print_rows

if TYPE_CHECKING:
    from lrcsim.base.plugins import Registry


class Listed(NamedTuple):
    """A kind of plug-in that a command lists.

    Attributes:
        option: of `lrcsim run` that takes one.
        base: what one's own is derived from.
    """

    option: str
    base: str


def registry_of(kind: str) -> Registry[Any]:
    """Return the registry of a kind: its plug-ins by name."""
    if kind == "prefetchers":
        from lrcsim.simulator.setup import prefetchers as place

        return place.REGISTRY
    if kind == "miss-actions":
        from lrcsim.simulator.setup.miss_actions import REGISTRY

        return REGISTRY
    from lrcsim.policies.routing import RULES

    return RULES


LISTED = {
    "prefetchers": Listed("--prefetch", "lrcsim.simulator.time.Prefetcher"),
    "miss-actions": Listed("--miss", "lrcsim.simulator.time.MissAction"),
    "routes": Listed("--route", "lrcsim.policies.RoutingRule"),
}


@click.command()
@click.argument("name", required=False)
@json_option
def prefetchers(name: str | None, json_path: str | None) -> None:
    """List what can bring experts ahead (run --prefetch), or describe one."""
    _command("prefetchers", name, json_path)


@click.command("miss-actions")
@click.argument("name", required=False)
@json_option
def miss_actions(name: str | None, json_path: str | None) -> None:
    """List what can become of a miss (run --miss), or describe one."""
    _command("miss-actions", name, json_path)


@click.command()
@click.argument("name", required=False)
@json_option
def routes(name: str | None, json_path: str | None) -> None:
    """List the routing rules (run --route), by which the router may prefer residents, or describe one."""
    _command("routes", name, json_path)


def rows_of(kind: str, name: str | None = None) -> list[dict[str, Any]]:
    """Return what is known of a kind's plug-ins, or of one of them, as JSON values.

    Raises:
        ConfigError, PolicyError: there is none of that name.
    """
    from lrcsim.base.errors import LrcsimError

    registry = registry_of(kind)
    found: list[type[Any]] = list(registry.built_in.values()) if name is None else [registry.find(name)[0]]
    for plugin in registry.plugins() if name is None else ():
        try:
            found.append(registry.find(plugin)[0])
        except LrcsimError as error:  # the others work
            echo(f"Note: {error}", err=True)
    return [
        {
            "name": one.name,
            "aliases": list(one.aliases),
            "summary": one.summary.replace("``", "").replace("`", ""),
            "params": [
                {"name": p.name, "default": p.default, "minimum": p.minimum, "maximum": p.maximum, "help": p.help}
                for p in one.params
            ],
            "needs": sorted(getattr(one, "needs", ())),
            "source": one.source,
        }
        for one in found
    ]


def _command(kind: str, name: str | None, json_path: str | None) -> None:
    rows = rows_of(kind, name)
    if not answer(json_path, rows, kind):
        return
    if name is not None:
        describe(rows[0])
        return
    lines = []
    for row in quoted(rows):
        params = ",".join(f"{param['name']}={param['default']}" for param in row["params"])
        label = f"[bold]{row['name']}[/bold]" + (f"[dim]:{params}[/dim]" if params else "")
        lines.append((label, ", ".join(row["needs"]) or "–", row["summary"]))
    print_rows((LISTED[kind].option, "needs", "rule"), lines, left=range(3), whole=(0,))
    echo("")
    echo(f"One in full: lrcsim {kind} NAME. Your own, derived from {LISTED[kind].base}:")
    echo(f"{LISTED[kind].option} file.py:Class or package.module:Class.")


def describe(row: dict[str, Any]) -> None:
    """Print a plug-in's rule, parameters with their ranges, needs and source."""
    out = console()
    row = quoted(row)
    also = f" (also {', '.join(row['aliases'])})" if row["aliases"] else ""
    out.print(f"[bold]{row['name']}[/bold]{also}: {row['summary']}")
    for param in row["params"]:
        low, high = param["minimum"], param["maximum"]
        bounds = [f"at least {low:g}" if low is not None else "", f"at most {high:g}" if high is not None else ""]
        allowed = "".join(f", {bound}" for bound in bounds if bound)
        out.print(f"  {param['name']} = {param['default']}: {param['help']}{allowed}")
    out.print(f"needs: {', '.join(row['needs']) or 'nothing'}")
    if row["source"]:
        out.print(f"source: {row['source']}")
