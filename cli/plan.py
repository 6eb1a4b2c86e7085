"""`lrcsim plan`: does a model fit a machine, how to divide its memory, how fast, what would help."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from lrcsim.cli.output import answer, figure_options, json_option, progress_bar
from lrcsim.plots.figure import check_picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrcsim.models import Geometry
    from lrcsim.traces import RoutingTrace

TRACES = "LRCSIM_TRACES"
"""Environment variable: folders of traces, separated as in PATH."""


@click.command()
@click.argument("model", required=False, metavar="[MODEL]")
@click.option("--model", "named", metavar="MODEL", help="The same as MODEL.")
@click.option(
    "--hardware",
    default="auto",
    show_default=True,
    metavar="NAME|FILE",
    help="The machine; lrcsim hardware lists them; auto is this one.",
)
@click.option("--vram", metavar="SIZE", help="GPU memory, where it is not the profile's: 24GiB.")
@click.option("--ram", metavar="SIZE", help="Main memory, where it is not the profile's: 64GiB.")
@click.option(
    "--context", default="8k", show_default=True, metavar="TOKENS", help="Tokens the KV cache has room for: 32k."
)
@click.option(
    "--prompt",
    type=click.IntRange(min=1),
    default=2048,
    show_default=True,
    metavar="TOKENS",
    help="Tokens of a prompt, for the time to the first token.",
)
@click.option(
    "--dtype",
    metavar="NAME",
    help="How weights are stored: q4_k_m, fp8 ...  [default: a GGUF file's own; else the finest published format that "
    "fits whole, or q4_k_m]",
)
@click.option(
    "--kv-dtype",
    default="f16",
    show_default=True,
    metavar="NAME",
    help="How the KV cache is stored: f16, fp8, q8_0 ...",
)
@click.option(
    "--reserve", metavar="SIZE", help="Kept free on the GPU.  [default: 1GiB; without a GPU a tenth of main memory]"
)
@click.option(
    "--trace",
    "traces",
    multiple=True,
    metavar="FILE",
    help="A trace of the model, or of others like it; any file that lrcsim trace import reads. Repeatable.",
)
@click.option(
    "--traces",
    "folders",
    multiple=True,
    metavar="FOLDER",
    help=f"Where to look for traces (*.h5) of this model and of others.  [default: ${TRACES}]",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One value: pcie.bandwidth=25.6GB/s. Repeatable."
)
@click.option(
    "--runtime",
    metavar="NAME|FILE",
    help="What runs the model; lrcsim runtimes lists them.  [default: for each way what has it]",
)
@click.option(
    "--counts-out",
    metavar="COUNTS.pt",
    help="Write how often --trace uses each expert, as ktransformers and SGLang read it.",
)
@click.option("--plot", "plot_path", metavar="FILE", help="Draw tokens/s of every way: .png, .svg or .pdf.")
@figure_options
@json_option
def plan(
    model: str | None,
    named: str | None,
    hardware: str,
    vram: str | None,
    ram: str | None,
    context: str,
    prompt: int,
    dtype: str | None,
    kv_dtype: str,
    reserve: str | None,
    traces: tuple[str, ...],
    folders: tuple[str, ...],
    overrides: tuple[str, ...],
    runtime: str | None,
    counts_out: str | None,
    plot_path: str | None,
    json_path: str | None,
) -> None:
    """Say whether MODEL fits a machine, how to divide memory, how fast it decodes, and what would make it faster.

    MODEL is a GGUF file (of a split one any part), a name (lrcsim models lists them) or a config.json; NAME:top_k=6 for
    an engine that routes to another number of experts. Without --hardware the machine is this one.

    One request at a time. The speed rests on a routing trace of the model itself (--trace), or on published hit rates
    of it and of other models (docs/plan.md). First the fastest way that a released engine has, and its command line;
    without --dtype as the file is stored, or in the finest published format that fits.
    """
    from lrcsim.hardware import load_profile
    from lrcsim.models import load_geometry
    from lrcsim.planner.memory import with_memory
    from lrcsim.planner.plan import make_plan
    from lrcsim.runtimes import load_runtime

    check_picture(plot_path)
    geometry = load_geometry(_model(model, named))
    card = load_profile(hardware, overrides)
    profile = with_memory(
        card, None if vram is None else _size("--vram", vram), None if ram is None else _size("--ram", ram)
    )
    unused = 0 if card.gpu is None or profile.gpu is None else max(0, int(card.gpu.memory - profile.gpu.memory))
    tokens = parse_context(context)
    where = folders or tuple(filter(None, os.environ.get(TRACES, "").split(os.pathsep)))
    with ExitStack() as opened, progress_bar(f"planning {geometry.name} on {profile.name}") as progress:
        given: list[tuple[str, RoutingTrace]] = []
        if traces:
            from lrcsim.cli.calibrate_run import open_or_import

            given = [(path, opened.enter_context(open_or_import(path))) for path in traces]
        if counts_out is not None:
            _write_counts(counts_out, geometry, given)
        found = make_plan(
            geometry,
            profile,
            dtype=dtype,
            context=tokens,
            kv_dtype=kv_dtype,
            reserve=None if reserve is None else _size("--reserve", reserve),
            unused=unused,
            runtime=None if runtime is None else load_runtime(runtime),
            prompt=prompt,
            traces=given,
            folders=where,
            progress=progress,
        )
    if hardware.partition("+")[0] == "auto":
        found.notes.append(
            f"{profile.name} is {card.description.rstrip('.')}. lrcsim hardware auto shows each number and whence it "
            "is, --set changes one, --hardware names another machine"
        )
    if plot_path is not None:
        from lrcsim.plots.shown import draw_plan

        draw_plan(plot_path, found)
    if answer(json_path, found.to_dict, "plan"):
        from lrcsim.cli.plan_tables import show_plan

        show_plan(found)


def _model(given: str | None, named: str | None) -> str:
    """Return the model, given by its place or by ``--model``.

    Raises:
        click.UsageError: neither or both are given.
    """
    if (given is None) == (named is None):
        how = "which MODEL? Give" if given is None else "MODEL is given twice: give it once,"
        raise click.UsageError(f"{how} a GGUF file, a name (lrcsim models lists them) or a config.json")
    return given or named or ""


def _write_counts(path: str, geometry: Geometry, traces: Sequence[tuple[str, RoutingTrace]]) -> None:
    """Write the counts of the first trace of the model itself.

    Raises:
        ConfigError: none was given.
    """
    from lrcsim.base.errors import ConfigError
    from lrcsim.planner.counts_file import counts_of, write_counts
    from lrcsim.planner.traces import Shape

    wanted = Shape.of(geometry)
    own = [trace for _, trace in traces if Shape(trace.num_layers, trace.num_experts, trace.top_k) == wanted]
    if not own:
        raise ConfigError(f"--counts-out counts uses in a trace of {geometry.name}: give one with --trace FILE")
    write_counts(path, counts_of(own[0], geometry))


def _size(option: str, text: str) -> int:
    """Read a size with its unit: a bare number of bytes is never meant here.

    Raises:
        ConfigError: it is none, or has no unit.
    """
    from lrcsim.base.errors import ConfigError
    from lrcsim.simulator.cache.capacity import bytes_from

    if text.strip().isdecimal():
        raise ConfigError(f"{option} {text!r} has no unit: write {text.strip()}GiB, or 0B for none")
    return 0 if text.strip() == "0B" else bytes_from(option, text)


def parse_context(text: str) -> int:
    """Read a number of tokens: ``32768``, ``32k`` (of 1,024), ``1M``.

    Raises:
        ConfigError: it is none, or zero.
    """
    from lrcsim.base.errors import ConfigError

    match = re.fullmatch(r"([0-9]+)([kKmM]?)", text.strip())
    tokens = int(match[1]) * {"": 1, "k": 1024, "m": 1024**2}[match[2].lower()] if match else 0
    if tokens < 1:
        raise ConfigError(f"--context {text!r} is no number of tokens: write 32768 or 32k")
    return tokens
