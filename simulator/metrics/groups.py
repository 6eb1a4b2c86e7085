"""Groups that a metric is given for besides the whole trace: domains numbered, and groups and intervals as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.base.errors import ConfigError
from lrcsim.base.text import number, numbers
from lrcsim.simulator.metrics.windows import Ints
from lrcsim.traces import RoutingTrace


def label_requests(trace: RoutingTrace, domains: Sequence[str] | None = None) -> tuple[tuple[str, ...], Ints]:
    """Number the domains of the requests.

    Args:
        trace: the routing trace.
        domains: one label per request, in place of the trace's own.

    Returns:
        The labels in order of appearance, and int64 [requests]: the index of each request's label.

    Raises:
        ConfigError: neither says which domain a request belongs to, or there is not one label per request.
    """
    labels = trace.domains if domains is None else list(domains)
    if labels is None:
        raise ConfigError("the trace does not say which domain its requests belong to: give one label per request")
    if len(labels) != trace.num_requests:
        raise ConfigError(f"domains must have one label per request ({trace.num_requests}), given {len(labels)}")
    names = list(dict.fromkeys(str(label) for label in labels))
    place = {name: i for i, name in enumerate(names)}
    return tuple(names), np.array([place[str(label)] for label in labels], np.int64)


def interval_values(interval: tuple[float, float] | None) -> list[float | None] | None:
    """Return an interval as JSON: None where there is none, an end None for NaN."""
    return None if interval is None else [number(end) for end in interval]


def group_values(
    groups: object | None, domains: tuple[str, ...] | None, stacks: tuple[str, ...] | None
) -> dict[str, Any]:
    """Return groups and their names as JSON, under ``groups``, ``domains`` and ``stacks``: those that there are.

    Args:
        groups: an object whose attributes are arrays with one value per group, or None.
        domains: names of the groups at level ``"domain"``.
        stacks: names of the groups at level ``"stack"``.
    """
    data: dict[str, Any] = {}
    if groups is not None:
        data["groups"] = {name: numbers(array) for name, array in vars(groups).items() if array is not None}
    if domains is not None:
        data["domains"] = list(domains)
    if stacks is not None:
        data["stacks"] = list(stacks)
    return data
