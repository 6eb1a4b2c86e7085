"""The files that the frozen configurations read: small traces, made or sliced, specifications, code of a user.

Everything is made anew from a seed, from the bundled traces or, where they are at hand, from real recorded ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from lrcsim.traces import RoutingTrace

REAL = ("qwen.h5", "gptoss.h5", "qwen.csv")
"""Inputs that come from recorded traces beside the checkout; configurations that name one are skipped without them."""

SWEEP = """
[defaults]
trace = "small.h5"

[[grid]]
policy = ["lru", "lfu", "belady", "slru", "mrs"]
cache = ["1x", "2x", "25%"]
scope = ["layer", "model"]

[[grid]]
trace = ["small.h5", "uneven.h5"]
hardware = "rtx-3090"
model = "lrcsim-toy-baseline"
policy = ["lru", "s3-fifo:share=0.2"]
pcie.bandwidth = ["1GB/s", "12GB/s"]
miss = ["load", "skip:0.1"]

[[runs]]
cache = [16, 8, 8, 8, 8, 8, 8, 4]
access = "sequential"
prefill = "chunk:16"
warm = false

[[runs]]
policy = "static"
profile = "self"
batch = 2
speculative = [2, 0.5]

[[runs]]
hardware = "rtx-4090"
cache = "4000GiB"
"""

MINE = '''
from lrcsim.policies import CompiledScore, Policy, ScorePolicy


class Sticky(Policy):
    """LRU, but experts used in two steps in a row go last."""

    def __init__(self, spare=1):
        self.spare = spare

    def reset(self):
        self.last_step = {}
        self.sticky = set()

    def access(self, batch, missed):
        for key in batch:
            if self.last_step.pop(key, None) == self.view.step - self.spare:
                self.sticky.add(key)
            self.last_step[key] = self.view.step

    def victim(self, protected):
        free = [key for key in self.last_step if key not in protected]
        return min(free, key=lambda key: key in self.sticky)

    def evicted(self, key):
        del self.last_step[key]
        self.sticky.discard(key)


class Patient(CompiledScore):
    """Evict the fewest uses per step since the first."""

    @staticmethod
    def worth(expert, now):
        return expert.uses / (now.step - expert.first_step + 1)


class Broken(Sticky):
    """Names an expert that is not there."""

    def victim(self, protected):
        return -5


class Failing(Sticky):
    """Divides by nothing."""

    def access(self, batch, missed):
        return 1 / 0


class Half(Policy):
    """Lacks methods."""


NotAPolicy = 3
'''

AHEAD = '''
from lrcsim.simulator.setup.prefetchers import Prefetcher


class SameAgain(Prefetcher):
    """What this layer used will be used by the next."""

    def propose(self, step, place):
        used = step.layers[place]
        if used.layer + 1 < self.num_layers:
            yield from (key + self.stride for key in used.keys)
'''

TEXTS = {
    "sweep.toml": SWEEP,
    "badsweep.toml": '[grid]\npolcy = ["lru"]\n',
    "badvalue.toml": '[grid]\ntrace = "small.h5"\npolicy = ["lruu"]\n',
    "badsyntax.toml": "[grid\n",
    "mine.py": MINE,
    "ahead.py": AHEAD,
    "syntax.py": "class Oops(:\n",
    "arrivals.txt": "0.0\n0.005\n",
    "badarrivals.txt": "0.5\nnever\n",
    "machine.toml": 'base = "rtx-4090"\n[pcie]\nbandwidth = "3GB/s"\n',
    "badmachine.toml": 'base = "rtx-4090"\n[pcie]\nbandwith = "3GB/s"\n',
    "badunit.toml": 'base = "rtx-4090"\n[pcie]\nbandwidth = "3 parsecs"\n',
    "broken.json": "{",
    "other.json": '{"a": 1}\n',
    "text.h5": "no trace at all\n",
    "config.json": """{"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_size": 64,
"intermediate_size": 96, "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2,
"num_local_experts": 64, "num_experts_per_tok": 8, "vocab_size": 1000, "torch_dtype": "bfloat16",
"max_position_embeddings": 4096, "tie_word_embeddings": false}\n""",
    "t.csv": "request,phase,token,layer,rank,expert,weight\n0,0,0,0,0,1,0.7\n0,0,0,0,1,2,0.3\n0,1,1,0,0,3,0.9\n"
    "0,1,1,0,1,1,0.1\n",
    "bad.csv": "token,layer,expert\n0,0,1\na,b,c\n",
}


def make_inputs(folder: Path, shared: Path) -> bool:
    """Write all inputs into a folder; return whether the recorded traces were there."""
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    bundled = RoutingTrace.open()
    small = cut(bundled, [0, 3], 190)
    small.save(folder / "small.h5")
    cut(RoutingTrace.open("bundled:teacher-forced"), [0, 1], 160).save(folder / "forced.h5")
    uneven(small).save(folder / "uneven.h5")
    made_up(7).save(folder / "made.h5")
    with_impossible_ids(folder)
    return recorded(folder, shared / "traces")


def cut(trace: RoutingTrace, requests: list[int], longest: int) -> RoutingTrace:
    """Return the first tokens of some requests, with every column but logits."""
    ranges = [(trace.offsets[i], min(trace.offsets[i + 1], trace.offsets[i] + longest)) for i in requests]
    rows = np.concatenate([np.arange(low, high) for low, high in ranges])
    columns = {name: np.asarray(trace.columns[name][: rows[-1] + 1])[rows] for name in trace.columns}
    for name in columns:
        if name == "experts" or name.startswith("predictions/"):
            columns[name] = signed(columns[name])
    ahead = {int(name.partition("/")[2]): value for name, value in columns.items() if name.startswith("predictions/")}
    sizes = None if trace.expert_bytes is None else [int(size) for size in trace.expert_bytes]
    return RoutingTrace.from_arrays(
        columns["experts"],
        num_experts=trace.num_experts,
        offsets=np.cumsum([0, *(high - low for low, high in ranges)]),
        expert_bytes=sizes,
        domains=None if trace.domains is None else [trace.domains[i] for i in requests],
        model=trace.model,
        predictions=ahead or None,
        **{name: columns[name] for name in ("phase", "weights", "token_ids", "residency") if name in columns},
    )


def signed(ids: np.ndarray) -> np.ndarray:
    """Return expert ids with -1 for what was not recorded, which files keep as the largest number of their type."""
    missing = np.iinfo(ids.dtype).max if ids.dtype.kind == "u" else -1
    return np.where(ids == missing, -1, ids.astype(np.int64))


def uneven(trace: RoutingTrace) -> RoutingTrace:
    """Return a trace with other bytes in every layer and some positions not recorded."""
    rng = np.random.default_rng(3)
    experts = np.array(trace.experts)
    lost = rng.random(experts.shape) < 0.02
    lost[rng.random(experts.shape[:2]) < 0.02] = True  # of some tokens whole layers
    experts[lost] = -1
    return RoutingTrace.from_arrays(
        experts,
        num_experts=trace.num_experts,
        offsets=trace.offsets,
        phase=trace.phase,
        weights=np.where(lost, 0, np.asarray(trace.columns["weights"][:])),
        expert_bytes=[40_000 + 4_567 * layer for layer in range(trace.num_layers)],
        domains=trace.domains,
        model=trace.model,
    )


def made_up(seed: int) -> RoutingTrace:
    """Draw a trace: unequal top-k, numbers of experts and bytes, prompts, weights, positions not recorded."""
    rng = np.random.default_rng(seed)
    numbers, top_k = [24, 24, 16, 24, 24], [4, 2, 4, 3, 4]
    prompts, decoded = rng.integers(3, 14, 6), rng.integers(12, 30, 6)
    offsets = np.cumsum([0, *(prompts + decoded)])
    experts = np.full((offsets[-1], 5, 4), -1)
    weights = np.zeros(experts.shape)
    for layer, (number, k) in enumerate(zip(numbers, top_k, strict=True)):
        liking = rng.normal(size=number)
        for token in range(len(experts)):
            liking = 0.9 * liking + 0.4 * rng.normal(size=number)
            best = np.argsort(-liking, kind="stable")[:k]
            experts[token, layer, :k] = best
            weights[token, layer, :k] = np.exp(liking[best]) / np.exp(liking[best]).sum()
    lost = rng.random(experts.shape[:2]) < 0.03
    experts[lost], weights[lost] = -1, 0
    phase = np.concatenate([np.repeat([0, 1], [p, d]) for p, d in zip(prompts, decoded, strict=True)])
    return RoutingTrace.from_arrays(
        experts,
        num_experts=numbers,
        top_k=top_k,
        offsets=offsets,
        phase=phase.astype(np.uint8),
        weights=weights,
        expert_bytes=[1000, 1500, 700, 1000, 3001],
        domains=["law", "code", "law", "prose", "code", "prose"],
        token_ids=rng.integers(0, 12, offsets[-1]).astype(np.int32),
        model="made-up",
    )


def with_impossible_ids(folder: Path) -> None:
    """Write a trace file with ids beyond the number of experts, which `trace check` must find."""
    import h5py

    made_up(8).save(folder / "wrong.h5")
    with h5py.File(folder / "wrong.h5", "r+") as file:
        file["routing/experts"][3, 1, 0] = 23
        file["routing/experts"][3, 1, 1] = 23
        file["routing/experts"][4, 2, 0] = 20


def recorded(folder: Path, traces: Path) -> bool:
    """Write slices of the recorded traces; return False where they are not at hand."""
    qwen, tokens = traces / "qwen3-30b-a3b.route.csv", traces / "qwen3-30b-a3b.metrics.csv"
    gptoss = traces / "gpt-oss-20b.decode.npz"
    if not (qwen.exists() and tokens.exists() and gptoss.exists()):
        print(f"no recorded traces in {traces}: configurations that use them are skipped", file=sys.stderr)
        return False
    from freeze_run import command

    command(["trace", "import", str(qwen), "-o", str(folder / "qwen.h5")])
    (folder / "qwen.csv").write_bytes(tokens.read_bytes())
    command(["trace", "import", str(gptoss), "-o", str(folder / "whole.h5"), "--expert-bytes", "13222080",
             "--model", "gpt-oss-20b"])  # fmt: skip
    with RoutingTrace.open(folder / "whole.h5") as whole:
        cut(whole, [0, 1, 40], 70).save(folder / "gptoss.h5")
    (folder / "whole.h5").unlink()
    return True
