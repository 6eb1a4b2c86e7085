"""The traces of a run: their labels, which variant of a model each is of, and how its tokens came about."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
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


@dataclass(frozen=True)
class Input:
    """A trace to measure.

    Attributes:
        label: as shown; unique.
        variant: the model variant: the label without its kind, as ``"baseline-seed1"``.
        kind: ``"teacher-forced"`` (the paper's setting: nothing decoded) or ``"generated"``.
        trace: the routing trace.
        paper: key of the published model it is compared with (`published.key_of`), or None.
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
            name, separator, path = spec.partition("=")
            if separator and (not name or not path):
                raise ConfigError(f"trace {spec!r} is not understood: write name=path, or only the path")
            path = path if separator else spec
            label = name if separator else path.replace(":", ".") if path.startswith("bundled:") else Path(path).stem
            if label in [one.label for one in found]:
                raise ConfigError(f"two traces are called {label!r}: give them names, as {label}-2={path}")
            trace = stack.enter_context(RoutingTrace.open(path))
            variant = re.sub(KINDS, "", label, flags=re.IGNORECASE)
            phase = trace.phase
            kind: Kind = "generated" if phase is not None and bool((phase == DECODE).any()) else "teacher-forced"
            found.append(Input(label, variant, kind, trace, key_of(variant, trace.model)))
        yield found


def pairs_of(specs: Sequence[str], inputs: Sequence[Input]) -> list[tuple[Input, Input]]:
    """Read ``base:post`` pairs of labels.

    Raises:
        ConfigError: a pair is malformed, or a label is that of no trace.
    """
    known = {one.label: one for one in inputs}
    found = []
    for spec in specs:
        names = spec.split(":")
        if len(names) != 2:
            raise ConfigError(f"--pair {spec!r} is not understood: write base:post, names of two of the traces")
        for name in names:
            if name not in known:
                raise ConfigError(f"--pair {spec!r}: no trace is called {name!r}" + did_you_mean(name, known))
        found.append((known[names[0]], known[names[1]]))
    return found


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
