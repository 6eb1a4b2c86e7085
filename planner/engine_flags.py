"""The command lines of engines that do what a plan says, as far as they have flags for it.

docs/plan.md says which versions' documentation they were checked against; none was run. A command line is given only
where the engine takes the dtype on that card (`planner.engines`).
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lrcsim.models.formats import GGUF
from lrcsim.models.mixes import MIXES
from lrcsim.models.quantisation import parse_dtype
from lrcsim.models.stored import Stored
from lrcsim.planner.llama_cpp_cache import CacheRoom, cache_flags

LLAMA_KV = {"fp8": None, "bf16": "bf16", "f16": None}
"""What ``-ctk`` calls a format of the KV cache; None: nothing to say (f16 is its default), or it has none."""

COUNTS = (
    "COUNTS.pt holds how often each expert was used: lrcsim plan --trace TRACE --counts-out COUNTS.pt writes it from a "
    "trace of the model; or run the server once with --expert-distribution-recorder-mode stat, POST to "
    "/start_expert_distribution_record, send it prompts of yours, POST to /dump_expert_distribution_record"
)
"""How to make the file that frequency placement reads (doc/en/kt-kernel/experts-sched-Tutorial.md of ktransformers)."""


MOST_BY_NAME = 100
"""Layers that `override_pattern` can name."""


@dataclass(frozen=True)
class Flags:
    """One engine's command line.

    Attributes:
        engine: its name.
        strategy: which strategy of the plan it carries out; empty: none of them.
        command: the command line, with MODEL where the model goes; empty: there is none.
        notes: what to know about it.
    """

    engine: str
    strategy: str
    command: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "notes": list(self.notes)}


def override_pattern(layers: int) -> str:
    """Return llama.cpp's ``-ot`` for the experts of the first so many layers: ``PATTERN=BUFFER``, a regular expression.

    The same as ``--n-cpu-moe``, for builds without it, or as a start for other choices of layers.
    """
    if not 1 <= layers <= MOST_BY_NAME:
        raise ValueError(f"1 to {MOST_BY_NAME} layers, given {layers}")
    tens, ones = divmod(layers - 1, 10)
    numbers = [f"[0-{ones}]" if tens == 0 else "[0-9]"]
    if tens > 1:
        numbers.append(f"[1-{tens - 1}][0-9]" if tens > 2 else "1[0-9]")
    if tens:
        numbers.append(f"{tens}[0-{ones}]")
    return rf"blk\.({'|'.join(numbers)})\.ffn_.*_exps=CPU"


def engine_flags(
    *,
    dtype: str,
    in_gguf: bool,
    stored: Stored | None = None,
    top_k: int = 0,
    context: int,
    kv_dtype: str,
    all_resident: bool,
    cpu_layers: int,
    layers: int,
    placed_slots: int,
    popular_slots: int | None,
    cache: CacheRoom | None = None,
    experts_outside: int,
    engines: Mapping[str, Sequence[str]],
    kt: tuple[str, str],
    cores: int,
    own_gpu: bool,
    has_gpu: bool,
) -> list[Flags]:
    """Return the command lines for a plan.

    Args:
        dtype: of the weights.
        in_gguf: whether GGUF files have its format of experts.
        stored: the model's own GGUF file, where it is planned as that; None: the command says MODEL.
        top_k: routed experts per token; where the file says another number the command overrides it.
        context: tokens.
        kv_dtype: of the KV cache.
        all_resident: whether all experts fit on the device.
        cpu_layers: N of ``--n-cpu-moe N``, counted over all layers.
        layers: of the model.
        placed_slots: experts per MoE layer on the GPU where whole layers of them are, in the mean, rounded down.
        popular_slots: experts per MoE layer on the GPU, for fixed contents; None: main memory does not hold the others.
        cache: what llama.cpp's cache of experts has here; None: it has none.
        experts_outside: bytes of the experts of those N layers.
        engines: released engines that have a strategy here, in this dtype, by the strategy's name.
        kt: ktransformers' method, and what speaks against it (`lrcsim.planner.ktransformers.kt_method`).
        cores: of the CPU.
        own_gpu: whether the machine has a GPU with memory of its own.
        has_gpu: whether it has a GPU at all.
    """

    def row_of(engine: str, *strategies: str) -> str:
        return next((name for name in strategies if engine in engines.get(name, ())), "")

    model = "MODEL.gguf" if stored is None else _file(stored, top_k)
    llama = _llama(model, dtype, in_gguf, context, kv_dtype, all_resident, cpu_layers, layers, own_gpu, has_gpu)
    llama = replace(llama, strategy=row_of("llama.cpp", "all-resident", "n-cpu-moe"))
    if other := row_of("ik_llama.cpp", "all-resident", "n-cpu-moe"):
        if llama.strategy:
            llama = replace(llama, notes=(*llama.notes, "ik_llama.cpp, a fork, takes the same flags"))
        else:
            llama = replace(llama, engine="ik_llama.cpp", strategy=other)
    found = [llama]
    if cache is not None:
        for way in (name for name in ("lru", "lru-split") if row_of("llama.cpp", name)):
            flags, about = cache_flags(way, cache, top_k)
            command = _command(model, context, kv_dtype, has_gpu, flags)[0] if flags else ""
            found.append(Flags("llama.cpp", way, command, about))
    if stored is not None:
        return found
    if mine := row_of("MLX", "all-resident"):
        found.append(Flags("MLX", mine, "mlx_lm.server --model MODEL", ()))
    served = row_of("vLLM", "all-resident", "streamed")
    if not own_gpu and not (all_resident and served):
        return found
    if popular_slots is None and not all_resident:
        short = ("the experts that are not on the GPU must fit main memory, and do not",)
        return [*found, *(Flags(engine, "", "", short) for engine in ("ktransformers", "vLLM", "SGLang"))]
    found += _ktransformers(kt, context, all_resident, placed_slots, popular_slots or 0, cores)
    length = f"--max-model-len {context}"
    gib = math.ceil(experts_outside / 2**30 * 10) / 10
    unlike = (
        (f"{dtype} is a format of GGUF files: the sizes here hold for a checkpoint as small as that",)
        if _only_in_gguf(dtype)
        else ()
    )
    if all_resident:
        sglang = f"python -m sglang.launch_server --model-path MODEL --context-length {context}"
        return [
            *found,
            Flags("vLLM", served, f"vllm serve MODEL {length}", unlike),
            Flags("SGLang", row_of("SGLang", "all-resident"), sglang, unlike),
        ]
    kv = " --kv-cache-dtype fp8" if kv_dtype == "fp8" else ""
    found.append(
        Flags(
            "vLLM",
            served,
            f"vllm serve MODEL {length}{kv} --cpu-offload-gb {gib:g} --cpu-offload-params experts",
            (
                "the GPU reads these experts over the link at every token, nothing is cached; the CPU computes nothing",
                "--cpu-offload-params takes whole segments of parameter names; releases without it offload any weights",
                *unlike,
            ),
        )
    )
    found.append(
        Flags(
            "SGLang",
            "",
            "",
            (
                "no flag for this: --cpu-offload-gb copies all weights of an offloaded layer at every step, used or "
                "not (ktransformers' fork has the --kt flags above)",
            ),
        )
    )
    return found


def _only_in_gguf(dtype: str) -> bool:
    base = parse_dtype(dtype)[0]
    return base in GGUF or base in MIXES


def _file(stored: Stored, top_k: int) -> str:
    """Return a file as ``-m`` takes it, and what makes the engine route to another number of experts than it says."""
    override = f" --override-kv {stored.architecture}.expert_used_count=int:{top_k}"
    return shlex.quote(stored.file) + (override if top_k not in (0, stored.top_k) else "")


def _llama(
    model: str,
    dtype: str,
    in_gguf: bool,
    context: int,
    kv_dtype: str,
    all_resident: bool,
    cpu_layers: int,
    layers: int,
    own_gpu: bool,
    has_gpu: bool,
) -> Flags:
    placing, notes = "", []
    if own_gpu and not all_resident:
        placing = "--cpu-moe" if cpu_layers >= layers else f"--n-cpu-moe {cpu_layers}"
        if cpu_layers < layers and cpu_layers <= MOST_BY_NAME:
            notes.append(f'the same by name: -ot "{override_pattern(cpu_layers)}"')
    if not own_gpu and not all_resident:
        notes.append("experts that do not fit are paged in by the operating system (mmap); no flag chooses which stay")
    command, about = _command(model, context, kv_dtype, has_gpu, placing)
    notes += about
    if not in_gguf:
        notes.append(f"{dtype} is no format of GGUF files, the sizes hold for one as small as that")
    if own_gpu and not all_resident:
        notes.append("a layer's experts are all on the GPU or all on the CPU")
    return Flags("llama.cpp", "", command, tuple(notes))


def _command(model: str, context: int, kv_dtype: str, has_gpu: bool, placing: str) -> tuple[str, list[str]]:
    """Return llama.cpp's command line with flags that place experts, and notes on the KV cache."""
    parts, notes = [f"llama-server -m {model}", f"-c {context}"], []
    if has_gpu:
        parts.append("-ngl 99")
    if placing:
        parts.append(placing)
    name = LLAMA_KV.get(kv_dtype, kv_dtype)
    if kv_dtype == "fp8":
        notes.append("llama.cpp has no fp8 KV cache: q8_0 is as small")
        name = "q8_0"
    if name is not None:
        parts.append(f"-ctk {name} -ctv {name}")
        if name not in ("bf16", "f16"):
            parts.append("-fa on")
    return " ".join(parts), notes


