"""Hold `lrcsim plan` against decode speeds that others published.

    python -m lrcsim.experiments.validation.published_speeds                    # the table by class
    python -m lrcsim.experiments.validation.published_speeds --points           # every point
    python -m lrcsim.experiments.validation.published_speeds --leave-one-out    # each without its machine (minutes)
    python -m lrcsim.experiments.validation.published_speeds --fit              # the numbers of the runtimes
    python -m lrcsim.experiments.validation.published_speeds --accuracy FILE    # the ranges, out of sample (minutes)
    python -m lrcsim.experiments.validation.published_speeds --plot speeds.png  # predicted against measured

``--table FILE`` takes points of a CSV table in place of those shipped (`read_table`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lrcsim.base.errors import LrcsimError
from lrcsim.base.files import write_text
from lrcsim.experiments.validation.published_speeds.accuracy import accuracies, as_toml, left_out
from lrcsim.experiments.validation.published_speeds.fit import NUMBERS, fit, placed
from lrcsim.experiments.validation.published_speeds.points import published, read_table
from lrcsim.experiments.validation.published_speeds.predict import predict_all
from lrcsim.experiments.validation.published_speeds.scatter import scatter
from lrcsim.experiments.validation.published_speeds.summary import by_class, point_table, table


def main(arguments: list[str] | None = None) -> int:
    """Print what is asked for; return the exit code."""
    options = _options().parse_args(arguments)
    try:
        return _run(options)
    except LrcsimError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    points = published() if options.table is None else read_table(options.table)
    if options.fit:
        found = fit(placed(points))
        for number in NUMBERS:
            print(f"{number.name}: {found[number.name]:.4g} (from {number.start:.4g})")
        return 0
    out = options.leave_one_out or options.accuracy is not None
    predictions = left_out(points) if out else predict_all(points)
    if options.accuracy is not None:
        write_text(options.accuracy, as_toml(accuracies(predictions)))
    if options.plot is not None:
        scatter(predictions, options.plot)
    if options.points:
        print(point_table(predictions).markdown(), end="\n\n")
    print(table(by_class(predictions)).markdown())
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="published_speeds", description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--table", type=Path, metavar="FILE", help="points of a CSV table in place of those shipped")
    parser.add_argument("--points", action="store_true", help="print every point")
    parser.add_argument("--leave-one-out", action="store_true", help="predict each without its machine (minutes)")
    parser.add_argument("--fit", action="store_true", help="fit the runtimes' numbers and print them")
    parser.add_argument("--accuracy", type=Path, metavar="FILE", help="write the ranges by class (minutes)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw predicted against measured")
    return parser


if __name__ == "__main__":
    sys.exit(main())
