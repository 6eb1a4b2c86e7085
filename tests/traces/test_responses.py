"""Responses of vLLM and SGLang, built as those servers write them."""

import base64
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
import zstandard
from trace_files import imported, random_experts

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers import Options, import_trace
from lrcsim.traces.importers.json_objects import objects

LAYERS, EXPERTS, TOP_K = 3, 16, 2
Json = dict[str, object]


def routing(seed: int, tokens: int) -> np.ndarray:
    return random_experts(np.random.default_rng(seed), tokens, LAYERS, EXPERTS, TOP_K)


def npy(array: np.ndarray) -> str:
    """Base64 of a .npy file, as later vLLM versions send arrays."""
    file = io.BytesIO()
    np.save(file, array)
    return base64.b64encode(file.getvalue()).decode()


def vllm_021(prompt: np.ndarray, generated: list[np.ndarray]) -> Json:
    """A completion of version 0.21: nested lists, the prompt's in the response."""
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "model": "org/some-moe",
        "choices": [
            {"index": i, "text": "[{\\", "finish_reason": "length", "routed_experts": part.tolist()}
            for i, part in enumerate(generated)
        ],
        "usage": {"prompt_tokens": len(prompt), "completion_tokens": sum(map(len, generated))},
        "prompt_routed_experts": prompt.tolist(),
    }


def vllm_later(experts: np.ndarray, prompt: int, dtype: str = "uint8", **extra: object) -> Json:
    """A chat completion of later versions: prompt and generation in one encoded array, the last token left out."""
    choice = {"index": 0, "message": {"content": "ü" * 50}, "routed_experts": npy(experts.astype(dtype))} | extra
    made = len(experts) + 1 - prompt
    return {"id": "c", "model": "m", "choices": [choice], "usage": {"prompt_tokens": prompt, "completion_tokens": made}}


def write(path: Path, responses: list[Json], form: str = "jsonl") -> Path:
    text = {
        "one": lambda: json.dumps(responses[0]),
        "list": lambda: json.dumps(responses),
        "pretty": lambda: json.dumps(responses, indent=2),
        "jsonl": lambda: "".join(json.dumps(response) + "\n" for response in responses),
    }[form]()
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    path.write_bytes(pack(text.encode()))
    return path


def test_vllm_021(tmp_path: Path) -> None:
    prompt, generated = routing(1, 5), [routing(2, 4), routing(3, 6)]
    prompt[:2] = -1  # found in the prefix cache, so not computed
    source = write(tmp_path / "r.json", [vllm_021(prompt, generated)], "one")
    back, report = imported(source, tmp_path)
    with back:
        assert back.offsets.tolist() == [0, 9, 20]
        np.testing.assert_array_equal(back.experts, np.concatenate([prompt, generated[0], prompt, generated[1]]))
        assert back.phase is not None
        assert back.phase.tolist() == [0] * 5 + [1] * 4 + [0] * 5 + [1] * 6
        assert back.model == "org/some-moe"
    assert report.format == "vllm"
    assert report.unrecorded == 2 * 2 * LAYERS * TOP_K