def _ktransformers(
    kt: tuple[str, str], context: int, all_resident: bool, placed: int, popular: int, cores: int
) -> list[Flags]:
    """Return whole layers first, which needs no counts, then the most used experts of each."""
    method, why_not = kt
    if all_resident:
        return [Flags("ktransformers", "", "", ("not needed: all experts fit on the GPU",))]
    if not method:
        return [Flags("ktransformers", "", "", (why_not,))]
    command = (
        f"python -m sglang.launch_server --model MODEL --context-length {context} --kt-method {method}"
        f" --kt-weight-path MODEL --kt-cpuinfer {cores} --kt-num-gpu-experts "
    )
    per_layer = "--kt-num-gpu-experts is per MoE layer, and the first layers have all of them"
    first = f"{command}{placed}" + (" --kt-expert-placement-strategy front-loading" if placed else "")
    found = [Flags("ktransformers", "n-cpu-moe", first, (per_layer,) if placed else ())]
    if popular:
        used = f"{command}{popular} --kt-expert-placement-strategy frequency --init-expert-location COUNTS.pt"
        gain = "by its own table 2 to 4 % faster than whole layers (Qwen3-Next-80B): the row popular is a bound"
        found.append(Flags("ktransformers", "popular", used, ("--kt-num-gpu-experts is per MoE layer", gain, COUNTS)))
    return found
