"""Published speeds at known hit rates, as their authors give them; their traces are not public."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sweep:
    """One machine and model at several cache sizes.

    Attributes:
        name: short.
        source: who measured, and what is known of it.
        model: geometry.
        dtype: how the weights were stored.
        base: hardware profile to start from, with overrides.
        overrides: what is published of the machine.
        experts: experts per layer that the cache holds, at each point.
        hit_rate: at each point.
        tokens_per_s: at each point.
        fit: numbers that are fitted.
    """

    name: str
    source: str
    model: str
    dtype: str
    base: str
    overrides: tuple[str, ...]
    experts: tuple[float, ...]
    hit_rate: tuple[float, ...]
    tokens_per_s: tuple[float, ...]
    fit: tuple[str, ...]


SWEEPS = (
    Sweep(
        name="RTX 5090, Qwen3-30B-A3B Q4_K_M",
        source="a public report: PCIe 25.6 GB/s measured, LRU per layer, 256 tokens from a cold cache",
        model="qwen3-30b-a3b",
        dtype="q4_k_m",
        base="rtx-5090",
        overrides=("pcie.bandwidth=25.6GB/s",),
        experts=(8, 24.3, 48.7, 81.3),
        hit_rate=(0.366, 0.741, 0.894, 0.962),
        tokens_per_s=(10.5, 21.0, 30.5, 51.9),
        fit=("layer_overhead", "pcie.bandwidth"),
    ),
    Sweep(
        name="Apple, SSD, Qwen3-30B 3-bit",
        source="a public report: experts read from the SSD of an Apple machine; which one is not said",
        model="qwen3-30b-a3b",
        dtype="q3_k",  # 3.4 bits per weight; the report's own format is not said
        base="apple-m4-max",
        overrides=(),
        experts=(12, 20, 28, 36, 44, 53),
        hit_rate=(0.462, 0.581, 0.671, 0.743, 0.819, 0.879),
        tokens_per_s=(3.84, 4.33, 4.83, 5.34, 6.24, 6.50),
        fit=("layer_overhead", "nvme.bandwidth"),
    ),
)

SINGLE = Sweep(
    name="M5 Max, Qwen3-235B-A22B",
    source="a public report: hit rates at five cache sizes, a speed at one; format and storage are not said",
    model="qwen3-235b-a22b",
    dtype="q4_k",
    base="apple-m4-max",  # the closest profile there is
    overrides=(),
    experts=(0.64 * 128,),
    hit_rate=(0.973,),
    tokens_per_s=(15.5,),
    fit=(),
)


@dataclass(frozen=True)
class Offloaded:
    """Tokens/s of one machine in three settings: LRU and prefetch, LRU alone, neither. ``link``: assumed component."""

    machine: str
    link: str
    slots: int
    full: float
    no_prefetch: float
    no_cache: float


MIXTRAL_SOURCE = "mixtral-offloading (arXiv 2312.17238), Mixtral-8x7B with 2-bit experts; hit rates are not given"
MIXTRAL = (
    Offloaded("A100", "pcie4-x16", 4, 3.06, 2.92, 2.27),
    Offloaded("RTX 3080 mobile", "pcie4-x16", 4, 2.66, 2.23, 1.76),
    Offloaded("RTX 3060", "pcie3-x16", 2, 2.28, 2.05, 1.55),
    Offloaded("T4", "pcie3-x16", 4, 2.09, 1.57, 1.17),
)