@pytest.mark.parametrize("form", ["list", "pretty", "jsonl"])
@pytest.mark.parametrize("name", ["r.json", "r.jsonl.gz", "r.json.zst"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
def test_vllm_later(form: str, name: str, dtype: str, tmp_path: Path) -> None:
    parts = [routing(seed, 5 + seed) for seed in range(3)]
    source = write(tmp_path / name, [vllm_later(part, 4, dtype) for part in parts], form)
    back, report = imported(source, tmp_path, num_experts=EXPERTS)
    with back:
        np.testing.assert_array_equal(back.experts, np.concatenate(parts))
        assert back.offsets.tolist() == [0, 5, 11, 18]
        assert back.phase is not None
        assert back.phase.tolist() == [0, 0, 0, 0, 1] + [0] * 4 + [1] * 2 + [0] * 4 + [1] * 3
    assert (report.format, report.requests, report.notices) == ("vllm", 3, [])


def test_vllm_described_buffer_with_a_start(tmp_path: Path) -> None:
    part = routing(4, 6)
    data = base64.b64encode(part.astype(np.uint8).tobytes()).decode()
    encoded = {"data": data, "shape": list(part.shape), "dtype": "uint8", "start": 3}
    response = vllm_later(part, 5, routed_experts=encoded)
    back, report = imported(write(tmp_path / "r.json", [response]), tmp_path)
    with back:
        assert (back.experts[:3] == -1).all()
        np.testing.assert_array_equal(back.experts[3:], part)
        assert back.phase is not None
        assert back.phase.tolist() == [0] * 5 + [1] * 4
    assert report.unrecorded == 3 * LAYERS * TOP_K


def test_vllm_token_ids_give_the_prompt_length(tmp_path: Path) -> None:
    part = routing(4, 6)
    response = vllm_later(part, 0, token_ids=[7, 8, 9])  # the token-in-token-out endpoint: no usage
    del response["usage"]
    back, _ = imported(write(tmp_path / "r.json", [response]), tmp_path)
    with back:
        assert back.phase is not None
        assert back.phase.tolist() == [0] * 4 + [1] * 2
    response["prompt_token_ids"] = [1, 2, 3, 4]
    back, _ = imported(write(tmp_path / "r.json", [response]), tmp_path)
    with back:
        assert back.token_ids is not None
        assert back.token_ids.tolist() == [1, 2, 3, 4, 7, 8]


def test_vllm_batch_output(tmp_path: Path) -> None:
    lines = [{"custom_id": "a", "response": {"status_code": 200, "body": vllm_later(routing(1, 6), 4)}}]
    back, _ = imported(write(tmp_path / "r.jsonl", lines), tmp_path)  # type: ignore[arg-type]
    with back:
        assert back.num_tokens == 6


def test_dense_layers_are_left_out(tmp_path: Path) -> None:
    part = routing(5, 8)
    whole = np.zeros((8, LAYERS + 2, TOP_K), np.int64)  # servers fill dense layers with zeros
    whole[:, [1, 3, 4]] = part
    back, report = imported(write(tmp_path / "r.json", [vllm_later(whole, 4)]), tmp_path)
    with back:
        np.testing.assert_array_equal(back.experts, part)
        assert back.layers.block.tolist() == [1, 3, 4]
    assert any("2 of 5 layers" in notice for notice in report.notices)


def flat(experts: np.ndarray, dtype: str = "<i4") -> str:
    return base64.b64encode(experts.astype(dtype).tobytes()).decode()


def sglang_native(experts: np.ndarray, prompt: int, **meta: object) -> Json:
    made = len(experts) + 1 - prompt
    info = {"prompt_tokens": prompt, "completion_tokens": made, "routed_experts": flat(experts)} | meta
    return {"text": "...", "output_ids": [1] * made, "meta_info": info}


def test_sglang_native(tmp_path: Path) -> None:
    parts = [routing(1, 7), routing(2, 9)]
    source = write(tmp_path / "r.json", [sglang_native(part, 4) for part in parts], "list")
    back, report = imported(source, tmp_path, num_layers=LAYERS, top_k=TOP_K, num_experts=EXPERTS)
    with back:
        np.testing.assert_array_equal(back.experts, np.concatenate(parts))
        assert back.phase is not None
        assert back.phase.tolist() == [0] * 4 + [1] * 3 + [0] * 4 + [1] * 5
    assert (report.format, report.unrecorded) == ("sglang", 0)


@pytest.mark.parametrize("place", ["choice", "response"])
def test_sglang_openai(place: str, tmp_path: Path) -> None:
    part = routing(1, 7)
    extras = {"sgl_ext": {"routed_experts": flat(part)}}
    choice: Json = {"index": 0, "message": {"content": ""}}
    response: Json = {
        "model": "m",
        "choices": [choice | extras if place == "choice" else choice],
        "usage": {"prompt_tokens": 4, "completion_tokens": 4},
    } | (extras if place == "response" else {})
    back, _ = imported(write(tmp_path / "r.json", [response]), tmp_path, num_layers=LAYERS, top_k=TOP_K)
    with back:
        np.testing.assert_array_equal(back.experts, part)


def test_sglang_with_a_start_length(tmp_path: Path) -> None:
    part = routing(1, 7)
    meta = {"routed_experts": flat(part[3:])}  # the client asked for routed_experts_start_len = 3
    source = write(tmp_path / "r.json", [sglang_native(part, 4, **meta)])
    back, report = imported(source, tmp_path, num_layers=LAYERS, top_k=TOP_K)
    with back:
        assert (back.experts[:3] == -1).all()
        np.testing.assert_array_equal(back.experts[3:], part[3:])
    assert report.unrecorded == 3 * LAYERS * TOP_K


def test_sglang_nested_lists_and_small_types(tmp_path: Path) -> None:
    part = routing(1, 7)
    lists = write(tmp_path / "lists.json", [sglang_native(part, 4, routed_experts=part.tolist())])
    small = sglang_native(part, 4, routed_experts=flat(part, "<u2"), routed_experts_dtype="uint16")
    back, _ = imported(lists, tmp_path)
    with back:
        np.testing.assert_array_equal(back.experts, part)
    back, _ = imported(write(tmp_path / "small.json", [small]), tmp_path, num_layers=LAYERS, top_k=TOP_K)
    with back:
        np.testing.assert_array_equal(back.experts, part)


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        ([vllm_later(routing(1, 6), 4, routed_experts=None)], "no 'routed_experts'"),
        ([vllm_later(routing(1, 6), 4, routed_experts="!!!")], "no base64"),
        ([vllm_later(routing(1, 6), 4, routed_experts=base64.b64encode(b"abc").decode())], "no .npy array"),
        ([vllm_later(routing(1, 6), 4, routed_experts=npy(np.array([{}], object)))], "no .npy array"),
        ([vllm_later(routing(1, 6), 4, routed_experts=npy(np.zeros((2, 2))))], r"must be integers \[tokens"),
        ([vllm_later(routing(1, 6), 4, routed_experts=[[[1, 2], [3]]])], "ragged"),
        ([vllm_later(routing(1, 6), 4, routed_experts={"data": "AAAA", "shape": [9, 1, 1]})], "holds 3 bytes"),
        ([vllm_later(routing(1, 6), 4, routed_experts={"data": "AAAA", "shape": "x"})], "needs uint8"),
        ([vllm_later(routing(1, 6), 40)], "prompt of 40 tokens"),
        ([vllm_later(np.zeros((6, 2, 2)), 4)], "every recorded expert id is 0"),
        ([vllm_later(routing(1, 6), 4), vllm_later(routing(1, 6)[:, :2], 4)], "import models one by one"),
        ([vllm_later(routing(1, 6), 4) | {"usage": None}], "how many tokens its prompt has"),
        ([vllm_later(routing(1, 6), 4) | {"usage": [3]}], "not of the form"),
        ([vllm_021(routing(1, 5), [routing(2, 4)[:, :1]])], "routed_experts \\[1, 2\\]"),
        ([{"choices": 3}], "no list of 'choices'"),
        ([sglang_native(routing(1, 7), 4, routed_experts=flat(routing(1, 7))[:-8])], "no multiple"),
        ([sglang_native(routing(1, 7), 4, routed_experts=None)], "no 'routed_experts'"),
        ([sglang_native(routing(1, 7), 4, completion_tokens=2)], "check --num-layers"),
        ([sglang_native(routing(1, 7), 4, routed_experts_dtype="float8")], "must be base64 of"),
    ],
)
def test_bad_responses(responses: list[Json], message: str, tmp_path: Path) -> None:
    write(tmp_path / "r.json", responses)
    native = "meta_info" in responses[0]
    options = Options(num_layers=LAYERS, top_k=TOP_K) if native else Options()
    with pytest.raises(TraceError, match=message):
        import_trace(tmp_path / "r.json", tmp_path / "out.h5", options=options)
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_sglang_needs_the_shape(tmp_path: Path) -> None:
    write(tmp_path / "r.json", [sglang_native(routing(1, 7), 4)])
    with pytest.raises(TraceError, match="give --num-layers"):
        import_trace(tmp_path / "r.json", tmp_path / "out.h5")


@pytest.mark.parametrize("cut", [1, 10, 200, 400])
def test_truncated_json(cut: int, tmp_path: Path) -> None:
    text = json.dumps(vllm_later(routing(1, 30), 4))
    (tmp_path / "r.json").write_text(text[:-cut])
    with pytest.raises(TraceError, match=r"truncated|is no JSON"):
        import_trace(tmp_path / "r.json", tmp_path / "out.h5", "vllm")


def test_objects_are_read_one_by_one_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrcsim.traces.importers.json_objects.CHUNK", 7)  # cuts inside characters, strings and numbers
    values = [{"text": 'süß, 日本 " [ {', "n": [1, -2.5e3, None], "at": i} for i in range(20)]
    for form in ("list", "pretty", "jsonl"):
        write(tmp_path / "r.json", values, form)  # type: ignore[arg-type]
        assert list(objects(tmp_path / "r.json", lambda _: None)) == values
