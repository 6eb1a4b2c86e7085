"""Freeze every number that lrcsim gives, before a change of its code that is to change none.

    python benchmarks/freeze.py write FILE      # runs some hundred configurations and keeps what they say
    python benchmarks/freeze.py check FILE      # runs what FILE holds again and compares; exit 1 where it differs
    python benchmarks/freeze.py check FILE --only "timed|plan" --jobs 2 --shared ../shared

FILE (gzip JSON) holds the configurations with their results, so `check` runs what was run when it was written: all
policies over scopes, accounting rules, kinds of steps and sizes, timed runs over machines, prefetchers and miss actions
(pairs of options are covered, not all products), every command with its JSON, tables, texts and help, and wrong inputs
with their line. Only public names and the command line are used, so that the script outlives the modules behind them.

A stored number or text must be there again: integers and texts equal, other numbers to 1e-9 of their size (or 1e-12,
where they are rests of sums), lists as long. What is new is not looked at. `MOVED` and `IGNORED` say what changed on
purpose; both are regular expressions on paths such as ``run on a machine/files/out.json/time/total_s``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

MOVED: dict[str, str] = {}
"""Regular expression on an old path -> the new path, as `re.sub` takes them."""

IGNORED = (
    r"/provenance/",  # versions, dates, files of this machine
    r"/(lrcsim|version|sha256|trace_sha256|run|files)$",  # in a sweep's rows: what depends on the version
    r"/(seconds|estimate_s|path|file)$",
    r"/page.json/bytes$",
)
"""Regular expressions on paths that may differ."""

SHOWN = 20
"""Differences printed of one configuration."""

CLOSE, TINY = 1e-9, 1e-12
LONGEST = 120  # characters of a text that is printed

Leaf = str | int | float | bool | None


def leaves(value: Any, path: str) -> Iterator[tuple[str, Leaf]]:
    """Yield every number and text of nested data with its path; of lists also the length, as ``#``."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}/{key}")
    elif isinstance(value, list):
        yield f"{path}/#", len(value)
        for place, item in enumerate(value):
            yield from leaves(item, f"{path}/{place}")
    else:
        yield path, value


def equal(old: Leaf, new: Leaf) -> bool:
    """Return whether two leaves say the same: floats nearly, everything else exactly."""
    if isinstance(old, bool) or isinstance(new, bool) or not isinstance(old, float) or not isinstance(new, float | int):
        return old == new and isinstance(old, bool) == isinstance(new, bool)
    return abs(old - new) <= max(CLOSE * max(abs(old), abs(new)), TINY)


def differences(name: str, old: Any, new: Any) -> list[str]:
    """Return a line for every stored leaf that is not there any more, or is another."""
    there = dict(leaves(new, name))
    lines = []
    for path, value in leaves(old, name):
        if any(re.search(pattern, path) for pattern in IGNORED):
            continue
        place = moved(path)
        if place not in there:
            lines.append(f"{path}: {short(value)} -> nothing")
        elif not equal(value, there[place]):
            lines.append(f"{path}: {change(value, there[place])}")
    return lines


def moved(path: str) -> str:
    """Return where a leaf is now."""
    for pattern, place in MOVED.items():
        path = re.sub(pattern, place, path)
    return path


def change(old: Leaf, new: Leaf) -> str:
    """Show two values; of texts the first lines that differ."""
    if isinstance(old, str) and isinstance(new, str):
        before, after = old.splitlines(), new.splitlines()
        first = next((i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(before), len(after)) if first is None else first
        old, new = (lines[at] if at < len(lines) else "<end>" for lines in (before, after))
        return f"line {at + 1}: {short(old)} -> {short(new)}"
    return f"{short(old)} -> {short(new)}"


def short(value: Leaf) -> str:
    """Show a value on at most a line."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def run_all(cases: dict[str, Any], inputs: Path, jobs: int) -> Iterator[tuple[str, Any]]:
    """Yield name and result of every configuration, as they finish."""
    from freeze_run import prepare, run_case

    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=prepare) as pool:
        names = {pool.submit(run_case, case, inputs): name for name, case in cases.items()}
        for done in as_completed(names):
            yield names[done], done.result()


def chosen(cases: dict[str, Any], only: str, real: bool) -> dict[str, Any]:
    """Return the configurations that match a pattern and whose inputs are at hand."""
    from freeze_inputs import REAL

    found = {name: case for name, case in cases.items() if re.search(only, name)}
    if real:
        return found
    return {name: case for name, case in found.items() if not any(f'"{file}"' in json.dumps(case) for file in REAL)}


def write(file: Path, inputs: Path, options: argparse.Namespace, real: bool) -> int:
    """Run all configurations and store them with their results."""
    from freeze_cases import make_cases

    cases = chosen(make_cases(), options.only, real)
    got = dict(run_all(cases, inputs, options.jobs))
    frozen = {name: {"case": case, "got": got[name]} for name, case in cases.items()}
    with gzip.GzipFile(file, "wb", mtime=0) as stream:
        stream.write(json.dumps(frozen).encode())
    refused = sum("error" in result for result in got.values())
    count = sum(1 for _ in leaves(got, ""))
    print(f"{file}: {len(got)} configurations, {refused} calls of them refused, {count:,} numbers and texts")
    return 0


def check(file: Path, inputs: Path, options: argparse.Namespace, real: bool) -> int:
    """Run the stored configurations again and print what differs; return 1 if anything does."""
    with gzip.open(file, "rb") as stream:
        frozen = json.load(stream)
    cases = chosen({name: entry["case"] for name, entry in frozen.items()}, options.only, real)
    wrong = 0
    for name, got in run_all(cases, inputs, options.jobs):
        found = differences(name, frozen[name]["got"], got)
        wrong += bool(found)
        for line in found[:SHOWN]:
            print(line)
        if len(found) > SHOWN:
            print(f"{name}: ... and {len(found) - SHOWN} more")
    skipped = len(frozen) - len(cases)
    print(f"{len(cases)} configurations, {wrong} differ" + (f"; {skipped} skipped" if skipped else ""))
    return int(wrong > 0)


def main() -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description="Freeze every number that lrcsim gives, or check them.")
    parser.add_argument("action", choices=["write", "check"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="", metavar="PATTERN", help="configurations whose names match")
    parser.add_argument("--jobs", type=int, default=2)
    beside = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument("--shared", type=Path, default=beside, metavar="DIR", help="has traces/, recorded ones")
    options = parser.parse_args()
    file, started = options.file.resolve(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        from freeze_inputs import make_inputs

        real = make_inputs(Path(folder), options.shared.resolve())
        code = {"write": write, "check": check}[options.action](file, Path(folder), options, real)
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
