"""Experts with random weights, in a file one after the other, and what an expert computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.calibration.of_machine.files import ALIGNMENT

Vector = npt.NDArray[np.float32]
Matrices = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class ExpertShape:
    """A stack of MoE layers.

    Attributes:
        layers: MoE layers.
        experts: of each layer.
        hidden: width of the vector that passes through.
        ffn: width inside an expert.
    """

    layers: int
    experts: int
    hidden: int
    ffn: int

    def __post_init__(self) -> None:
        """Refuse experts that cannot be read past the page cache."""
        if self.expert_bytes % ALIGNMENT:
            raise ConfigError(
                f"an expert of hidden {self.hidden}, ffn {self.ffn} has {self.expert_bytes:,} bytes: "
                f"choose widths that make it a multiple of {ALIGNMENT}, as 256 and 512"
            )

    @property
    def expert_bytes(self) -> int:
        """Bytes of an expert: gate, up and down, in float32."""
        return 3 * self.hidden * self.ffn * 4


def random_expert(shape: ExpertShape, key: int) -> Vector:
    """Return the weights of expert ``key`` = layer * E + expert, float32 [3 * hidden * ffn], the same in every run.

    Uniform, scaled so that neither a vector's size nor a product's grows from layer to layer.
    """
    flat = np.random.default_rng((20, key)).random(3 * shape.hidden * shape.ffn, dtype=np.float32)
    flat -= np.float32(0.5)
    flat *= np.float32((12 / shape.hidden) ** 0.5)
    return flat


def matrices(buffer: memoryview | Vector, shape: ExpertShape) -> Matrices:
    """Return gate and up, float32 [ffn, hidden], and down, float32 [hidden, ffn], as views of an expert's bytes."""
    flat = np.frombuffer(buffer, np.float32)
    part = shape.hidden * shape.ffn
    gate, up, down = flat[:part], flat[part : 2 * part], flat[2 * part : 3 * part]
    wide, narrow = (shape.ffn, shape.hidden), (shape.hidden, shape.ffn)
    return gate.reshape(wide), up.reshape(wide), down.reshape(narrow)


def expert(weights: Matrices, x: Vector) -> Vector:
    """Return down @ (silu(gate @ x) * (up @ x)), float32 [hidden]."""
    gate, up, down = weights
    inside = gate @ x
    inside /= 1 + np.exp(-inside)
    inside *= up @ x
    product: Vector = down @ inside
    return product


def start_vector(shape: ExpertShape, token: int) -> Vector:
    """Return what token number ``token`` enters the first layer as, float32 [hidden]."""
    vector: Vector = np.random.default_rng((21, token)).standard_normal(shape.hidden, dtype=np.float32)
    return vector


@contextmanager
def weights_file(folder: Path, shape: ExpertShape) -> Iterator[Path]:
    """Give a file with all experts in the order of their keys, written through to the storage; removed at the end."""
    path = folder / f".lrcsim-experts-{os.getpid()}.bin"
    try:
        with path.open("wb") as file:
            for key in range(shape.layers * shape.experts):
                file.write(random_expert(shape, key).tobytes())
            file.flush()
            os.fsync(file.fileno())
        yield path
    finally:
        path.unlink(missing_ok=True)
