"""`lrcsim policies`: what is built in, what is installed beside it, and what each needs."""

from __future__ import annotations

from typing import Any

import click

from lrcsim.cli.output import answer, console, json_option
from lrcsim.cli.screen import echo
from lrcsim.cli.tables import print_rows


@click.command()
@click.argument("name", required=False)
@json_option
def policies(name: str | None, json_path: str | None) -> None:
    """List the eviction policies, or describe one: its rule, parameters, needs and source."""
    from lrcsim.base.errors import PolicyError
    from lrcsim.policies import FAMILIES, make_policy, plugins

    if name is not None:
        chosen = [("", type(make_policy(name)))]
    else:
        chosen = [(family, policy) for family, members in FAMILIES.items() for policy in members]
        for plugin in plugins():
            try:
                chosen.append(("plugin", type(make_policy(plugin))))
            except PolicyError as error:  # the others work
                echo(f"Note: {error}", err=True)
    rows: list[dict[str, Any]] = [
        {
            "name": policy.name,
            "family": family or policy.__module__.rpartition(".")[2],
            "aliases": list(policy.aliases),
            "summary": policy.summary.replace("``", ""),
            "params": [
                {"name": p.name, "default": p.default, "minimum": p.minimum, "maximum": p.maximum, "help": p.help}
                for p in policy.params
            ],
            "needs": sorted(policy.needs),
            "wants": sorted(policy.wants),
            "bypass": policy.bypass,
            "source": policy.source,
        }
        for family, policy in chosen
    ]
    if not answer(json_path, rows, "policies"):
        return
    if name is not None:
        _describe(rows[0])
    else:
        _list(rows)


def _list(rows: list[dict[str, Any]]) -> None:
    lines: list[tuple[str, str, str]] = []
    family = ""
    for row in rows:
        if row["family"] != family:
            family = row["family"]
            lines.append((f"[dim]{family}[/dim]", "", ""))
        params = ",".join(f"{param['name']}={param['default']}" for param in row["params"])
        name = f"[bold]{row['name']}[/bold]" + (f"[dim]:{params}[/dim]" if params else "")
        also = f" [dim](also {', '.join(row['aliases'])})[/dim]" if row["aliases"] else ""
        lines.append((name, ", ".join(row["needs"]) or "–", row["summary"] + also))
    print_rows(("policy", "needs", "rule"), lines, left=range(3), whole=(0,))
    echo("")
    echo("One in full: lrcsim policies NAME. Your own: --policy file.py:Class or package.module:Class.")


def _describe(row: dict[str, Any]) -> None:
    out = console()
    also = f" (also {', '.join(row['aliases'])})" if row["aliases"] else ""
    out.print(f"[bold]{row['name']}[/bold]{also}: {row['summary']}")
    for param in row["params"]:
        low, high = param["minimum"], param["maximum"]
        allowed = "" if low is None else f", at least {low:g}" if high is None else f", {low:g} to {high:g}"
        out.print(f"  {param['name']} = {param['default']}: {param['help']}{allowed}")
    out.print(
        f"needs: {', '.join(row['needs']) or 'nothing'}" + (", misses may bypass the cache" if row["bypass"] else "")
    )
    if row["source"]:
        out.print(f"source: {row['source']}")
