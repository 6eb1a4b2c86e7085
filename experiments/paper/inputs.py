"""The traces of a run: their labels, which variant of a model each is of, and how its tokens came about."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.experiments.paper.published import key_of
from lrcsim.traces import DECODE, RoutingTrace

Kind = Literal["teacher-forced", "generated"]
KINDS = r"[._-](teacher[._-]?forced|generated)$"
STAGE = r"[._-]at[._-]?[0-9]+$"
"""The end of the name of a variant that was recorded before its training ended, as ``baseline.at10``."""


@dataclass(frozen=True)
class Input:
    """A trace to measure.

    Attributes:
        label: as shown; unique.
        variant: the model variant: the label without its kind, as ``"baseline-seed1"``.
        kind: ``"teacher-forced"`` (the paper's setting: nothing decoded) or ``"generated"``.
        trace: the routing trace.
        paper: key of the published model it is compared with (`published.key_of`), or None; None too for a point on the
            way of a training, which is no other seed of its variant.
    """

    label: str
    variant: str
    kind: Kind
    trace: RoutingTrace
    paper: str | None


@contextmanager
def opened(specs: Sequence[str]) -> Iterator[list[Input]]:
    """Open ``path`` or ``name=path`` each; a path may be ``bundled:...``; without any, the bundled ones.

    A file without a name is called after itself (``share1.generated.h5`` is ``share1.generated``).

    Args:
        specs: as typed.

    Raises:
        ConfigError: two traces have the same name, or a name is empty.
        TraceError: a file is no trace.
    """
    found: list[Input] = []
    with ExitStack() as stack:
        for spec in specs or ("bundled:teacher-forced", "bundled:generated"):
            label, path = named(spec)
            if label in [one.label for one in found]:
                raise ConfigError(f"two traces are called {label!r}: give them names, as {label}-2={path}")
            trace = stack.enter_context(RoutingTrace.open(path))
            variant = re.sub(KINDS, "", label, flags=re.IGNORECASE)
            phase = trace.phase
            kind: Kind = "generated" if phase is not None and bool((phase == DECODE).any()) else "teacher-forced"
            stage = re.search(STAGE, variant, flags=re.IGNORECASE)
            found.append(Input(label, variant, kind, trace, None if stage else key_of(variant, trace.model)))
        yield found


def in_folders(specs: Sequence[str], known: Collection[str] = ()) -> list[str]:
    """Put the traces of a folder, ``*.h5`` in the order of their names, in its place, unless a trace is called like it.

    Raises:
        ConfigError: there is none in it.
    """
    found: list[str] = []
    for spec in specs:
        if spec in known or not Path(spec).is_dir():
            found.append(spec)
            continue
        files = sorted(map(str, Path(spec).glob("*.h5")))
        if not files:
            raise ConfigError(f"the folder {spec} has no traces (*.h5): name one that has, or the files")
        found += files
    return found


def named(spec: str) -> tuple[str, str]:
    """Return label and path of a trace as typed, ``path`` or ``name=path``.

    Raises:
        ConfigError: one of them is empty.
    """
    name, separator, path = spec.partition("=")
    if separator and (not name or not path):
        raise ConfigError(f"trace {spec!r} is not understood: write name=path, or only the path")
    if separator:
        return name, path
    return spec.replace(":", ".") if spec.startswith("bundled:") else Path(spec).stem, spec


@dataclass(frozen=True)
class Asked:
    """What a run is to measure, before anything is opened.

    Attributes:
        specs: all traces as typed, those of pairs and series among them.
        pairs: labels of each pair, before and after.
        series: labels of each series, in the order given.
        apart: labels of traces that only a series names: they have no part in other sections.
    """

    specs: list[str]
    pairs: list[tuple[str, str]]
    series: list[list[str]]
    apart: frozenset[str]


def asked_for(traces: Sequence[str], pairs: Sequence[Sequence[str]], series: Sequence[Sequence[str]]) -> Asked:
    """Put together which traces are named where.

    Args:
        traces: as typed; a folder stands for the traces in it.
        pairs: what stands after each ``--pair``: two names or files, or ``BASE:POST``.
        series: what stands after each ``--series``: names, files or a folder, the first the least trained.

    Raises:
        ConfigError: a pair is not two, a series has fewer than two, or something is neither a name nor a file.
    """
    specs = in_folders(traces)
    known, apart = {named(spec)[0] for spec in specs}, set[str]()

    def label_of(option: str, text: str) -> str:
        if text in known:
            return text
        label, path = named(text)
        if label not in known:
            if "=" not in text and not path.startswith("bundled:") and not Path(path).is_file():
                hint = did_you_mean(text, known)
                raise ConfigError(f"{option}: no trace is called {text!r}, and there is no such file{hint}")
            specs.append(text)
            known.add(label)
            apart.add(label)
        return label

    of_pairs = []
    for given in pairs:
        names = given[0].split(":") if len(given) == 1 and given[0].count(":") == 1 else list(given)
        if len(names) != 2:
            raise ConfigError(f"--pair {' '.join(given)}: name two traces, as --pair base.h5 post.h5")
        of_pairs.append((label_of("--pair", names[0]), label_of("--pair", names[1])))
    apart.clear()  # both traces of a pair are models of their own
    of_series = []
    for named_so in series:
        given = in_folders(named_so, known)
        if len(given) < 2:
            text = " ".join(given)
            raise ConfigError(f"--series {text}: name two traces or more, as --series at10.h5 at30.h5 end.h5")
        of_series.append([label_of("--series", text) for text in given])
    return Asked(specs, of_pairs, of_series, frozenset(apart if len(apart) < len(specs) else ()))


def in_order(series: Sequence[Input]) -> list[Input]:
    """Order the traces of a series by the tokens trained, where all say how many; else leave them as they are."""
    tokens = [trained(one.trace) for one in series]
    if any(count is None for count in tokens):
        return list(series)
    return [one for _, one in sorted(zip(tokens, series, strict=True), key=lambda pair: pair[0] or 0)]


def trained(trace: RoutingTrace) -> int | None:
    """Return the tokens that the model of a trace had been trained on, as its provenance says; None: it does not."""
    about = trace.provenance.get("training")
    tokens = about.get("training_tokens") if isinstance(about, dict) else trace.provenance.get("training_tokens")
    return int(tokens) if isinstance(tokens, int | float) and not isinstance(tokens, bool) else None


def requests_of(trace: RoutingTrace, which: Iterable[int], columns: Sequence[str] = ("experts",)) -> RoutingTrace:
    """Copy requests, in the order and as often as given, to a trace of their own; ``stack`` and domains go along."""
    which = list(which)
    spans = [(int(trace.offsets[i]), int(trace.offsets[i + 1])) for i in which]
    names = [*columns, *(["stack"] if "stack" in trace.columns else [])]
    parts = {name: np.concatenate([trace.read(name, low, high) for low, high in spans]) for name in names}
    offsets = np.cumsum([0, *(high - low for low, high in spans)])
    domains = None if trace.domains is None else [trace.domains[i] for i in which]
    return RoutingTrace(trace.layers, parts, offsets, domains=domains, model=trace.model)


def mean_loss(trace: RoutingTrace) -> float | None:
    """Return the validation loss that the trace's provenance holds, nats per token, the mean where it is by domain."""
    return _loss_in(dict(trace.provenance))


def _loss_in(values: dict[str, Any]) -> float | None:
    for name in ("validation_loss", "val_loss", "log_perplexity"):
        value = values.get(name)
        if isinstance(value, dict):
            numbers = [float(part) for part in value.values() if isinstance(part, int | float)]
            return float(np.mean(numbers)) if numbers else None
        if isinstance(value, int | float):
            return float(value)
    for value in values.values():
        if isinstance(value, str) and value.startswith("{"):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                continue
        if isinstance(value, dict) and (loss := _loss_in(value)) is not None:
            return loss
    return None
