"""Good files of every kind that lrcsim reads from strangers, small, to be mutated."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from lrcsim.traces import RoutingTrace
from lrcsim.traces.exporters import export_trace
from lrcsim.traces.importers import FORMATS

TOKENS, LAYERS, EXPERTS, TOP_K = 12, 2, 8, 2


def make_seeds(folder: Path) -> dict[str, list[Path]]:
    """Write the files, and return them by kind: ``import NAME`` for the importers, ``trace``, ``config`` ..."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    ids = rng.random((TOKENS, LAYERS, EXPERTS)).argsort(axis=2)[:, :, :TOP_K]
    phase = (np.arange(TOKENS) % 6 >= 3).astype(np.uint8)
    trace = RoutingTrace.from_arrays(
        ids,
        num_experts=EXPERTS,
        offsets=[0, 6, TOKENS],
        phase=phase,
        weights=rng.random(ids.shape).astype(np.float32),
        expert_bytes=1000,
        domains=["code", "maths"],
        token_ids=np.arange(TOKENS),
        predictions={1: ids},
        provenance={"synthetic": True},
    )
    seeds = {
        "trace": _traces(folder, trace),
        "import npz": _npz(folder, trace, ids),
        "import moe-lrc": _safetensors(folder, ids),
        "import table": _tables(folder, ids, phase),
        "import vllm": _vllm(folder, ids),
        "import sglang": _sglang(folder, ids),
    }
    seeds |= {f"import {name}": paths for name, paths in _folders(folder, ids).items()}
    seeds = {kind: paths for kind, paths in seeds.items() if _known(kind)}
    config = {"model_type": "mixtral", "hidden_size": 64, "num_hidden_layers": 4, "num_local_experts": 8}
    config |= {"num_experts_per_tok": 2, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4}
    seeds["config"] = [_text(folder / "config.json", json.dumps(config | {"vocab_size": 1000}))]
    seeds["profile"] = [_text(folder / "machine.toml", PROFILE)]
    seeds["sweep"] = [_text(folder / "sweep.toml", SWEEP)]
    from lrcsim.simulator import simulate

    result = simulate(trace, policy="lru", cache="2x").to_dict() | {"provenance": {"lrcsim": "0", "options": {}}}
    seeds["result"] = [_text(folder / "result.json", json.dumps(result))]
    return seeds


def _traces(folder: Path, trace: RoutingTrace) -> list[Path]:
    paths = []
    for compression in ("gzip", "lzf", "none"):
        paths.append(folder / f"{compression}.h5")
        trace.save(paths[-1], compression=compression, version=1)
    return [*paths, _second_version(folder, trace)]


def _second_version(folder: Path, trace: RoutingTrace) -> Path:
    trace.save(folder / "zstd.h5")
    return folder / "zstd.h5"


def _npz(folder: Path, trace: RoutingTrace, ids: np.ndarray) -> list[Path]:
    export_trace(trace, folder / "a.npz", "npz")
    np.savez(folder / "plain.npz", experts=ids.astype(np.uint8), offsets=np.array([0, 6, TOKENS]), num_experts=EXPERTS)
    return [folder / "a.npz", folder / "plain.npz"]


def _safetensors(folder: Path, ids: np.ndarray) -> list[Path]:
    data = ids.reshape(LAYERS, -1, TOP_K).astype(np.uint8)[:1]
    header = {"code": {"dtype": "U8", "shape": list(data.shape), "data_offsets": [0, data.nbytes]}}
    text = json.dumps(header).encode()
    path = folder / "model_00.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data.tobytes())
    return [path]


