"""The commands of README, the tutorials, the pages of questions and others that show some print what is shown."""

from __future__ import annotations

import base64
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shown import DOCS, PAGES, QUESTIONS, with_outputs

COMMANDS = {
    "README": 1,
    "tutorial": 5,
    "metrics": 2,
    "misses": 4,
    "prediction": 1,
    "from-vllm": 10,
    "from-llamacpp": 10,
    "from-a-model-name": 10,
} | {page.stem: 1 for page in QUESTIONS}
"""At least so many commands are shown."""

NEEDS = {"from-llamacpp": ("cffi", "gguf", "xllamacpp")}
"""Packages without which a page's commands do not run."""

REAL = Path(__file__).resolve().parents[1] / "recorder/answers/vllm-0.32.0/exchanges.jsonl.gz"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_print_what_is_shown(page: Path, tmp_path: Path) -> None:
    for package in NEEDS.get(page.stem, ()):
        pytest.importorskip(package, reason="pip install '.[llamacpp]'")
    text = page.read_text(encoding="utf-8")
    assert text.count("\n$ ") >= COMMANDS[page.stem]
    assert with_outputs(text, tmp_path) == text, "if the change is meant: python tests/docs/shown.py --write"


def test_the_server_s_routing_arrives_unchanged(tmp_path: Path) -> None:
    """The stand-in script and the importer, against the trace that the script took."""
    from lrcsim.traces import RoutingTrace

    until("tutorial.md", "$ lrcsim trace check", tmp_path)
    imported, taken = RoutingTrace.open(tmp_path / "mine.h5"), RoutingTrace.open()
    assert (imported.experts == taken.experts).all()
    assert (imported.phase == taken.phase).all()
    assert imported.offsets.tolist() == taken.offsets.tolist()


def until(page: str, mark: str, folder: Path) -> None:
    """Run a page up to a mark."""
    text = (DOCS / page).read_text(encoding="utf-8")
    with_outputs(text[: text.index(mark)] + "```", folder)


def fields(value: Any) -> Any:
    """Return the names in an object, with the types of what they name."""
    if isinstance(value, dict):
        return {name: fields(inner) for name, inner in value.items()}
    return [fields(value[0])] if isinstance(value, list) else type(value).__name__


def within(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(within(inner, whole.get(name)) for name, inner in part.items())
    return within(part[0], whole[0]) if isinstance(part, list) and isinstance(whole, list) else part == whole


def test_vllm_itself_has_the_fields_of_the_stand_in(tmp_path: Path) -> None:
    """Against what a real server answered: a chat, and a prompt that was too long."""
    until("from-vllm.md", "$ wc", tmp_path)
    ours = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    with gzip.open(REAL, "rt", encoding="utf-8") as lines:
        exchanges = [json.loads(line) for line in lines]
    answer = next(json.loads(one["answer"]) for one in exchanges if one["case"] == "chat")
    refusal = next(json.loads(one["answer"]) for one in exchanges if one["status"] == 400)
    assert all(within(fields(one), fields(answer)) for one in ours[:-1])
    assert within(fields(ours[-1]), fields(refusal))
    for one in (ours[1], answer):
        rows = np.load(io.BytesIO(base64.b64decode(one["choices"][0]["routed_experts"])))
        assert rows.dtype == np.uint8
        assert len(rows) == one["usage"]["prompt_tokens"] + one["usage"]["completion_tokens"] - 1


def test_every_token_of_a_vllm_chat_ran_once(tmp_path: Path) -> None:
    """What a chat's two turns ran, put together, is the request that they were made of, less the last token."""
    from lrcsim.traces import RoutingTrace

    until("from-vllm.md", "$ lrcsim trace check", tmp_path)
    taken, found = RoutingTrace.open(), RoutingTrace.open(tmp_path / "mine.h5")
    ran = (found.experts[:] >= 0).all(axis=(1, 2))
    for chat in range(found.num_requests // 2):
        low, high = taken.offsets[2 * chat : 2 * chat + 2]
        begin, second, end = found.offsets[2 * chat : 2 * chat + 3]
        begins = second + np.flatnonzero(ran[second:end])[0]
        assert ran[begin:second].all()
        assert ran[begins:end].all()
        cached = begins - second
        assert cached % 16 == 0
        assert 0 <= second - begin - cached < 16
        assert (found.experts[begin:second] == taken.experts[low : low + second - begin]).all()
        assert (found.experts[begins:end] == taken.experts[low + cached : high - 1]).all()


def test_a_moe_trace_brings_back_what_it_was_written_of(tmp_path: Path) -> None:
    """But for the last layer of prompts, of which llama.cpp computes one token."""
    from lrcsim.traces import RoutingTrace

    text = (DOCS / "from-llamacpp.md").read_text(encoding="utf-8")
    begin, end = text.index('```python title="standin.py"'), text.index("$ lrcsim trace check")
    with_outputs(text[begin:end] + "```", tmp_path)
    taken, found = RoutingTrace.open(), RoutingTrace.open(tmp_path / "mine.h5")
    kept = np.concatenate([np.arange(*taken.offsets[at : at + 2]) for at in range(0, taken.num_requests, 2)])
    assert (found.phase == taken.phase[kept]).all()
    recorded = found.experts[:] >= 0
    assert recorded[:, :-1].all()
    assert (found.experts[:] == taken.experts[kept])[recorded].all()
    assert (recorded[:, -1].all(axis=1) | (found.phase == 0)).all()
    assert recorded[:, -1].all(axis=1).sum() == (found.phase == 1).sum() + found.num_requests
