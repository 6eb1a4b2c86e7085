"""Entry point: finds the command's module when it is needed, and turns errors into one line."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import TYPE_CHECKING, NamedTuple

import click

from lrcsim.base import compiling
from lrcsim.base.text import printable
from lrcsim.cli.screen import echo
from lrcsim.cli.streams import left_by_reader, prepare_streams

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Lazy(NamedTuple):
    """A command that is imported when it runs; its help line stands here, so that ``--help`` imports nothing."""

    module: str
    attribute: str
    help: str


COMMANDS = {
    "run": Lazy(
        "lrcsim.cli.run", "run", "Replay a trace through one cache: hit rate, bytes, and the optimum beside it."
    ),
    "plan": Lazy("lrcsim.cli.plan", "plan", "Will it fit my machine, how fast, what to tell my engine, what to buy."),
    "curve": Lazy("lrcsim.cli.curve", "curve", "Hit rate of policies at every cache size, from one pass each."),
    "compare": Lazy(
        "lrcsim.cli.compare", "compare", "Policies, sizes, prefetchers and miss actions in one table; which to take."
    ),
    "sweep": Lazy("lrcsim.cli.sweep", "sweep", "Run a grid of options, on all cores or a cluster, into one table."),
    "results": Lazy("lrcsim.cli.results", "results", "Ask a sweep's table: filter, best, Pareto front, pivot, plot."),
    "report": Lazy("lrcsim.cli.report", "report", "One page of results: the answer first, then interactive figures."),
    "srp": Lazy("lrcsim.cli.srp", "srp", "Local routing consistency: SRP, and what the experts specialise in."),
    "sch": Lazy("lrcsim.cli.sch", "sch", "Local routing consistency: SCH at any cache size, in both definitions."),
    "balance": Lazy("lrcsim.cli.balance", "balance", "Load balance of experts: in segments of m tokens, and by all."),
    "predict": Lazy("lrcsim.cli.predict", "predict", "Learn which experts come next; recall on requests never seen."),
    "ceilings": Lazy("lrcsim.cli.ceilings", "ceilings", "What prediction, eviction and the link could give at most."),
    "trace": Lazy("lrcsim.cli.trace", "trace", "Look at, check, import and export routing traces."),
    "record": Lazy("lrcsim.cli.record", "record", "Record a trace from a model in transformers, or from a server."),
    "frontier": Lazy(
        "lrcsim.cli.frontier", "frontier", "Run a model with routing rules and a cache in it: quality against speed."
    ),
    "policies": Lazy("lrcsim.cli.policies", "policies", "List the eviction policies and what they need."),
    "prefetchers": Lazy("lrcsim.cli.plugins", "prefetchers", "List what can bring experts ahead, and what it needs."),
    "miss-actions": Lazy("lrcsim.cli.plugins", "miss_actions", "List what can become of a miss."),
    "routes": Lazy("lrcsim.cli.plugins", "routes", "List the rules by which the router may prefer residents."),
    "hardware": Lazy("lrcsim.cli.hardware", "hardware", "List the hardware profiles; one with each number's source."),
    "runtimes": Lazy("lrcsim.cli.runtimes", "runtimes", "List the inference runtimes; one with each number's source."),
    "calibrate": Lazy(
        "lrcsim.cli.calibrate", "calibrate", "A hardware profile from measurements: of a recorded run, or this machine."
    ),
    "models": Lazy("lrcsim.cli.models", "models", "List the model geometries: experts, parameters, bytes."),
    "completion": Lazy("lrcsim.cli.completion", "completion", "What makes bash, zsh or fish complete lrcsim's words."),
}


def command_of(name: str) -> click.Command:
    """Import a command, one of `COMMANDS`."""
    from lrcsim.cli.examples import with_examples

    lazy = COMMANDS[name]
    command: click.Command = getattr(importlib.import_module(lazy.module), lazy.attribute)
    return with_examples(name, command)


class LazyGroup(click.Group):
    """A group whose commands are imported on demand and whose unknown names get a suggestion."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        if ctx.resilient_parsing:  # a shell asks
            from lrcsim.cli.completion_words import command_from, words_of_all

            return command_from(cmd_name, words_of_all(COMMANDS, command_of)[cmd_name])
        return command_of(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or fail with the closest name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            from lrcsim.base.errors import did_you_mean

            ctx.fail(f"there is no command {args[0]!r}{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command without importing any."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=one.help) for name, one in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in COMMANDS.items()])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"lrcsim {version('lrcsim')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("--version", is_flag=True, callback=_version, expose_value=False, is_eager=True, help="Show the version.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Replay Mixture-of-Experts routing traces through expert caches.

    \b
    Start here:    lrcsim run --policy lru --cache 2x
    A real model:  lrcsim plan qwen3-30b-a3b
    Your trace:    lrcsim trace import routing.csv -o mine.h5 && lrcsim run mine.h5
    """  # noqa: D301
    ctx.obj = {"debug": debug}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit 0 when good, 1 after one line about a wrong input, 2 after wrong usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]  # allowed anywhere
    prepare_streams()
    if "_LRCSIM_COMPLETE" in os.environ:  # a shell asks what it may complete
        importlib.import_module("lrcsim.cli.completion")
    compiling.tell()
    try:
        cli.main(args=arguments, prog_name="lrcsim", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        echo("Aborted.", err=True)
        compiling.aborted = True
        sys.exit(130)
    except click.UsageError as error:
        text = printable(error.format_message(), keep="\n")
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # of click 8.2 and later
            click.echo(text, err=True)  # a group alone: its help
        else:
            click.UsageError(text, error.ctx).show()
        sys.exit(2)
    except SystemExit:
        raise
    except BaseException as error:  # a panic of an extension is no Exception
        if left_by_reader(error):
            sys.exit(1)
        from lrcsim.cli.failure import one_line

        if debug:
            click.echo(printable("".join(traceback.format_exception(error)), keep="\n"), err=True, nl=False)
        else:
            echo(f"Error: {one_line(error)}", err=True)
        sys.exit(1)