def _tables(folder: Path, ids: np.ndarray, phase: np.ndarray) -> list[Path]:
    rows: dict[str, list[object]] = {name: [] for name in ("request", "token", "layer", "rank", "expert", "weight")}
    rows |= {"phase": [], "token_id": []}
    wide = []
    for token in range(TOKENS):
        for layer in range(LAYERS):
            wide.append(
                {"request": token // 6, "token": token % 6, "layer": layer, "experts": ids[token, layer].tolist()}
            )
            for rank, expert in enumerate(ids[token, layer].tolist()):
                values = (token // 6, token % 6, layer, rank, expert, 0.5, ("prefill", "decode")[phase[token]], token)
                for name, value in zip(rows, values, strict=True):
                    rows[name].append(value)
    lines = [",".join(rows), *(",".join(map(str, row)) for row in zip(*rows.values(), strict=True))]
    long = "# model=made-up num_experts=8\n" + "\n".join(lines) + "\n"
    objects = "\n".join(json.dumps(row) for row in wide) + "\n"
    parquet.write_table(pa.table(rows), folder / "long.parquet")
    parquet.write_table(pa.Table.from_pylist(wide), folder / "wide.parquet")
    (folder / "long.csv.gz").write_bytes(gzip.compress(long.encode()))
    made = [_text(folder / "long.csv", long), _text(folder / "long.tsv", long.replace(",", "\t"))]
    made += [_text(folder / "wide.jsonl", objects)]
    return [*made, folder / "long.parquet", folder / "wide.parquet", folder / "long.csv.gz"]


def _vllm(folder: Path, ids: np.ndarray) -> list[Path]:
    file = io.BytesIO()
    np.save(file, ids.astype(np.uint8))
    usage = {"prompt_tokens": 5, "completion_tokens": TOKENS - 4}
    choice = {"index": 0, "text": "x", "finish_reason": "length"}
    forms: dict[str, object] = {
        "npy": base64.b64encode(file.getvalue()).decode(),
        "lists": ids.tolist(),
        "buffer": {
            "data": base64.b64encode(ids.astype(np.uint8).tobytes()).decode(),
            "shape": list(ids.shape),
            "dtype": "uint8",
            "start": 0,
        },
    }
    return [
        _text(
            folder / f"vllm_{name}.json",
            json.dumps({"model": "m", "choices": [choice | {"routed_experts": form}], "usage": usage}),
        )
        for name, form in forms.items()
    ]


def _sglang(folder: Path, ids: np.ndarray) -> list[Path]:
    meta = {"prompt_tokens": 5, "completion_tokens": TOKENS - 4, "routed_experts": ids.tolist(), "cached_tokens": 0}
    answer = {"text": "x", "output_ids": list(range(TOKENS - 4)), "meta_info": meta}
    return [_text(folder / "sglang.jsonl", json.dumps(answer) + "\n" + json.dumps(answer) + "\n")]


def _known(kind: str) -> bool:
    return not kind.startswith("import ") or kind.removeprefix("import ") in FORMATS


def _folders(folder: Path, ids: np.ndarray) -> dict[str, list[Path]]:
    """Folders of files, and what torch saves."""
    layers, requests = folder / "layers", folder / "requests"
    for path in (layers, requests):
        path.mkdir(exist_ok=True)
    for layer in range(LAYERS):
        columns = {"indices": ids[:, layer].tolist(), "scores": np.full(ids[:, layer].shape, 0.5).tolist()}
        parquet.write_table(pa.table(columns), layers / f"layer_{layer:02d}.parquet")
    for request in range(2):
        np.savez(requests / f"request_{request}.npz", experts=ids.astype(np.uint8))
    lines = folder / "lines"
    lines.mkdir(exist_ok=True)
    for layer in range(LAYERS):
        flat = ["\t".join(map(str, ids[low : low + 6, layer].ravel())) for low in (0, 6)]
        rows = [f"{row}\t\t" + "\t".join(["0.5"] * 6 * TOP_K) + "\n" for row in flat]
        _text(lines / f"expert_weights_{layer + 1}.txt", "".join(rows))
    named = [{f"token_{at}": {f"layer_{la}": {"selected_experts": row.tolist(), "selected_probs": [0.5] * TOP_K}
              for la, row in enumerate(token)}} for at, token in enumerate(ids)]  # fmt: skip
    by_name = [_text(folder / "by_name.json", json.dumps({"dataset": "maths", "router_data": named}))]
    made = {"layers": [layers], "folder": [requests], "lines": [lines], "by-name": by_name}
    steps = [ids[:9], *(ids[at : at + 1] for at in range(9, TOKENS))]
    passes = [{"0": None} | {str(la + 1): rows[:, la].tolist() for la in range(LAYERS)} for rows in steps]
    made["passes"] = [_text(folder / "passes.json", json.dumps(passes))]
    if importlib.util.find_spec("torch"):
        import torch

        places = list(range(TOKENS))
        record = {"forward_pass_id": 0, "rank": 0, "rids": ["r"] * TOKENS, "input_ids": places, "positions": places}
        record |= {"extend_seq_lens": [TOKENS], "forward_mode": 1}
        record["topk_ids_of_layer"] = torch.tensor(ids.transpose(1, 0, 2).astype(np.int32))
        torch.save([record], folder / "recorder.pt")
        made["recorder"] = [folder / "recorder.pt"]
    return made


def _text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


PROFILE = """\
description = "made up"
layer_overhead = "5 us"
expert_overhead = "2 us"
pcie = "pcie4-x16"

[gpu]
memory = "24 GiB"
bandwidth = "1008 GB/s"
compute = "165 TFLOP/s"
overhead = "5 us"

[cpu]
compute = "1 TFLOP/s"
bandwidth = "80%"
overhead = "1 us"
cores = 8

[dram]
memory = "64 GiB"
bandwidth = "50 GB/s"
"""

SWEEP = """\
[defaults]
trace = "bundled:generated"
cache = "2x"

[grid]
policy = ["lru", "lfu"]
scope = ["layer", "model"]
"""
