"""docs/traces.md: every import on the page runs, on a made sample of the layout that the source writes."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

PAGE = Path(__file__).parents[2] / "docs" / "traces.md"
TEXT = PAGE.read_text(encoding="utf-8")
FENCES = "".join(re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))
IMPORTS = [shlex.split(line) for line in FENCES.splitlines() if line.startswith("lrcsim trace import")]
IDS = np.random.default_rng(0).random((6, 3, 8)).argsort(axis=2)[:, :, :2]
"""int [tokens, layers, k]"""


def fingerprints(path: Path) -> None:
    for name, low in (("gpqa/True_examples", 7), ("mmlu/False_examples", 3)):
        tokens = [
            {f"token_{low + at}": {f"layer_{layer}": {"selected_experts": ids.tolist(), "selected_probs": [0.3, 0.2]}
             for layer, ids in enumerate(token)}} for at, token in enumerate(IDS)
        ]  # fmt: skip
        record = {"row_index": 1, "dataset": name[:4], "full_text": ["a"], "router_data": tokens}
        (path / name).parent.mkdir(parents=True)
        (path / f"{name}.json").write_text(json.dumps(record, indent=2))


def esft(path: Path) -> None:
    path.mkdir()
    six = np.random.default_rng(1).random((2, 5, 64)).argsort(axis=2)[:, :, :6]  # layers, tokens, k
    for layer, ids in enumerate(six, start=1):
        lines = ["\t".join(map(str, part.ravel())) + "\t\t" + "\t".join(["0.1"] * part.size) for part in (ids, ids[:2])]
        (path / f"expert_weights_{layer}.txt").write_text("\n".join(lines) + "\n")
    (path / "summary.json").write_text("{}")


def beyond(path: Path) -> None:
    path.mkdir()
    for prompt in (9, 10):
        with (path / f"prompt_{prompt}_data.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["Layer ID", "Batch Number", "Token", "Activated Expert IDs"])
            for layer in range(3):
                for token in range(6):
                    writer.writerow([layer + 1, 0, ("conserv", "1", ",")[token % 3], IDS[token, layer].tolist()])


def phone(path: Path) -> None:
    lines = ["# route_trace v1", "# model=/data/x.gguf arch=qwen3moe n_layer=3 n_expert=8 n_expert_used=2"]
    lines += [f"# layer={layer} expert_bytes=1000 dense_bytes=10" for layer in range(3)]
    lines.append("turn,phase,step,layer,slot,expert,weight,residency,expert_bytes")
    for (token, layer, rank), expert in np.ndenumerate(IDS):
        lines.append(f"0,{int(token > 3)},{token},{layer},{rank},{expert},0.5,{token % 2},1000")
    path.write_text("\n".join(lines) + "\n")


def flame(path: Path) -> None:
    path.mkdir()
    for layer in range(3):
        scores = pa.array([[0.5, 0.25]] * 6, pa.list_(pa.float16(), 2))
        table = pa.table({"scores": scores, "indices": pa.array(IDS[:, layer].tolist(), pa.list_(pa.int16(), 2))})
        parquet.write_table(table, path / f"layer_{layer + 2:02d}.parquet")


def chaos(path: Path) -> None:
    path.mkdir()
    steps = [IDS[:4], IDS[4:5], IDS[5:]]
    passes = [{"0": None} | {str(2 * layer + 1): rows[:, layer].tolist() for layer in range(3)} for rows in steps]
    for name in ("0.json", "1.json"):
        (path / name).write_text(json.dumps(passes))


def cache_lab(path: Path) -> None:
    path.mkdir()
    head = {"experts_per_token": 2, "format": "moe-cache-lab.routing-jsonl", "format_version": 1, "num_experts": 8}
    for name in ("00-cal.jsonl", "01-cal.jsonl"):
        rows: list[dict[str, Any]] = [head | {"model_id": "granite", "record_type": "metadata"}]
        for low, high, phase in ((0, 4, "prompt"), (4, 5, "generated"), (5, 6, "generated")):
            for layer in range(3):
                rows += [
                    {"layer": layer, "phase": phase, "record_type": "routing_selection", "token_id": 7 + token,
                     "selected_experts": IDS[token, layer].tolist(), "selected_probabilities": [0.5, 0.25],
                     "token_position": token} for token in range(low, high)
                ]  # fmt: skip
        (path / name).write_text("\n".join(map(json.dumps, rows)) + "\n")


def study(path: Path) -> None:
    path.mkdir()
    for name in ("turn0_req_a", "turn1_req_b"):
        np.savez(path / f"{name}.npz", routed_experts=IDS.astype(np.uint8))
        usage = {"prompt_tokens": 4, "completion_tokens": 3}
        (path / f"{name}.json").write_text(json.dumps({"request_id": name, "usage": usage}))


def mixtral(path: Path) -> None:
    """Runs the page's own lines on JSON lines as OLMoE's script writes them: axes [tokens, k, layers]."""
    rows = [{"input_ids": list(range(6)), "predicted_token_ids": [0] * 6, "exp_ids": np.moveaxis(IDS, 1, 2).tolist()}]
    (path.parent / "c4_results.jsonl").write_text("\n".join(map(json.dumps, rows * 2)) + "\n")
    (code,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    exec(code, {})


def toy(path: Path) -> None:
    """The toy of shijiuzhang/moe-cache-eval, worked out from its README: 0 1, 0 2, 0 1, 0 3, 0 1 in every layer."""
    lines = ["event_index,scheduler_step,layer,requested_experts,misses,hits"]
    for step, other in enumerate((1, 2, 1, 3, 1)):
        hits = f"{1 + (step == 0)},{int(step > 0)}"
        lines += [f"{3 * step + layer},{step},{layer},0 {other},{hits}" for layer in range(3)]
    path.write_text("\n".join(lines) + "\n")


SAMPLES: dict[str, Callable[[Path], None]] = {
    "recordings": fingerprints,
    "law": esft,
    "training_data_eamc": beyond,
    "qwen.route.csv": phone,
    "iter_5473": flame,
    "abstract_algebra": chaos,
    "traces": cache_lab,
    "routing": study,
    "mixtral.npz": mixtral,
    "events.csv": toy,
}
"""What is imported on the page, and what makes one."""


def test_every_import_has_a_sample() -> None:
    assert [line[3] for line in IMPORTS] == list(SAMPLES)


@pytest.mark.parametrize("line", IMPORTS, ids=lambda line: line[3])
def test_the_imports(lrcsim, line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    SAMPLES[line[3]](tmp_path / line[3])
    outcome = lrcsim(*line[1:])
    assert outcome.code == 0, outcome.err
    assert lrcsim("trace", "check", line[5]).code == 0
    with RoutingTrace.open(line[5]) as trace:
        name = line[3]
        if name in ("law", "events.csv"):
            assert (trace.num_layers, trace.top_k) == {"law": (2, 6), "events.csv": (3, 2)}[name]
        else:
            assert trace.experts[:6].tolist() == IDS.tolist()
        requests = 1 if name in ("qwen.route.csv", "iter_5473", "events.csv") else 2
        assert trace.num_requests == requests
        with_ids = name in ("traces", "mixtral.npz")
        assert ("token_ids" in trace.columns) == with_ids
        if name in ("qwen.route.csv", "abstract_algebra", "traces", "routing"):
            assert trace.phase is not None
            assert trace.phase[:6].tolist() == [0, 0, 0, 0, 1, 1]
        if name == "events.csv":
            counts = simulate(trace, "lru", 2).counts
            assert (int(counts.accesses.sum()), int(counts.misses.sum())) == (30, 18)


def test_split_and_run_as_the_page_says(lrcsim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    with RoutingTrace.open() as bundled:
        bundled.save("traffic.h5")
    lines = [line for line in FENCES.splitlines() if line.startswith(("lrcsim trace split", "lrcsim run"))]
    assert len(lines) == 2
    for line in lines:
        assert lrcsim(*shlex.split(line)[1:]).code == 0
    with RoutingTrace.open("test.h5") as test:
        rates = [simulate(test, "static", "2x", profile=profile).hit_rate for profile in ("self", "fit.h5")]
    said = re.search(r"`static` hits ([\d.]+) % of test.h5 by its own counts, ([\d.]+) %", TEXT)
    assert said is not None
    assert [f"{100 * rate:.1f}" for rate in rates if rate is not None] == list(said.groups())
