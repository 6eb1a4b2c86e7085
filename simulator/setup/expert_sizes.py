"""Bytes per expert as an option gives them: a number, one for each layer, one for each expert, or a file of these."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.documents import LARGEST, check_regular, parse_json, read_text
from lrcsim.base.errors import ConfigError
from lrcsim.simulator.cache.capacity import bytes_from
from lrcsim.traces import RoutingTrace

FILES = (".npy", ".json")
"""Endings of files that hold sizes: an integer array [L] or [L, E] of numpy, or lists of JSON."""

ExpertBytes = int | str | Path | Sequence[int] | Sequence[Sequence[int]] | npt.NDArray[np.integer]
"""What ``expert_bytes`` may be."""


def sizes_from(name: str, given: object) -> Any:
    """Read bytes per expert.

    Args:
        name: of the option, for errors.
        given: bytes, text with a unit, a file of `FILES`, a list with one entry per layer or, for each layer, a list
            with one per expert, or an array [L] or [L, E].

    Returns:
        One number, or what `LayerTable.with_expert_bytes` takes for several.

    Raises:
        ConfigError: it is none of these, or zero; a file cannot be read.
    """
    if isinstance(given, str | Path) and Path(given).suffix in FILES:
        return _in_file(name, Path(given))
    if isinstance(given, np.ndarray) or (isinstance(given, Sequence) and not isinstance(given, str) and len(given)):
        return given
    return bytes_from(name, given)


def with_expert_bytes(trace: RoutingTrace, size: ExpertBytes | None) -> RoutingTrace:
    """Return a trace with another size of its experts, or the same for None.

    Raises:
        ConfigError: the size is none, or zero, or stands in a file that cannot be read.
        TraceError: there is not one for each layer, or for each layer and expert.
    """
    if size is None:
        return trace
    amount = sizes_from("expert_bytes", size)
    trace = copy(trace)
    trace.layers = trace.layers.with_expert_bytes(amount)
    return trace


def _in_file(name: str, path: Path) -> Any:
    where = f"{name} {path}"
    if path.suffix == ".json":
        found = parse_json(read_text(path, where, ConfigError), where, ConfigError)
        if not isinstance(found, list) or not found:
            raise ConfigError(f"{where} must be a JSON list with one size per layer, or one list of sizes per layer")
        return found
    check_regular(path, ConfigError)
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            if dtype.kind not in "iu" or len(shape) not in (1, 2) or int(np.prod(shape)) * dtype.itemsize > LARGEST:
                raise ConfigError(f"{where} must be an array of integers [L] or [L, E], is {dtype} {list(shape)}")
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{where} is no array of numpy: {' '.join(str(problem).split())[:200]}") from None
