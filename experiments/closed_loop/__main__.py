"""``python -m lrcsim.experiments.closed_loop``: the table of README.md, anew."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lrcsim.base.files import write_text
from lrcsim.base.tables import Table
from lrcsim.cli.failure import one_line
from lrcsim.experiments.closed_loop.measure import FORMATS, HARDWARE, SAMPLES, measured, rows


def main() -> None:
    """Measure, and write results.json, results.md and results.png."""
    parser = argparse.ArgumentParser(prog="python -m lrcsim.experiments.closed_loop", description=__doc__)
    parser.add_argument("--family", default="experiments/model_family", help="folder of the model family")
    parser.add_argument("--out", default="experiments/closed_loop", help="folder to write to")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="samples of 512 tokens")
    given = parser.parse_args()
    out = Path(given.out)
    found = measured(Path(given.family), given.samples, out=out / "results.json", progress=_tell)
    from lrcsim.frontier.measure import finished
    from lrcsim.plots.frontier import plot_frontier

    caption = (
        f"LRU of 16 of 64 experts per layer, {found.about['tokens']:,} held-out tokens in {found.about['requests']} "
        f"samples, {found.about['dtype']}; tokens per second simulated on {HARDWARE}."
    )
    text = Table("closed_loop", caption, rows(found), foot=f"Knee: {found.words}.", formats=FORMATS).markdown()
    write_text(out / "results.md", text + "\n")
    plot_frontier(str(out / "results.png"), found.rows, found.front, found.knee, "lrcsim-toy-baseline, cpu scale")
    write_text(out / "results.json", json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n")
    finished(out / "results.json")


def _tell(done: int, total: int) -> None:
    print(f"\r{done:,} of {total:,} tokens", end="" if done < total else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"Error: {one_line(error)}")
