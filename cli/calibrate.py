"""`lrcsim calibrate`: a hardware profile from measurements, of this machine or of a run that was recorded elsewhere."""

from __future__ import annotations

from typing import Any

import click

from lrcsim.cli.calibrate_machine import calibrate_machine, machine_options
from lrcsim.cli.options import run_options
from lrcsim.cli.output import figure_options, json_option

MACHINE_ONLY = ("gpu", "quick", "repetitions", "sizes", "folder")
"""Options of measuring this machine; all others but those of the output are of a measured run."""


@click.command()
@click.option("--from-run", metavar="CSV", help="Fit to a measured run: a row per token, at least with its time.")
@click.option("--trace", metavar="TRACE", help="The run's own routing: an lrcsim trace, or a file to import.")
@click.option("--model", metavar="NAME|CONFIG", help="The model that ran; name:top_k=6 where fewer experts were used.")
@click.option("--dtype", metavar="DTYPE", help="Format of its weights.  [default: the one of the trace's expert sizes]")
@run_options(only=("policy", "cache", "scope", "prefill"))
@click.option("--warm/--cold", "warm", default=None, help="Keep the cache between requests or empty it.")
@click.option(
    "--hardware",
    default="phone",
    show_default=True,
    metavar="NAME|FILE",
    help="Profile to start from; names its parts.",
)
@click.option(
    "--runtime",
    default="ideal",
    show_default=True,
    metavar="NAME|FILE",
    help="What ran the model (lrcsim runtimes), with the numbers to start from.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one value of it. Repeatable.")
@click.option("--fit-tokens", default=32, show_default=True, metavar="N", help="Decoded tokens to fit; the rest tests.")
@click.option(
    "--fit",
    metavar="PATH,...",
    help="Up to three numbers, as pcie.bandwidth,runtime.loads.byte.  [default: the runtime's, or without one the "
    "machine's]",
)
@click.option("--overlap", default="auto", show_default=True, metavar="auto|on|off", help="Transfers beside compute?")
@click.option(
    "--loss", default="huber", show_default=True, metavar="huber|squares", help="Disturbed tokens count less, or fully."
)
@click.option(
    "--column", multiple=True, metavar="ROLE=NAME[:UNIT]", help="What a column is: wall=total_ms. Repeatable."
)
@click.option("--plot", metavar="FILE", help="Draw measured and predicted time of every token (.png, .svg, .pdf).")
@figure_options
@click.option("-o", "--output", metavar="FILE", help="Write the profile as TOML.")
@click.option(
    "--runtime-out",
    metavar="FILE",
    help="Write the fitted runtime as TOML.  [default: mine.runtime.toml beside -o mine.toml]",
)
@machine_options
@json_option
@click.pass_context
def calibrate(ctx: click.Context, /, output: str | None, json_path: str | None, **options: Any) -> None:
    """Make a hardware profile from measurements.

    With --from-run: fit at most three numbers of a profile to the first tokens of a run that some engine logged, and
    test the fit on the others by simulating the run's own routing through the cache that the engine had, --policy to
    --cold (docs/validation.md). Without: measure this machine, as --no-gpu to --folder say
    (docs/calibrate.md).
    """
    from lrcsim.base.errors import ConfigError

    machine = {name: options.pop(name) for name in MACHINE_ONLY}
    of_run = options["from_run"] is not None
    for name in machine if of_run else options:
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = {"overrides": "set", "gpu": "no-gpu"}.get(name, name.replace("_", "-"))
            if of_run:
                raise ConfigError(f"--{option} is for measuring this machine: leave --from-run out, or it")
            raise ConfigError(f"--{option} is for a measured run: name it with --from-run metrics.csv")
    if of_run:
        from lrcsim.cli.calibrate_run import calibrate_run

        calibrate_run(output=output, json_path=json_path, **options)
    else:
        calibrate_machine(output, json_path, **machine)
