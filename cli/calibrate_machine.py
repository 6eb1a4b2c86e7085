"""`lrcsim calibrate` without a run: measure the machine at hand, and write a hardware profile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.files import write_text
from lrcsim.base.text import human_bytes, quoted
from lrcsim.cli.output import answer, console, options, progress_bar
from lrcsim.cli.screen import echo
from lrcsim.cli.tables import print_rows

if TYPE_CHECKING:
    from lrcsim.calibration.of_machine import Machine, Timing

machine_options = options(
    click.option("--no-gpu", "gpu", flag_value=False, default=True, help="Leave a GPU out."),
    click.option("--quick", is_flag=True, help="A few seconds: fewer repetitions, a smaller file."),
    click.option("--repetitions", type=int, default=50, show_default=True, help="Of each measurement; at least 3."),
    click.option(
        "--sizes",
        metavar="SIZES",
        help="Sizes of reads and of an expert, with commas between: 512KiB,2MiB.  [default: 4KiB to 4MiB]",
    ),
    click.option(
        "--folder",
        metavar="DIR",
        help="Where to put the file that is read: a folder on the storage that experts would be on.  "
        "[default: the system's for temporary files]",
    ),
)


def calibrate_machine(
    output: str | Path | None,
    json_path: str | None,
    *,
    folder: str | None = None,
    sizes: str | None = None,
    repetitions: int = 50,
    quick: bool = False,
    gpu: bool = True,
) -> None:
    """Measure the machine at hand; write its profile, show what was found.

    Args:
        output: TOML file to write, or None: the profile is printed.
        json_path: file for every measured time by size, ``"-"`` for standard output, or None.
        folder: where to put the file that is read, removed afterwards.
        sizes: of reads and experts, ``"512KiB,2MiB"``.
        repetitions: of each measurement.
        quick: whether a few seconds must do.
        gpu: whether to measure a GPU where torch sees one.

    Raises:
        ConfigError: an option has a value that is not allowed, or the folder cannot be written to.
    """
    from lrcsim.calibration.of_machine import MeasurePlan, measure_machine, toml_of
    from lrcsim.simulator.cache.capacity import bytes_from

    given: dict[str, Any] = {}
    if sizes is not None:
        each = tuple(sorted({bytes_from("--sizes", text.strip()) for text in sizes.split(",")}))
        given = {"reads": each, "experts": each}
    plan = MeasurePlan(repetitions=repetitions, folder=None if folder is None else Path(folder), gpu=gpu, **given)
    if quick:
        plan = plan.quick()
    with progress_bar("measuring this machine") as progress:
        machine = measure_machine(plan, progress)
    text = toml_of(machine)
    if output is not None:
        write_text(output, text)
    profile = None if output is None else str(output)
    if not answer(json_path, {**machine.to_dict(), "profile": profile}, "calibrate-machine"):
        return
    _show(machine)
    if output is None:
        for line in ("", *text.splitlines()):
            echo(line)
    else:
        echo("")
        echo(f"profile written to {output}: lrcsim run --hardware {output}, lrcsim hardware {output}")


def _show(machine: Machine) -> None:
    out = console()
    out.print(f"[bold]{quoted(machine.name)}[/bold]: {quoted(machine.processor)}, {human_bytes(machine.memory)}")
    lines: list[tuple[str, ...]] = []

    def rows(name: str, timings: Sequence[Timing]) -> None:
        for timing in timings:
            low, high = timing.percentile(10), timing.percentile(90)
            rate = f"{timing.rate / 1e9:,.2f} GB/s"
            lines.append((name, human_bytes(timing.size), _time(timing.median), _time(low), _time(high), rate))

    rows("memory copy", machine.copies)
    rows(f"memory copy, {machine.threads} threads", [machine.together])
    rows("expert on the CPU, cached", [warm for warm, _ in machine.experts])
    rows("expert on the CPU, from memory", [cold for _, cold in machine.experts])
    if machine.reads is not None:
        rows("file read", machine.reads.sizes)
        for count, timing in machine.reads.lanes.items():
            rows(f"file read, {count} thread{'s' if count > 1 else ''}", [timing])
    if machine.gpu is not None:
        rows("copy to the GPU, pinned", machine.gpu.pinned)
        rows("copy to the GPU, pageable", machine.gpu.pageable)
        rows("expert on the GPU", machine.gpu.experts)
    print_rows(("measured", "size", "median", "p10", "p90", "rate"), lines, whole=range(6))
    if machine.reads is not None:
        out.print(f"file reads past the page cache by {machine.reads.how}, {machine.reads.file_system}")
    for note in machine.notes:
        out.print(note)


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:,.2f} ms"
