"""The options of `lrcsim compare`: those of a run, most of which take a list (`simulator.setup.option_lists`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import click

from lrcsim.base.errors import ConfigError
from lrcsim.cli.options import run_options
from lrcsim.cli.sections import SectionOption
from lrcsim.simulator.setup.option_lists import split_list
from lrcsim.simulator.setup.options import declared

DEFAULTS = {"policy": "lru,lfu,s3-fifo", "cache": "1x,2x,4x"}
"""What is compared where a list is not given."""

FIRST = {
    "policy": ("NAMES", f"Policies.  [default: {DEFAULTS['policy']}]"),
    "cache": ("SIZES", f"Cache sizes.  [default: {DEFAULTS['cache']}]"),
    "prefetch": ("NAMES", "Prefetchers.  [default: none]"),
    "miss": ("ACTIONS", "Miss actions.  [default: load]"),
    "route": ("RULES", "Routing rules; none is one.  [default: none]"),
}
"""What is compared most, with what stands for its values and its help."""

SINGLE = ("expert_bytes", "engine")
"""Options of one value, with the flags and --set: a size of experts is of the trace, engines agree."""


DRAFTS = {
    "draft": ("N", "Speculative decoding: tokens drafted for each step; 0 for none."),
    "acceptance": ("RATE|COUNTS", "How many drafts are accepted: rates, or counts: 2,0,3. [default: 0.7]"),
}
"""The two parts of ``speculative``, each a list."""


@cache
def listed() -> tuple[str, ...]:
    """Return the options that take a list, of which several values can be compared."""
    found = [
        option.name
        for option in declared().values()
        if option.flag is not None and option.kind != "flag" and option.name not in ("overrides", *SINGLE)
    ]
    return (*found, *DRAFTS)


def compared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a run, as lists where several values can be compared."""
    several = [_list(name, metavar, help, "compared") for name, (metavar, help) in FIRST.items()]
    several += [_list(name, metavar, help, "serving") for name, (metavar, help) in DRAFTS.items()]
    for option in declared().values():
        if option.name in listed() and option.name not in FIRST:
            shown = f"  [default: {option.shown}]" if option.shown else ""
            several.append(_list(option.name, option.metavar, option.help + shown, option.group))
    command = run_options("cache", "serving", "machine", but=(*listed(), "speculative"))(command)
    for add in reversed(several):
        command = add(command)
    return command


def _list(name: str, metavar: str, help: str, section: str) -> Callable[[Any], Any]:
    return click.option(
        f"--{name.replace('_', '-')}", name, cls=SectionOption, section=section, metavar=metavar, help=help
    )


def choices_of(options: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the values to compare of each option that is given or compared by default, as a sweep takes them.

    Args:
        options: what the command was given of the options in `listed`.

    Raises:
        ConfigError: a list is empty, a number is none, or --acceptance stands without --draft.
    """
    told = DEFAULTS | {name: text for name, text in options.items() if text is not None}
    drafts, rates = told.pop("draft", None), told.pop("acceptance", None)
    found: dict[str, list[Any]] = {name: _values(name, text) for name, text in told.items()}
    if drafts is not None:
        found["speculative"] = _speculative(drafts, "0.7" if rates is None else rates)
    elif rates is not None:
        raise ConfigError("--acceptance is that of drafts: say how many with it, as --draft 3")
    return found


def _values(name: str, text: str) -> list[Any]:
    known = declared().get(name)
    listed = split_list(name, text)
    return [_whole(name, value) for value in listed] if known is not None and known.kind == "count" else listed


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(
            f"--{name} {text!r} is no whole number: give whole numbers with commas between, as --{name} 1,4"
        ) from None


def _speculative(drafts: str, rates: str) -> list[Any]:
    """Return every number of drafts with every acceptance; 0 drafts are no speculation, whatever is accepted."""
    from lrcsim.simulator.serving.batching import parse_acceptance

    accepted = [parse_acceptance(rate) for rate in split_list("acceptance", rates)]
    found: list[Any] = []
    for count in (_whole("draft", text) for text in split_list("draft", drafts)):
        found += [[count, rate] for rate in accepted] if count else ["default"]
    return found
