"""Options of a run on the command line, made of their declarations (`lrcsim.simulator.setup.options`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import click

from lrcsim.base.errors import ConfigError
from lrcsim.cli.screen import echo
from lrcsim.cli.sections import SectionOption
from lrcsim.simulator.setup.expert_sizes import sizes_from
from lrcsim.simulator.setup.miss_actions import ACTIONS
from lrcsim.simulator.setup.options import Declared, Group, declared

DRAFTS = (
    click.option(
        "--draft",
        cls=SectionOption,
        section="serving",
        type=int,
        metavar="N",
        help="Speculative decoding: tokens drafted for each step.",
    ),
    click.option(
        "--acceptance",
        cls=SectionOption,
        section="serving",
        metavar="RATE|LIST",
        help="How many drafts are accepted: a rate, or counts: 2,0,3. [default: 0.7]",
    ),
)
"""The two parts of ``speculative``."""


def run_options(
    *groups: Group, but: Collection[str] = (), only: Collection[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what gives a command some options of a run.

    Args:
        groups: all of these groups.
        but: except those of these names.
        only: and those of these names.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(declared().values()):
            if option.name in only or (option.group in groups and option.name not in but):
                for one in (
                    reversed(DRAFTS) if option.name == "speculative" else [_click(option)] if option.flag else []
                ):
                    command = one(command)
        return command

    return add


def _click(option: Declared) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    told: dict[str, Any] = {"default": None, "cls": SectionOption, "section": option.group}
    if option.kind == "count":
        told["type"] = int
    if option.kind != "flag":
        told["metavar"] = option.metavar
    if option.name == "miss":
        told |= {"is_eager": True, "callback": _describe_actions}
    if option.name == "overrides":
        told |= {"multiple": True, "default": ()}
    shown = f"  [default: {option.shown}]" if option.shown else ""
    assert option.flag is not None  # the others are left out
    return click.option(option.flag, option.name, help=option.help + shown, **told)


def _describe_actions(context: click.Context, _: click.Parameter, value: str | None) -> str | None:
    """Print what each miss action does, and end, where ``help`` is asked for."""
    if value == "help" and not context.resilient_parsing:
        for action in ACTIONS.values():
            echo(f"{action.name}{action.takes}")
            echo(f"    {action.summary}")
            for param in action.params:
                echo(f"    {param.name}: {param.help} (default {param.default})")
        echo("file.py:Class, package.module:Class")
        echo("    Your own, derived from lrcsim.simulator.time.MissAction.")
        context.exit()
    return value


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, as keywords of `simulate`.

    Raises:
        ConfigError: --acceptance is no rate and no list, or stands without --draft; one needs --hardware.
    """
    named = {name: value for name, value in options.items() if value not in (None, ())}
    draft, acceptance = named.pop("draft", None), named.pop("acceptance", None)
    if draft is not None:
        from lrcsim.simulator.serving.batching import parse_acceptance

        named["speculative"] = (draft, parse_acceptance(acceptance or "0.7"))
    elif acceptance is not None:
        raise ConfigError("--acceptance is that of drafts: say how many with it, as --draft 3")
    if "expert_bytes" in named:
        sizes_from("--expert-bytes", named["expert_bytes"])  # the message names the option as it was written
    if "hardware" not in named:
        for name in named:
            if name in declared() and declared()[name].timed:
                refuse_without_machine(declared()[name].flag or name)
    return named


def refuse_without_machine(flag: str) -> None:
    """Refuse an option that is about time.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"{flag.partition('/')[0]} is about time: name a machine with it, as --hardware rtx-4090 "
        "(lrcsim hardware lists them)"
    )
