"""The figure of a run in time: what each token waited for, how busy the links were, what was in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lrcsim.plots.charts import LETTERS
from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import HATCHES, colour, grey, grid, ink, legend_columns, shortened
from lrcsim.plots.settings import high_as, width
from lrcsim.traces import DECODE

if TYPE_CHECKING:
    from lrcsim.simulator import Result
    from lrcsim.simulator.time.run_in_time import Timed

BINS = 300  # tokens are averaged into at most so many bars


def plot_time(result: Result, path: str | None) -> Any:
    """Draw stacked time per decoded token, link use, and by layer and time hits and, in scope model, residents.

    Without samples only the first of these.

    Args:
        result: of `simulate` on a machine, with ``samples=True`` for all of it.
        path: the picture, .png, .svg or .pdf; None: it is not written.

    Raises:
        ConfigError: another ending.
        TraceError: the file cannot be written.
    """
    timed = result.timed
    assert timed is not None
    config = result.config
    panels = 4 if config["scope"] == "model" else 3  # in scope layer every layer has its full share of residents
    ratios = (3, 2, 2, 2)[:panels] if timed.samples is not None else (3,)
    size, letters = (width(), high_as(0.95, 0.75) * sum(ratios)), int(LETTERS * width())
    with open_figure(path, len(ratios), 1, figsize=size, height_ratios=ratios, squeeze=False) as (figure, panes):
        axes = panes[:, 0]
        lines = (
            f"{shortened(str(result.trace.model))} on {config['hardware']}",
            f"{config['policy']}, cache {config['cache']}, miss {config['miss']}, prefetch {config['prefetch']}",
        )
        figure.suptitle("\n".join(shortened(line, letters) for line in lines))
        _per_token(axes[0], timed)
        if timed.samples is not None:
            _links(axes[1], timed)
            _maps(figure, axes[2:], result)
        for axis in axes[:2]:
            grid(axis)
            axis.spines[["top", "right"]].set_visible(False)
    return figure


def _per_token(axis: Any, timed: Timed) -> None:
    steps = timed.tally.by_step()
    decode = np.frombuffer(bytes(timed.tally.phases), np.uint8) == DECODE
    emitted = np.array(timed.tally.emitted)[decode]
    chosen = steps[decode] * 1e3
    if not len(chosen):
        axis.text(0.5, 0.5, "no decode steps", ha="center", va="center", transform=axis.transAxes)
        return
    wall = chosen[:, 1] - chosen[:, 0]
    stall = np.maximum(wall - chosen[:, 2] - chosen[:, 3], 0)
    bins = np.array_split(np.arange(len(chosen)), min(BINS, len(chosen)))

    def mean(values: npt.NDArray[np.float64]) -> list[float]:
        return [float(values[part].sum() / max(emitted[part].sum(), 1)) for part in bins]

    edges = [int(part[0]) for part in bins] + [len(chosen)]
    bottom = np.zeros(len(bins))
    for label, values, place, hatch in (
        ("compute", chosen[:, 2], 0, ""),
        ("overhead", chosen[:, 3], 4, ""),
        ("stall", stall, 1, HATCHES[1]),
    ):
        heights = np.array(mean(values))
        look = {"facecolor": colour(place), "edgecolor": grey(1), "linewidth": 0, "hatch": hatch}
        axis.stairs(bottom + heights, edges, baseline=bottom, fill=True, label=label, **look)
        bottom += heights
    if chosen[:, 4].any():
        axis.stairs(mean(chosen[:, 4]), edges, color=ink(), linewidth=0.8, label="CPU at work, beside")
    averaged = f", mean of {len(chosen) // len(bins)}" if len(chosen) > len(bins) else ""
    axis.set(xlabel=f"decode step{averaged}", ylabel="ms per token", xlim=(0, len(chosen)), ylim=(0, None))
    _legend_above(axis)


def _legend_above(axis: Any) -> None:
    """Put the legend above the axes, in as many columns as the width takes."""
    names = axis.get_legend_handles_labels()[1]
    columns = legend_columns(names, width() - 0.5)
    place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0}
    axis.legend(ncols=columns, **place)


def _links(axis: Any, timed: Timed) -> None:
    samples = timed.samples
    assert samples is not None
    times = np.array(samples.times)
    passed = np.diff(times)
    drawn = 0
    for name, busy in samples.link_busy.items():
        if not samples.link_bytes[name][-1]:
            continue
        used = np.divide(np.diff(busy), passed, out=np.zeros(len(passed)), where=passed > 0)
        shade = colour((0, 2)[drawn % 2])
        axis.stairs(
            100 * used, times, baseline=None, color=shade, label=f"{name} busy", linestyle=("-", "--")[drawn % 2]
        )
        drawn += 1
    if not drawn:
        axis.text(0.5, 0.5, "nothing was moved", ha="center", va="center", transform=axis.transAxes)
        axis.set(xlabel="time [s]", ylabel="link busy [%]", xlim=(times[0], times[-1]), ylim=(0, 105))
        return
    axis.set(xlabel="time [s]", ylabel="link busy [%]", xlim=(times[0], times[-1]), ylim=(0, 105))
    _legend_above(axis)


def _maps(figure: Any, axes: Any, result: Result) -> None:
    assert result.timed is not None
    samples = result.timed.samples
    assert samples is not None
    times = np.array(samples.times)
    layers = np.arange(result.trace.num_layers + 1) - 0.5
    residents = np.array(samples.residents)[1:].T
    accesses = np.diff(np.array(samples.accesses), axis=0)
    misses = np.diff(np.array(samples.misses), axis=0)
    rate = 100 * np.divide(accesses - misses, accesses, out=np.full(accesses.shape, np.nan), where=accesses > 0).T
    maps = [(rate, "hit rate [%]", 100), (residents, "experts resident", max(int(residents.max(initial=0)), 1))]
    for axis, (values, label, top) in zip(axes, maps, strict=False):
        mesh = axis.pcolormesh(times, layers, values, vmin=0, vmax=top, cmap="cividis", shading="flat", rasterized=True)
        axis.set(xlabel="time [s]", ylabel="MoE layer")
        axis.invert_yaxis()
        figure.colorbar(mesh, ax=axis, label=label, pad=0.01)
