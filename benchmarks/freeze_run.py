"""Run one frozen configuration and return all that it says as plain data: results, texts, files, errors.

A configuration is JSON: ``{"call": "simulate", "trace": FILE, "args": {...}}`` (or ``curve``, ``srp``, ``sch``), or
``{"commands": [[argument, ...], ...]}``, run one after the other in one folder.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import re
import sys
import tempfile
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np

from lrcsim.simulator import hit_rate_curve, sch, simulate, srp
from lrcsim.traces import RoutingTrace

CALLS = {"simulate": simulate, "curve": hit_rate_curve, "srp": srp, "sch": sch}

SAME = (
    (r"[0-9a-f]{64}", "<sha256>"),
    (r"lrcsim \d+\.\d+\S*", "lrcsim <version>"),
    (r"(about|measured in) [\d.,]+ m?s\b", "<time>"),
    (r"with \d+ process(es)?\b", "<processes>"),
)
"""Parts of texts that may differ between two runs of the same code, and what stands for them."""


def prepare() -> None:
    """Make what is printed independent of the terminal."""
    os.environ |= {"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}
    os.environ.pop("LRCSIM_TRACES", None)
    warnings.simplefilter("ignore")


def run_case(case: dict[str, Any], inputs: Path) -> Any:
    """Run a configuration in a fresh folder that has the inputs, and return what it said."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made, "folder")  # a model of a file without a name is called after its folder
        folder.mkdir()
        for path in inputs.iterdir():
            copyfile(path, folder / path.name)  # a link would change the time by which files are known
        with chdir(folder):
            got = call(case) if "call" in case else commands(case["commands"], {path.name for path in inputs.iterdir()})
        return plain(got, str(folder))


def call(case: dict[str, Any]) -> Any:
    """Call a function of `lrcsim.simulator`; an error is its type and text."""
    args = {name: tuple(value) if name == "speculative" and value else value for name, value in case["args"].items()}
    try:
        got = CALLS[case["call"]](opened(case["trace"]), **args)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return got.to_dict() if case["call"] == "simulate" else dataclasses.asdict(got)


_opened: dict[str, RoutingTrace] = {}


def opened(name: str) -> RoutingTrace:
    """Return a trace, opened once per process (its file stays open when the folder is gone)."""
    if name not in _opened:
        _opened[name] = RoutingTrace.open(name)
    return _opened[name]


def commands(lines: list[list[str]], known: set[str]) -> dict[str, Any]:
    """Run command lines; return exit codes, texts and the contents of the files that they wrote."""
    said = [command(line) for line in lines]
    files = {path.name: content(path) for path in sorted(Path.cwd().iterdir()) if path.name not in known}
    return {"said": said, "files": files}


def command(line: list[str]) -> dict[str, Any]:
    """Run a command line in this process; return its exit code and what it printed."""
    from lrcsim.cli.main import main

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(list(line))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return {"exit": code, "out": texts[0], "err": texts[1]}


def content(path: Path) -> Any:
    """Return what a written file holds, as numbers and texts where its format is known."""
    reader = READERS.get(path.suffix)
    return {"sha256 of all bytes": hashlib.sha256(path.read_bytes()).hexdigest()} if reader is None else reader(path)


def _json(path: Path) -> Any:
    value = json.loads(path.read_text(encoding="utf-8"))
    return _spans(value["traceEvents"]) if isinstance(value, dict) and "traceEvents" in value else value


def _spans(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return of a timeline how many spans there are of each kind and how long they are together."""
    found: dict[str, list[float]] = {}
    for event in events:
        kind = re.sub(r"\d+", "#", f"{event.get('ph')} {event.get('cat', '')} {event.get('name')}")
        entry = found.setdefault(kind, [0, 0.0])
        entry[0] += 1
        entry[1] += event.get("dur", 0.0)
    return {kind: {"spans": count, "length": length} for kind, (count, length) in found.items()}


def _csv(path: Path) -> list[list[Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [[_number(cell) for cell in row] for row in csv.reader(file)]


def _number(cell: str) -> Any:
    try:
        return float(cell) if re.search(r"\d[.e]", cell) else int(cell)
    except ValueError:
        return cell


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def _trace(path: Path) -> dict[str, Any]:
    with RoutingTrace.open(path) as trace:
        columns = {name: _array(np.asarray(trace.columns[name][:])) for name in trace.columns}
        sizes = None if trace.expert_bytes is None else np.asarray(trace.expert_bytes).tolist()
        about = {"offsets": trace.offsets.tolist(), "domains": trace.domains, "model": trace.model}
        return {"columns": columns, "expert_bytes": sizes, "num_experts": trace.num_experts, **about}


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return {name: _array(arrays[name]) for name in arrays.files}


def _array(array: Any) -> dict[str, Any]:
    return {"dtype": str(array.dtype), "shape": list(array.shape), "bytes": hashlib.sha256(array.tobytes()).hexdigest()}


def _page(path: Path) -> dict[str, Any]:
    """Return the figures of a report as data and the rest as text, without scripts, styles and tags."""
    html = path.read_text(encoding="utf-8")
    _, _, rest = html.partition('<script type="application/json" id="figures">')
    text = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    lines = (line.strip() for line in re.sub(r"<[^>]*>", "\n", text).splitlines())
    return {"figures": json.loads(rest.partition("</script>")[0] or "null"), "text": "\n".join(filter(None, lines))}


def _picture(path: Path) -> list[str]:
    """Return the texts of a drawing."""
    return re.findall(r"<text[^>]*>(.*?)</text>", path.read_text(encoding="utf-8"))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


READERS = {
    ".json": _json, ".csv": _csv, ".parquet": _parquet, ".h5": _trace, ".npz": _npz, ".html": _page, ".svg": _picture,
    ".toml": _text,
}  # fmt: skip


def plain(value: Any, folder: str) -> Any:
    """Return a value as JSON has it, without what differs from run to run in its texts."""
    if isinstance(value, dict):
        return {str(key): plain(item, folder) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, folder) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist(), folder)
    if isinstance(value, float) and value != value:
        return "not a number"
    if value is None or isinstance(value, bool | int | float):
        return value
    return plain_text(str(value), folder)


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), name) for pattern, name in SAME]


def plain_text(text: str, folder: str) -> str:
    """Return a text with the folder, sums of bytes and versions replaced by what stands for them."""
    text = text.replace(folder, "<folder>").replace(str(Path(sys.prefix)), "<prefix>")
    for pattern, name in _patterns():
        text = pattern.sub(name, text)
    return text
