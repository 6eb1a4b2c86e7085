"""Small traces that commands measure, and how their tables and figures are recognised."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.traces import RoutingTrace

SIGNATURES = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
"""How a figure's file begins, by its ending."""


def save(path: Path, *, model: str = "toy", seed: int = 0, tokens: int = 240, **columns: Any) -> str:
    """Save a trace of requests of 40 tokens, 3 layers, 2 of 8 experts; return its path."""
    ids = np.random.default_rng(seed).random((tokens, 3, 8)).argsort(axis=2)[:, :, :2]
    columns.setdefault("offsets", range(0, tokens + 1, 40))
    RoutingTrace.from_arrays(ids, num_experts=8, model=model, **columns).save(path)
    return str(path)


def table(out: str) -> list[list[str]]:
    """Return the cells of the lines that hold numbers."""
    return [re.split(r"\s{2,}", line.strip()) for line in out.splitlines() if re.search(r"\d\.\d{3}", line)]
