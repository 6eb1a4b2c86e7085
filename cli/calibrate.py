"""`lrcsim calibrate`: a hardware profile from measurements, of this machine or of a run that was recorded elsewhere."""

from __future__ import annotations

from typing import Any

import click

from lrcsim.cli.output import json_option

RUN_ONLY = (
    *("trace", "model", "dtype", "policy", "cache", "scope", "prefill", "warm", "hardware", "overrides"),
    *("fit_tokens", "fit", "overlap", "loss", "column", "plot"),
)
"""Options that mean nothing without --from-run."""


@click.command()
@click.option("--from-run", metavar="CSV", help="Fit to a measured run: a row per token, at least with its time.")
@click.option("--trace", metavar="TRACE", help="The run's own routing: an lrcsim trace, or a file to import.")
@click.option("--model", metavar="NAME|CONFIG", help="The model that ran; name:top_k=6 where fewer experts were used.")
@click.option("--dtype", metavar="DTYPE", help="Format of its weights.  [default: the one of the trace's expert sizes]")
@click.option("--policy", default="lru", show_default=True, metavar="NAME[:PARAMS]", help="The engine's eviction.")
@click.option("--cache", default="2x", show_default=True, metavar="SIZE", help="The engine's cache: 2x, 16, 25%, 4GiB.")
@click.option("--scope", default="layer", show_default=True, metavar="layer|model", help="A cache per layer, or one.")
@click.option("--prefill", metavar="step|chunk:N|token", help="How prompt tokens make steps.  [default: step]")
@click.option("--warm/--cold", "warm", default=None, help="Keep the cache between requests or empty it.")
@click.option(
    "--hardware",
    default="phone",
    show_default=True,
    metavar="NAME|FILE",
    help="Profile to start from; names its parts.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one value of it. Repeatable.")
@click.option("--fit-tokens", default=32, show_default=True, metavar="N", help="Decoded tokens to fit; the rest tests.")
@click.option("--fit", metavar="PATH,...", help="Up to three numbers to fit, as pcie.bandwidth.  [default: chosen]")
@click.option("--overlap", default="auto", show_default=True, metavar="auto|on|off", help="Transfers beside compute?")
@click.option(
    "--loss", default="huber", show_default=True, metavar="huber|squares", help="Disturbed tokens count less, or fully."
)
@click.option(
    "--column", multiple=True, metavar="ROLE=NAME[:UNIT]", help="What a column is: wall=total_ms. Repeatable."
)
@click.option("--plot", metavar="FILE", help="Draw measured and predicted time of every token (.png, .svg, .pdf).")
@click.option("-o", "--output", metavar="FILE", help="Write the profile as TOML.")
@json_option
@click.pass_context
def calibrate(ctx: click.Context, /, output: str | None, json_path: str | None, **options: Any) -> None:
    """Make a hardware profile from measurements.

    With --from-run: fit at most three numbers of a profile to the first tokens of a run that some engine logged, and
    test the fit on the others by simulating the run's own routing (docs/validation.md). Without: measure this machine.
    """
    from lrcsim.base.errors import ConfigError

    if options["from_run"] is not None:
        from lrcsim.cli.calibrate_run import calibrate_run

        calibrate_run(output=output, json_path=json_path, **options)
        return
    for name in RUN_ONLY:
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = {"overrides": "set"}.get(name, name.replace("_", "-"))
            raise ConfigError(f"--{option} is for a measured run: name it with --from-run metrics.csv")
    _measure(output, json_path)


def _measure(output: str | None, json_path: str | None) -> None:
    """Measure the machine at hand."""
    import importlib
    from pathlib import Path

    from lrcsim.base.errors import ConfigError

    try:
        machine = importlib.import_module("lrcsim.cli.calibrate_machine")
    except ModuleNotFoundError as error:
        if error.name != "lrcsim.cli.calibrate_machine":
            raise
        raise ConfigError(
            "this installation cannot measure the machine at hand: fit a measured run with --from-run metrics.csv"
        ) from None
    machine.calibrate_machine(None if output is None else Path(output), json_path)
