"""llama.cpp's library as declared here: its defaults, and a tiny model whose numbers are computed beside it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.experiments.validation.llama_cpp.__main__ import main
from lrcsim.experiments.validation.llama_cpp.formats import dtype_of
from lrcsim.experiments.validation.llama_cpp.software import VARIANTS
from lrcsim.experiments.validation.llama_cpp.weights import set_top_k, stored, tiny, weights_file, write
from lrcsim.models import Geometry
from lrcsim.models.formats import FORMATS
from lrcsim.recorder.llama_cpp import library as library_module
from lrcsim.recorder.llama_cpp.declarations import VERSION, check_defaults
from lrcsim.recorder.llama_cpp.library import Library

Matrix = npt.NDArray[np.float64]
TOKENS = [3, 141, 59, 26, 500, 35, 89, 79]
OLMOE = replace(tiny(), name="tiny-olmoe", qk_norm=False, kv_heads=4)


@pytest.fixture(scope="module", params=[tiny(), OLMOE], ids=["qwen3moe", "olmoe"])
def geometry(request: pytest.FixtureRequest) -> Geometry:
    return request.param


@pytest.fixture(scope="module")
def exact(library: Library, geometry: Geometry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file with all weights in float32."""
    with weights_file(tmp_path_factory.mktemp("weights"), geometry, "f32", library) as path:
        yield path
    assert not path.exists()


def normalised(x: Matrix, weight: Matrix) -> Matrix:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * weight


def rotated(x: Matrix) -> Matrix:
    """Rotary position embedding in halves (arXiv 2104.09864, the layout of GPT-NeoX); x [tokens, heads, head_dim]."""
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None, None] * 10000.0 ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], axis=-1)


def attention(geometry: Geometry, w: Any, x: Matrix) -> Matrix:
    q, k, v = (x @ w(f"attn_{name}").T for name in "qkv")
    heads = [q.reshape(len(x), -1, geometry.head_dim), k.reshape(len(x), -1, geometry.head_dim)]
    if geometry.qk_norm:
        q, k = (normalised(one, w(f"attn_{name}_norm")) for one, name in zip(heads, "qk", strict=True))
    else:
        q, k = (normalised(one, w(f"attn_{name}_norm")) for one, name in zip((q, k), "qk", strict=True))
    q, k = (rotated(one.reshape(len(x), -1, geometry.head_dim)) for one in (q, k))
    shared = geometry.heads // geometry.kv_heads
    k, v = (np.repeat(one.reshape(len(x), -1, geometry.head_dim), shared, axis=1) for one in (k, v))
    score = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(geometry.head_dim)
    score[:, np.triu(np.ones((len(x), len(x)), bool), 1)] = -np.inf
    share = np.exp(score - score.max(axis=-1, keepdims=True))
    share /= share.sum(axis=-1, keepdims=True)
    out: Matrix = np.einsum("hij,jhd->ihd", share, v).reshape(len(x), -1) @ w("attn_output").T
    return out


def experts(geometry: Geometry, w: Any, x: Matrix) -> Matrix:
    score = x @ w("ffn_gate_inp").T
    share = np.exp(score - score.max(axis=-1, keepdims=True))
    share /= share.sum(axis=-1, keepdims=True)
    out = np.zeros_like(x)
    for i, row in enumerate(x):
        chosen = np.argsort(-share[i])[: geometry.top_k]
        weight = share[i, chosen] / (share[i, chosen].sum() if geometry.qk_norm else 1.0)  # Qwen3 makes them add up
        for j, expert in enumerate(chosen):
            gate, up = w("ffn_gate_exps")[expert] @ row, w("ffn_up_exps")[expert] @ row
            out[i] += weight[j] * (w("ffn_down_exps")[expert] @ (gate / (1 + np.exp(-gate)) * up))
    return out


def by_hand(geometry: Geometry, path: Path, tokens: list[int]) -> Matrix:
    """The last token's logits from the definition of the model, in float64."""
    import gguf

    found = {tensor.name: np.asarray(tensor.data, np.float64) for tensor in gguf.GGUFReader(path).tensors}
    x = found["token_embd.weight"][tokens]
    for layer in range(geometry.layers):

        def w(name: str, layer: int = layer) -> Matrix:
            return found[f"blk.{layer}.{name}.weight"]

        x = x + attention(geometry, w, normalised(x, w("attn_norm")))
        x = x + experts(geometry, w, normalised(x, w("ffn_norm")))
    logits: Matrix = found["output.weight"] @ normalised(x[-1], found["output_norm.weight"])
    return logits


def test_a_file_is_the_model_that_its_geometry_says(library: Library, geometry: Geometry, exact: Path) -> None:
    """Routing, attention and experts are those of the architecture: llama.cpp's logits are those of its definition."""
    with library.model(exact) as model, model.context(32) as context:
        context.run(TOKENS)
        whole = context.logits()
        expected = by_hand(geometry, exact, TOKENS)
        assert np.abs(whole - expected).max() < 5e-3 * expected.std()  # keys and values are kept in 16 bits
        context.clear()
        for token in TOKENS:
            context.run([token])
        assert np.abs(context.logits() - expected).max() < 5e-3 * expected.std()


