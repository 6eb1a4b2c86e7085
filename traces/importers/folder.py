"""Import folders of files, one or more requests in each, as one trace, in the natural order of their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.traces.importers import layer_files
from lrcsim.traces.importers.common import guessed_experts
from lrcsim.traces.importers.files import named, named_while
from lrcsim.traces.importers.responses import open_responses
from lrcsim.traces.importers.servers import are_answers
from lrcsim.traces.importers.source import Format, Likely, Options, Progress, Request, Source
from lrcsim.traces.layers import LayerTable

OTHER = frozenset(
    (".md", ".rst", ".log", ".py", ".sh", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".lock", ".ipynb")
) | {
    *(".png", ".jpg", ".jpeg", ".svg", ".pdf", ".html", ".css", ".js", ".pyc", ".sha256", ".md5"),
}
"""Endings of files that stand beside recordings and are none."""

BESIDE = re.compile(
    r"(readme|licen[cs]e|notes?|sha256sums|manifest|metadata|thumbs\.db|desktop\.ini)(\..*)?", re.IGNORECASE
)
SHOWN = 8
"""Notices about single files that are printed."""


def matches(path: Path, _head: bytes) -> bool:
    """Tell whether a path is a folder with files in it."""
    return path.is_dir() and any(file.is_file() and not file.name.startswith(".") for file in path.rglob("*"))


def natural(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Sort key: numbers in names by their value, so that ``r2`` comes before ``r10``."""
    parts = re.findall(r"\d{1,18}|\D+|\d+", str(path))
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def open_source(
    path: Path,
    options: Options,
    progress: Progress,
    formats: Mapping[str, Format],
    guess_format: Callable[[Path], str],
) -> Source:
    """Open every file, check that all are of one format and one model, and return a source over them in order."""
    files, notices = _files(path)
    answers = are_answers(files)
    entry = formats["vllm" if answers else _format(path, files, guess_format)]
    useless = sorted(options.given() - entry.options)
    if useless:
        raise ConfigError(
            f"{path}: holds files of format {entry.name!r}, which has no use for {', '.join(useless).replace('_', '-')}"
        )
    if answers:  # of a server: one file's prompts may repeat another's
        source = open_responses(path, options, progress, files)
        source.notices[:0] = notices
        return source
    sources: list[Source] = []
    try:
        for at, file in enumerate(files):
            with named(file):
                sources.append(entry.open_source(file, options, lambda _done, _total: None))
            progress(at + 1, 2 * len(files))
        layers, guessed = _one_table(files, sources, notices, options.likely)
    except BaseException:
        for source in sources:
            source.close()
        raise

    def requests() -> Iterator[Request]:
        columns: set[str] | None = None
        for at, (file, source) in enumerate(zip(files, sources, strict=True)):
            for domain, unread in named_while(file, source.requests()):
                runs = named_while(file, unread)
                first = next(runs, None)
                if first is None:
                    continue
                if columns is not None and set(first) != columns:
                    raise TraceError(
                        f"{file}: has the columns {', '.join(sorted(first))}, {files[0].name} has "
                        f"{', '.join(sorted(columns))}; all files must have the same"
                    )
                columns = set(first)
                yield domain, chain([first], runs)
            progress(len(files) + at + 1, 2 * len(files))
        notices.extend(_gathered(sources))

    def close() -> None:
        for source in sources:
            source.close()

    models = {source.model for source, file in zip(sources, files, strict=True)} - {
        file.name.split(".")[0] for file in files
    }
    model = models.pop() if len(models) == 1 else path.resolve().name
    return Source(layers, model, requests, {"files": len(files)}, notices, guessed, close)


def _files(path: Path) -> tuple[list[Path], list[str]]:
    """Return the recordings of a folder in natural order, and a notice of what was left out."""
    inner = sorted({file.parent for file in path.rglob("*.parquet") if layer_files.files_of(file.parent)}, key=natural)
    if inner:
        raise TraceError(
            f"{path}: holds folders of one file per layer ({', '.join(p.name for p in inner[:4])} ...); import one of "
            f"them, for example {inner[0]}"
        )
    found = sorted(
        (file for file in path.rglob("*") if file.is_file()), key=lambda file: natural(file.relative_to(path))
    )
    found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    data_stems = {file.with_suffix("") for file in found if file.suffix != ".json"}
    kept, left = [], []
    for file in found:
        beside = file.suffix == ".json" and file.with_suffix("") in data_stems
        if file.suffix.lower() in OTHER or BESIDE.fullmatch(file.name):
            left.append(file.name)
        elif not beside:
            kept.append(file)
    if not kept:
        raise TraceError(f"{path}: holds no recordings, only {', '.join(left)[:200]}")
    return kept, [f"files left out: {', '.join(left)[:200]}"] if left else []


def _format(path: Path, files: list[Path], guess_format: Callable[[Path], str]) -> str:
    """Find the one format of all files."""
    by_name: dict[str, Path] = {}
    for file in files:
        by_name.setdefault(guess_format(file), file)
    if len(by_name) > 1:
        said = ", ".join(f"{file.relative_to(path)} is {name}" for name, file in by_name.items())
        raise TraceError(
            f"{path}: holds files of several formats ({said}); put those of one kind into a folder of their own"
        )
    return next(iter(by_name))


def _one_table(
    files: list[Path], sources: list[Source], notices: list[str], likely: Likely | None = None
) -> tuple[LayerTable, bool]:
    """Check that all files are of one model, and give its layers."""
    first = sources[0].layers
    for file, source in zip(files[1:], sources[1:], strict=True):
        for what in ("block", "top_k", "stack", "expert_bytes", "dense_bytes"):
            ours, theirs = getattr(first, what), getattr(source.layers, what)
            if (ours is None) != (theirs is None) or not np.array_equal(ours, theirs):
                raise TraceError(
                    f"{file}: has {what} {_short(theirs)}, {files[0].name} has {_short(ours)}; all files must be of "
                    "one model"
                )
    known = [(file, source.layers) for file, source in zip(files, sources, strict=True) if not source.experts_guessed]
    for file, table in known[1:]:
        if not np.array_equal(table.num_experts, known[0][1].num_experts):
            raise TraceError(
                f"{file}: has {_short(table.num_experts)} experts, {known[0][0].name} "
                f"{_short(known[0][1].num_experts)}; all files must be of one model"
            )
    if known:
        return known[0][1], False
    largest = max(int(source.layers.num_experts.max()) for source in sources)
    experts = guessed_experts(largest - 1, notices, likely)
    return replace(first, num_experts=np.full(len(first), experts, np.int64)), True


def _short(values: Any) -> str:
    listed = [] if values is None else values.ravel().tolist()
    return str(listed if len(listed) <= 6 else [*listed[:5], "..."]) if len(set(listed)) != 1 else str(listed[0])


def _gathered(sources: list[Source]) -> list[str]:
    """Return the notices of all files, each once."""
    counted = Counter(
        notice
        for source in sources
        for notice in source.notices
        if not notice.startswith("number of experts not given")
    )
    said = [notice if times == 1 else f"{notice} (so in {times:,} files)" for notice, times in counted.items()]
    more = [f"... and {len(said) - SHOWN} notices more about single files"] if len(said) > SHOWN else []
    return said[:SHOWN] + more
