"""`lrcsim calibrate` without a run: measure the machine at hand, and write a hardware profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.errors import ConfigError
from lrcsim.base.files import write_text
from lrcsim.base.text import human_bytes, quoted
from lrcsim.cli.output import answer, console, options, progress_bar
from lrcsim.cli.screen import echo
from lrcsim.cli.tables import print_rows

if TYPE_CHECKING:
    from lrcsim.calibration.of_machine import Machine, Timing
    from lrcsim.calibration.of_machine.gpu import GpuTimes

machine_options = options(
    click.option("--no-gpu", "gpu", flag_value=False, default=True, help="Leave a GPU out."),
    click.option("--quick", is_flag=True, help="A few seconds: fewer repetitions, a smaller file."),
    click.option("--repetitions", type=int, default=50, show_default=True, help="Of each measurement; at least 3."),
    click.option(
        "--sizes",
        metavar="SIZES",
        help="Sizes of reads, and of an expert on the CPU, with commas between: 512KiB,2MiB.  [default: 4KiB to 16MiB]",
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
        ConfigError: an option has a value that is not allowed, the folder cannot be written to, or a number of the
            profile is not known from what was measured, which is shown before.
    """
    from lrcsim.calibration.of_machine import GpuPlan, MeasurePlan, measure_machine, toml_of
    from lrcsim.simulator.cache.capacity import bytes_from

    given: dict[str, Any] = {}
    if sizes is not None:
        each = tuple(sorted({bytes_from("--sizes", text.strip()) for text in sizes.split(",")}))
        given = {"reads": each, "experts": each}
    plan = MeasurePlan(
        repetitions=repetitions,
        folder=None if folder is None else Path(folder),
        gpu=GpuPlan() if gpu else None,
        **given,
    )
    if quick:
        plan = plan.quick()
    with progress_bar("measuring this machine") as progress:
        machine = measure_machine(plan, progress)
    try:
        text = toml_of(machine)
    except ConfigError:  # a number is not known: what was measured is told all the same
        if answer(json_path, {**machine.to_dict(), "profile": None}, "calibrate-machine"):
            _show(machine)
        raise
    if output is not None:
        write_text(output, text)
    profile = None if output is None else str(output)
    if not answer(json_path, {**machine.to_dict(), "profile": profile}, "calibrate-machine"):
        return
    _show(machine)
    if output is None:
        for line in ("", *text.splitlines()):
            echo(line, whole=True)
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
            rate = f"{timing.rate / 1e9:,.2f} GB/s" if timing.size else ""
            lines.append((name, human_bytes(timing.size), _time(timing.median), _time(low), _time(high), rate))

    def by_threads(name: str, timings: Mapping[int, Timing]) -> None:
        for count, timing in timings.items():
            rows(f"{name}, {count} thread{'s' if count > 1 else ''}", [timing])

    experts = machine.experts
    rows("memory copy", machine.copies)
    by_threads("memory copy", machine.copied)
    by_threads("memory read", machine.read)
    by_threads("expert on the CPU, from memory", experts.threads)
    rows("expert on the CPU, cached", [warm for warm, _ in experts.sizes])
    rows("expert on the CPU, from memory", [cold for _, cold in experts.sizes])
    if machine.reads is not None:
        rows("file read", machine.reads.sizes)
        by_threads("file read", machine.reads.lanes)
    if machine.gpu is not None:
        _gpu_rows(machine.gpu, rows)
    print_rows(("measured", "size", "median", "p10", "p90", "rate"), lines)
    if machine.reads is not None:
        out.print(f"file reads past the page cache by {machine.reads.how}, {machine.reads.file_system}")
    for note in machine.notes:
        out.print(note)


def _gpu_rows(gpu: GpuTimes, rows: Callable[[str, Sequence[Timing]], None]) -> None:
    copies = gpu.copies
    rows("copy to the GPU, pinned", copies.pinned)
    rows("copy to the GPU, pageable", copies.pageable)
    for size, burst in copies.bursts.items():
        for count, timing in burst.items():
            rows(f"{count} x {human_bytes(size)} to the GPU, its clock", [timing])
    for count, timing in copies.streams.items():
        rows(f"copies to the GPU on {count} stream{'s' if count > 1 else ''}", [timing])
    rows("copy inside the GPU, its clock", copies.inside)
    rows("expert on the GPU", gpu.experts)
    for count, timing in gpu.enqueued.items():
        rows(f"{count} expert{'s' if count > 1 else ''} enqueued", [timing])
    rows(f"{gpu.in_a_row} experts, the GPU's clock", gpu.streamed)
    rows("launch, waited for", [gpu.launch])
    rows("launches in a row", [] if gpu.launches is None else [gpu.launches])
    rows("launches in a row, the GPU's clock", [] if gpu.launched is None else [gpu.launched])


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:,.2f} ms"
