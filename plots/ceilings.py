"""The figure of `lrcsim ceilings`: tokens/s of what is run and of what nothing exceeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lrcsim.base.errors import ConfigError
from lrcsim.plots.charts import LETTERS
from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import HATCHES, colour, dress, grey, legend_below, shortened
from lrcsim.plots.settings import width

if TYPE_CHECKING:
    from lrcsim.prediction.ceilings import Ceiling


def plot_ceilings(path: str | None, rows: Sequence[Ceiling], title: str) -> Any:
    """Draw a bar of decode tokens/s for each row in the table's order; proven bounds are hatched.

    Args:
        path: the picture, .png, .svg or .pdf; None: it is not written.
        rows: of `lrcsim.prediction.ceilings.ceilings`.
        title: above the figure.

    Raises:
        ConfigError: no row has a speed, or another ending.
        TraceError: the file cannot be written.
    """
    timed = [row for row in rows if row.tokens_per_s is not None]
    if not timed:
        raise ConfigError("no row has tokens/s, so there is nothing to draw")
    with open_figure(path, figsize=(width(), 0.75 + 0.17 * len(timed))) as (figure, axes):
        for number, (proven, label) in enumerate(((False, "runs"), (True, "proven: nothing of the kind is faster"))):
            mine = [(place, row.tokens_per_s) for place, row in enumerate(timed) if row.proven == proven]
            look = {"color": colour(number), "hatch": HATCHES[number], "edgecolor": grey(1), "linewidth": 0}
            if mine:
                places, speeds = zip(*mine, strict=True)
                axes.barh(places, speeds, height=0.7, label=label, **look)
        letters = int(LETTERS * width() * 0.4)
        axes.set_yticks(range(len(timed)), [shortened(row.name, letters) for row in timed])
        dress(axes, "decode [tokens/s]", "", shortened(title, int(LETTERS * width())), xlim=(0, None))
        axes.set_ylim(len(timed) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        legend_below(figure, [axes])
    return figure
