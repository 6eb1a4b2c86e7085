"""How much of published speeds follows from hit rates: two fitted numbers per sweep, and what is left over.

    python -m lrcsim.experiments.validation.published_sweeps               # the tables of this folder's README
    python -m lrcsim.experiments.validation.published_sweeps --any-three   # the best of any three numbers (minutes)

See `explain` for what it rests on.
"""

from __future__ import annotations

import argparse

import numpy as np

from lrcsim.base.tables import Row, Table
from lrcsim.experiments.validation.published_sweeps.data import MIXTRAL, SINGLE, SWEEPS, Offloaded, Sweep
from lrcsim.experiments.validation.published_sweeps.explain import (
    Explained,
    best_of_any_three,
    explain,
    no_miss,
    saved_per_access,
)
from lrcsim.hardware import load_profile
from lrcsim.models import expert_bytes, load_geometry

SWEEP_FORMATS = {
    "experts per layer": "{:g}",
    "hit rate": "{:.1f} %",
    "misses per token": "{:.1f}",
    "measured": "{:.2f} tok/s",
    "predicted": "{:.2f} tok/s",
    "error": "{:+.1f} %",
    "per miss": "{:.2f} ms",
    "marginal": "{:.2f} ms",
}
MIXTRAL_FORMATS = {
    "saved by the cache, per use": "{:.2f} ms",
    "by prefetch, per token": "{:.0f} ms",
    "one expert": "{}",
    "hit rate implied": "{:.0f} %",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lrcsim.experiments.validation.published_sweeps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--any-three", action="store_true", help="try all choices of three numbers too")
    options = parser.parse_args()
    for sweep in SWEEPS:
        found = explain(sweep)
        numbers = ", ".join(f"{path} {of.value:.4g}" for path, of in found.fit.numbers.items())
        print(f"\n{sweep.name}: {numbers} (SI), transfers {'overlap' if found.overlap else 'do not overlap'} compute\n")
        _print_table(sweep_rows(sweep, found), SWEEP_FORMATS)
        if options.any_three:
            error, three = best_of_any_three(sweep)
            print(f"\nthe best of any three numbers, {', '.join(three)}: {100 * error:.1f} % at the worst point")
    wall, misses, size = no_miss(SINGLE)
    measured = 1 / SINGLE.tokens_per_s[0]
    left = measured - wall
    print(f"\n{SINGLE.name}: {1e3 * measured:.1f} ms measured; {1e3 * wall:.1f} ms without a miss on {SINGLE.base};")
    each = f"{1e3 * left / misses:.2f} ms each, {size / 1e6:.2f} MB of"
    print(f"{1e3 * left:.1f} ms left for {misses:.1f} misses: {each}")
    print(f"experts at {size * misses / left / 1e9:.1f} GB/s\n")
    _print_table([mixtral_row(of) for of in MIXTRAL], MIXTRAL_FORMATS)


def sweep_rows(sweep: Sweep, found: Explained) -> list[Row]:
    """Make a row for each point of a sweep."""
    columns = {
        "experts per layer": sweep.experts,
        "hit rate": 100 * np.array(sweep.hit_rate),
        "misses per token": found.misses,
        "measured": 1 / found.measured,
        "predicted": 1 / found.predicted,
        "error": 100 * (found.measured / found.predicted - 1),
        "per miss": 1e3 * found.per_miss,
        "marginal": ["", *(1e3 * found.marginal)],
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def mixtral_row(of: Offloaded) -> Row:
    """Say what hit rate a machine's cache must have, from what it saves."""
    geometry, link = load_geometry("mixtral-8x7b"), load_profile(f"rtx-4090+{of.link}").device_link
    assert link is not None
    load = float(expert_bytes(geometry, "q2_k").mean()) / link.bandwidth
    saved = saved_per_access(of, len(geometry.moe_layers) * geometry.top_k)
    row = {"machine": of.machine, "slots": of.slots, "saved by the cache, per use": 1e3 * saved}
    row["by prefetch, per token"] = 1e3 * (1 / of.no_prefetch - 1 / of.full)
    return row | {"one expert": f"{1e3 * load:.2f} ms ({of.link})", "hit rate implied": 100 * saved / load}


def _print_table(rows: list[Row], formats: dict[str, str]) -> None:
    print("\n".join(Table("", "", rows, formats=formats).lines()))


if __name__ == "__main__":
    main()