def test_what_is_asked_for_arrives(library: Library, geometry: Geometry, exact: Path) -> None:
    """Passed and returned structs are laid out as declared: numbers come back as they were set."""
    with library.model(exact) as model:
        assert (model.layers, model.hidden, model.vocab) == (geometry.layers, geometry.hidden, geometry.vocab)
        for threads in (1, 2):
            with model.context(512, threads) as context:
                assert (context.threads, context.tokens) == ((threads, threads), 512)
                assert library.c.llama_n_batch(context.pointer) == library.c.llama_n_ubatch(context.pointer) == 512


@pytest.mark.parametrize("dtype", ["q4_0", "q8_0", "q4_k_m", dtype_of("q6_k"), dtype_of("f16")])
def test_bytes_are_those_that_lrcsim_counts(library: Library, geometry: Geometry, dtype: str, tmp_path: Path) -> None:
    counted = sum(
        FORMATS[tensor.format].matrix_bytes(int(np.prod(tensor.shape[:-1])), tensor.shape[-1])
        for tensor in stored(geometry, dtype)
    )
    with weights_file(tmp_path, geometry, dtype, library) as path, library.model(path, repack=False) as model:
        assert model.size == counted
        with model.context(16) as context:
            context.run(TOKENS)
            assert np.isfinite(context.logits()).all()


def test_repacking_is_an_option_and_changes_no_result(library: Library, geometry: Geometry, tmp_path: Path) -> None:
    logits = {}
    with weights_file(tmp_path, geometry, "q4_0", library) as path:
        for variant, repack in VARIANTS.items():
            with library.model(path, repack=repack) as model, model.context(16) as context:
                assert repack or model.repacked == 0
                context.run(TOKENS)
                logits[variant] = context.logits()
                if variant == "default" and not model.repacked:
                    pytest.skip("this processor is not one that llama.cpp repacks Q4_0 for")
    assert np.corrcoef(logits["default"], logits["no repack"])[0, 1] > 0.99


def test_top_k_is_changed_in_the_file(library: Library, geometry: Geometry, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write(path, geometry, "f32", library)
    set_top_k(path, geometry, 5)
    with library.model(path) as model, model.context(16) as context:
        context.run(TOKENS)
        expected = by_hand(replace(geometry, top_k=5), path, TOKENS)
        assert np.abs(context.logits() - expected).max() < 5e-3 * expected.std()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system does not list a process's threads")
def test_one_thread_computes(library: Library, exact: Path) -> None:
    """In a process of its own: one thread makes no other, two make one."""
    code = f"""
import os
from lrcsim.recorder.llama_cpp.library import Library
from lrcsim.experiments.validation.llama_cpp.measure import Work, read

with Library().model({str(exact)!r}) as model:
    for threads in (1, 2):
        before = len(os.listdir("/proc/self/task"))
        with model.context(64, threads) as context:
            assert len(read(context, Work(32, 16), 0).decode) == 16
            print(len(os.listdir("/proc/self/task")) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (["0", "1"], "")


def test_what_does_not_load_says_why(library: Library, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match=r"x\.gguf: llama\.cpp does not load it: .*magic"):
        library.model(tmp_path / "x.gguf")


def test_the_log_swallows_what_is_wrong_with_it(library: Library, capfd: pytest.CaptureFixture[str]) -> None:
    """A callback raises nothing into C, and prints nothing."""

    def broken(level: int, text: Any, data: Any) -> None:
        raise ZeroDivisionError

    callback = library.ffi.callback("void(int32_t, const char *, void *)", broken, onerror=library_module._swallow)
    callback(0, library.ffi.new("char[]", b"x"), library.ffi.NULL)
    assert capfd.readouterr() == ("", "")


def test_another_layout_is_refused() -> None:
    given = SimpleNamespace(n_ctx=512, n_batch=2048)
    check_defaults("llama_context_params", given, {"n_ctx": 512, "n_batch": 2048})
    with pytest.raises(ConfigError, match=r"llama_context_params .* gives n_batch 2048, not 7: its layout is another"):
        check_defaults("llama_context_params", given, {"n_ctx": 512, "n_batch": 7})


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"cffi is not installed: pip install '\.\[llamacpp\]' in a checkout"):
        Library()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[]))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2.3")
    with pytest.raises(ConfigError, match=r"xllamacpp 1\.2\.3 is installed, and its structs are not known here"):
        Library()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: VERSION)
    with pytest.raises(ConfigError, match="xllamacpp has no shared library"):
        Library()


def test_the_command_writes_its_tables(library: Library, tmp_path: Path) -> None:
    import json

    out = ["--json", str(tmp_path / "r.json"), "--markdown", str(tmp_path / "r.md"), "--folder", str(tmp_path)]
    small = [
        "--models",
        "tiny",
        "--dtype",
        "q8_0",
        "--prompt",
        "8",
        "--decode",
        "4",
        "--repetitions",
        "3",
        "--formats",
        "q8_0,f16",
    ]
    main([*out, *small])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "r.md"]  # the weights are gone
    result = json.loads((tmp_path / "r.json").read_text("utf-8"))
    (model,) = result["measured"]["models"]
    measured = model["variants"]["default"]
    assert measured["token_s"]["median"] > 0
    assert measured["by_format"]["token_s"] > 0  # all formats of the model were measured
    assert [one["variant"] for one in result["formats"]] == ["default", "no repack"] * 2
    text = (tmp_path / "r.md").read_text("utf-8")
    assert "| tiny q8_0 | no repack |" in text
    assert "| q8_0 | default |" in text
