"""What `lrcsim plan` says for a published point: one row of the plan, under the runtime that was measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from lrcsim.base.errors import ConfigError
from lrcsim.cli.plan import parse_context
from lrcsim.experiments.validation.published_speeds.points import Point
from lrcsim.hardware import HardwareProfile, load_profile
from lrcsim.models import Geometry, load_geometry, stored_dtype
from lrcsim.models.quantisation import bits_per_weight
from lrcsim.planner.evaluate import Runner
from lrcsim.planner.memory import Memory, memory_of, with_memory
from lrcsim.planner.rows import StrategyRow
from lrcsim.planner.shared_memory import shared
from lrcsim.planner.strategies import Strategy, strategies
from lrcsim.planner.traces import Shape, find_sources
from lrcsim.planner.workload import OwnTrace, Workload, transferred
from lrcsim.runtimes import RuntimeDocument, load_runtime
from lrcsim.simulator.cache.capacity import bytes_from

PROMPT = 1
"""Tokens of the prompt whose time is worked out besides: it is not looked at."""

ENGINES = (
    (r"ik_llama", "ik_llama.cpp"),
    (r"llama|ollama|lm ?studio|kobold", "llama.cpp"),
    (r"mlx", "mlx"),
    (r"ktransformers|kt-kernel", "ktransformers"),
    (r"vllm|sglang", "vllm"),
    (r"\bimp\b", "imp"),
    (r"bigmoe.*overlap", "bigmoeonedge"),
    (r"bigmoe", "bigmoeonedge-serial"),
    (r"mixtral-offloading", "mixtral-offloading"),
    (r"moe-infinity|fiddler|accelerate|transformers|pytorch", "eager"),
)
"""Patterns of what people call an engine, with its flags, and the runtime that stands for it; the first is taken."""


def runtime_of(engine: str, flags: str = "") -> RuntimeDocument | None:
    """Return the runtime that stands for an engine and how it was started; None: the plan's own choice for the row."""
    for pattern, name in ENGINES:
        if re.search(pattern, f"{engine} {flags}".lower()):
            return load_runtime(name)
    return None


class Asked(NamedTuple):
    """What a point asks a plan for."""

    geometry: Geometry
    profile: HardwareProfile
    memory: Memory
    strategy: Strategy
    dtype: str
    kv_bytes: float
    context: int


@dataclass(frozen=True)
class Prediction:
    """What a plan says for a point: tokens/s, and its range."""

    point: Point
    tokens_per_s: float
    range: tuple[float, float]
    hit_rate: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.tokens_per_s / self.point.tokens_per_s

    @property
    def inside(self) -> bool:
        """Whether what was measured is in the range."""
        return self.range[0] <= self.point.tokens_per_s <= self.range[1]


def asked(point: Point) -> Asked:
    """Look up what a point asks for.

    Raises:
        ConfigError: the plan has no such row there.
    """
    geometry = load_geometry(str(point.plan["model"]))
    card = load_profile(str(point.plan["hardware"]), point.overrides)
    sizes = [None if (text := point.option(key)) is None else bytes_from(key, text) for key in ("vram", "ram")]
    profile = with_memory(card, *sizes)
    if profile.unified:
        profile = shared(profile)
    unused = 0 if card.gpu is None or profile.gpu is None else max(0, int(card.gpu.memory - profile.gpu.memory))
    context = parse_context(point.option("context", "8k") or "8k")
    dtype, kv = stored_dtype(geometry, point.option("dtype")), point.option("kv_dtype", "f16") or "f16"
    memory = memory_of(geometry, profile, dtype, context, kv_dtype=kv, unused=unused)
    rows = {strategy.name: strategy for strategy in strategies(memory)}
    if point.row not in rows:
        raise ConfigError(f"{point.name}: a plan there has no row {point.row}, it has {', '.join(rows)}")
    return Asked(geometry, profile, memory, rows[point.row], dtype, bits_per_weight(kv) / 8, context)


def predict(point: Point, runtime: RuntimeDocument | None = None) -> Prediction:
    """Work out the row of a point's plan.

    Args:
        point: what to predict.
        runtime: what runs the model; None: what stands for the point's engine.

    Raises:
        ConfigError: the plan has no such row there.
    """
    wanted = asked(point)
    runner = Runner(
        wanted.geometry,
        wanted.dtype,
        _workloads(wanted.geometry),
        wanted.kv_bytes,
        wanted.context,
        PROMPT,
        None,
        runtime or runtime_of(point.engine, point.flags),
    )
    row = runner.row(wanted.strategy, wanted.profile, wanted.memory)[0]
    return _of_row(point, row)


def predict_all(points: list[Point]) -> list[Prediction]:
    """Predict points, each under the runtime of its engine."""
    return [predict(point) for point in points]


def _of_row(point: Point, row: StrategyRow) -> Prediction:
    speed, ends = (row.full, row.full_range) if point.full_context else (row.speed, row.range)
    return Prediction(point, speed, ends, row.hit_rate)


@cache
def _workloads(geometry: Geometry) -> list[Workload]:
    sources, _ = find_sources(geometry, (), ())
    if sources[0].own:
        return [OwnTrace(sources[0])]
    return list(transferred(Shape.of(geometry), sources))
