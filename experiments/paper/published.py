"""What the paper published, read from published.toml: the values, and where each comes from."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SEGMENTS = (4, 16, 64, 256)
"""The paper's segment lengths, in tokens."""

GRID: Floats = np.arange(1, 17) / 4
"""The relative cache sizes of its curves, 0.25 to 4 times the active experts."""


@dataclass(frozen=True)
class Published:
    """The tables of published.toml, by key.

    Attributes:
        real: of each real model: experts, top_k, srp, sch16, policies ...; encoders have a key of their own.
        toy: of each toy model: change, shape, srp16, sch16, lru, throughput ...
        post: SRP of models before and after post-training; ``base`` names the model before.
        quantity: of each quantity what it is, its source and its precision.
    """

    real: dict[str, dict[str, Any]]
    toy: dict[str, dict[str, Any]]
    post: dict[str, dict[str, Any]]
    quantity: dict[str, dict[str, Any]]

    def source(self, *names: str) -> str:
        """Say where quantities come from and how exact they are, for the foot of a table; nothing of none."""
        parts = [f"{self.quantity[name]['source']} ({self.quantity[name]['precision']})" for name in names]
        return "Published: " + "; ".join(parts) + "." if parts else ""

    def of(self, key: str | None) -> dict[str, Any]:
        """Return the values of the model with a key as `key_of` gives it; nothing for None."""
        group, _, name = (key or "").partition(".")
        return dict(getattr(self, group)[name]) if group else {}


@cache
def published() -> Published:
    """Read the data once."""
    text = resources.files("lrcsim.experiments.paper").joinpath("published.toml").read_text("utf-8")
    return Published(**tomllib.loads(text))


def key_of(variant: str, model: str) -> str | None:
    """Find which published model a trace is of: by its variant, or else its model.

    Args:
        variant: the label's variant, as ``"share1"``; a seed after it does not count.
        model: the trace's model, as ``"lrcsim-toy-share1"`` or ``"allenai/OLMoE-1B-7B-0924"``.

    Returns:
        ``"toy.share1"`` or ``"real.olmoe"``, or None.
    """
    from lrcsim.base.errors import ConfigError
    from lrcsim.models import load_geometry

    data = published()
    stem = re.sub(r"[-_.]?(seed|s)[-_]?[0-9]+$", "", variant.lower())
    for name in (stem, model.lower()):
        toy = name.rpartition("toy-")[2]  # as the project's own family names its models
        if toy in data.toy:
            return f"toy.{toy}"
    for name in (stem, model):
        if name.lower() in data.real:
            return f"real.{name.lower()}"
        try:
            geometry = load_geometry(name).name
        except ConfigError:
            continue
        for key in data.real:
            if not key.endswith("-encoder") and load_geometry(key).name == geometry:
                return f"real.{key}"
    return None
