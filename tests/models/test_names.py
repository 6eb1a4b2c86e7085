"""Names that people type for models: each its own model, never another."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.models import expert_bytes, load_geometry, model_names
from lrcsim.models.load import _models
from lrcsim.models.names import find_named, squashed

ALIASES = {alias: name for name, (_, aliases) in _models().items() for alias in (name, *aliases)}
KNOWN = {alias.lower(): name for alias, name in ALIASES.items()}


@pytest.mark.parametrize(
    "written",
    [
        *("qwen3 30b a3b", "QWEN3_30B_A3B", "qwen3:30b-a3b", "Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b:latest"),
        *("unsloth/Qwen3-30B-A3B-GGUF", "unsloth/Qwen3-30B-A3B-Thinking-2507-GGUF", "Qwen3-30B-A3B-128K-GGUF"),
        *("ggml-org/Qwen3-30B-A3B-GGUF", "mradermacher/Qwen3-30B-A3B-i1-GGUF", " Qwen/Qwen3-30B-A3B "),
        *("https://huggingface.co/Qwen/Qwen3-30B-A3B", "hf.co/Qwen/Qwen3-30B-A3B-Base", "Qwen_Qwen3-30B-A3B"),
    ],
)
def test_ways_to_write_one_model(written: str) -> None:
    assert load_geometry(written) == load_geometry("qwen3-30b-a3b")


@pytest.mark.parametrize(
    ("written", "dtype"),
    [
        ("Qwen3-30B-A3B-Q4_K_M.gguf", "q4_k_m"),
        ("Qwen3-30B-A3B-Instruct-2507-IQ4_XS-00001-of-00002.gguf", "iq4_xs"),
        ("Qwen_Qwen3-30B-A3B-Q3_K_L.gguf", "q3_k_l"),
        ("hf.co/unsloth/Qwen3-30B-A3B-GGUF:Q6_K", "q6_k"),
        ("qwen3:30b-a3b-q8_0", "q8_0"),
        ("Qwen/Qwen3-30B-A3B-FP8", "fp8"),
        ("Qwen3-30B-A3B-AWQ", "int4-g128"),
        ("Qwen/Qwen3-30B-A3B-GPTQ-Int4", "int4-g128"),
        ("mlx-community/Qwen3-30B-A3B-4bit", "int4-g64-bias"),
        ("turboderp/Qwen3-30B-A3B-exl3-4.0bpw", "4.0bpw"),
        ("nvidia/Qwen3-30B-A3B-NVFP4", "nvfp4"),
        ("Qwen3-30B-A3B-UD-Q4_K_XL.gguf", "ud-q4_k_xl"),
        ("hf.co/unsloth/Qwen3-30B-A3B-GGUF:UD-Q2_K_XL", "ud-q2_k_xl"),
    ],
)
def test_what_a_name_says_of_the_weights(written: str, dtype: str) -> None:
    plain, named = load_geometry("qwen3-30b-a3b"), load_geometry(written)
    assert named == replace(plain, dtype=dtype, source=named.source)
    assert f"; {dtype} as the name {written!r} says" in named.source
    assert expert_bytes(named).tolist() == expert_bytes(plain, dtype).tolist()
    assert load_geometry(f"{written}:top_k=4").top_k == 4


def test_files_of_a_model_released_in_mxfp4_keep_its_experts() -> None:
    plain = load_geometry("gpt-oss-20b")
    named = load_geometry("gpt-oss-20b-Q4_K_M.gguf")
    assert expert_bytes(named).tolist() == expert_bytes(plain, "q4_k_m").tolist()
    assert load_geometry("gpt-oss:20b") == plain == load_geometry("gpt-oss-20b-MXFP4.gguf")


def test_every_name_and_alias_is_of_its_own_model() -> None:
    short = {squashed(alias.rpartition("/")[2]): name for alias, name in ALIASES.items()}
    for alias, name in ALIASES.items():
        assert load_geometry(alias).name == name
        assert short[squashed(alias.rpartition("/")[2])] == name  # what is left without owner is of one model
        for written in (alias.replace("-", " "), alias.upper(), f"{alias}-GGUF", f"someone/{alias.rpartition('/')[2]}"):
            found = find_named(written, KNOWN)
            assert found is not None
            assert (found.model, found.dtype) == (name, "")


@pytest.mark.parametrize("name", model_names())
def test_names_with_something_else_are_of_another_model(name: str) -> None:
    for other in (f"{name}-lite", f"{name}x", f"tiny-{name}", f"{name}-reap", name[:-1] + "9q", f"{name}-distill-qwen"):
        assert other in KNOWN or find_named(other, KNOWN) is None, other


@pytest.mark.parametrize(
    ("written", "says"),
    [
        *[(name, "is not a MoE") for name in ("Qwen3-32B", "qwen3:8b", "Qwen/Qwen3-14B-FP8", "Qwen3-4B-Q4_K_M.gguf")],
        *[(name, "is not a MoE") for name in ("Llama-3.3-70B-Instruct", "meta-llama/Llama-3.1-8B", "llama3.1:8b")],
        *[(name, "is not a MoE") for name in ("deepseek-r1-distill-qwen-32b", "gemma-3-27b-it", "mistral-7b", "phi-4")],
        *[(name, "is not a MoE") for name in ("Qwen2.5-Coder-32B-Instruct", "QwQ-32B", "gemma3:27b")],
        ("llama-4", "may be llama-4-scout, llama-4-maverick"),
        ("gpt-oss", "may be gpt-oss-20b, gpt-oss-120b: say which"),
        ("qwen3-30b", "did you mean 'qwen3-30b-a3b'?"),
        ("qwne3-30b", "did you mean 'qwen3-30b-a3b'?"),
        ("qwen3 235b", "did you mean 'qwen3-235b-a22b'?"),
        ("mixtrl-8x7b", "did you mean 'mixtral-8x7b'?"),
        ("deepseek-v4", "did you mean 'deepseek-v3'?"),
        ("qwen9-foo", "or TOML; there are qwen3-235b-a22b, qwen3-next-80b-a3b, "),
        ("longcat-flash", "or TOML; lrcsim models lists them"),
        ("foo", "or TOML; lrcsim models lists them"),
        ("Qwen3-30B-A3B-abliterated", "did you mean 'qwen3-30b-a3b'?"),
        (
            "Qwen3-30B-A3B-UD-IQ2_M.gguf",
            "is read as qwen3-30b-a3b: there is no dtype 'ud-iq2_m': the recipes of Unsloth's",
        ),
        ("Qwen3-30B-A3B-UD-Q8_K_XL.gguf", "give the GGUF file itself"),
        ("Qwen3-30B-A3B-Q4_K_Q.gguf", "did you mean 'qwen3-30b-a3b'?"),
        ("/models/Qwen3-30B-A3B-Q4_K_M.gguf", "there is no file"),
        ("./qwen3-30b-a3b", "there is no file"),
        ("nomodel.gguf", "there is no file 'nomodel.gguf', and no built-in model"),
        ("~/qwen3-30b-a3b", "there is no file"),
        ("", "there is no model ''"),
    ],
)
def test_what_is_said_of_other_names(written: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_geometry(written)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text("qwen3gltm-.:80b ", max_size=15))
def test_what_is_suggested_is_taken(text: str) -> None:
    try:
        load_geometry(text)
    except ConfigError as error:
        for name in re.findall(
            r"did you mean '(.+)'|(?:there are|may be) ([^:]+?)(?: \.\.\.|: say which)?$", str(error)
        ):
            for one in filter(None, ", ".join(name).split(", ")):
                assert load_geometry(one).name == one


def test_a_folder_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Qwen3 30B A3B").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        load_geometry("Qwen3 30B A3B")
