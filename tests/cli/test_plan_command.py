"""`lrcsim plan` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrcsim.cli.plan import TRACES
from lrcsim.traces import RoutingTrace
from lrcsim.traces.importers.torch_file import load

USUAL = ("plan", "--model", "lrcsim-toy-baseline", "--hardware", "rtx-3090")
HALF = ("--dtype", "f32", "--vram", "119MiB", "--reserve", "8MiB", "--context", "1k")
"""Room for about half of the bundled model's experts: they take 192 MiB, KV cache 4, the other weights about 11."""


@pytest.fixture(autouse=True)
def no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRACES, raising=False)


@pytest.fixture(scope="module")
def short_trace(tmp_path_factory: pytest.TempPathFactory) -> str:
    bundled = RoutingTrace.open()
    path = tmp_path_factory.mktemp("traces") / "short.h5"
    RoutingTrace.from_arrays(
        bundled.experts[:600],
        num_experts=bundled.num_experts,
        phase=bundled.read("phase", 0, 600),
        model=bundled.model,
        offsets=[0, 200, 400, 600],
    ).save(path)
    return str(path)


def test_answer_first(lrcsim: Callable[..., Any], short_trace: str) -> None:
    code, out, err = lrcsim(*USUAL, *HALF, "--trace", short_trace)
    assert (code, err) == (0, "")
    first = out.splitlines()[:4]
    assert first[0].startswith("lrcsim-toy-baseline as f32 on rtx-3090, context 1,024: ")
    assert first[0].endswith("with llama.cpp, released")
    assert first[1].startswith("  llama-server -m MODEL.gguf -c 1024 -ngl 99 --n-cpu-moe ")
    assert "That is n-cpu-moe: first layers' experts on the CPU. It fits with " in first[2]
    assert "First token of a prompt of 1,024 after " in first[3]
    for part in (
        "left for experts", "LRU cache, misses loaded", "<- yours", "What an upgrade would buy", "--n-cpu-moe",
        "it has no method for experts in f32", "--cpu-offload-gb", "A trace of this model",
        "Faster, but not to be had or not measured: ", "Note: a prompt of 2,048 tokens is more",
    ):  # fmt: skip
        assert part in " ".join(out.split())
    assert "--kt-method" not in out
    assert "Which quantisation" not in out


def test_formats_are_compared_where_none_is_given(lrcsim: Callable[..., Any]) -> None:
    given = ("plan", "--model", "olmoe-1b-7b", "--hardware", "rtx-3090", "--vram", "10GiB")
    code, out, err = lrcsim(*given)
    assert (code, err) == (0, "")
    assert out.startswith("olmoe-1b-7b as q8_0 on rtx-3090, context 8,192: ")
    assert "q8_0 fits whole: " in out
    assert "bf16, as released, fits with main memory: " in out
    assert "Which quantisation" in out
    assert "<- planned" in out
    data = json.loads(lrcsim(*given, "--json", "-").out)
    assert (data["dtype"], data["fit"]) == ("q8_0", "gpu")
    chosen = next(one for one in data["quantisations"] if one["dtype"] == "q8_0")
    assert chosen["tokens_per_s"] == pytest.approx(data["recommended"]["tokens_per_s"], rel=1e-3)
    asked = json.loads(lrcsim(*given, "--dtype", "q4_k_m", "--json", "-").out)
    assert (asked["dtype"], asked["quantisations"]) == ("q4_k_m", [])


def test_prompts_as_long_as_asked(lrcsim: Callable[..., Any]) -> None:
    data = json.loads(lrcsim(*USUAL, "--prompt", "100", "--json", "-").out)
    assert data["recommended"]["prompt_tokens"] == 100
    assert lrcsim(*USUAL, "--prompt", "0").code == 2


def test_counts_for_the_engine(lrcsim: Callable[..., Any], short_trace: str, tmp_path: Path) -> None:
    file = tmp_path / "COUNTS.pt"
    assert lrcsim(*USUAL, "--trace", short_trace, "--counts-out", file).code == 0
    counts = load(file)["logical_count"]
    assert counts.shape == (1, 8, 64)
    with RoutingTrace.open(short_trace) as trace:
        assert counts.sum() == trace.num_tokens * 8 * trace.top_k
    code, _, err = lrcsim(*USUAL, "--counts-out", tmp_path / "other.pt")
    assert code == 1
    assert "give one with --trace FILE" in err
    code, _, err = lrcsim(*USUAL, "--trace", short_trace, "--counts-out", tmp_path / "counts.json")
    assert code == 1
    assert "a name that ends in .pt only" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["COUNTS.pt"]


def test_no_gpu_and_no_flash(lrcsim: Callable[..., Any]) -> None:
    """Nothing is loaded where everything fits, so nothing to load over is asked for."""
    given = ("plan", "--model", "olmoe-1b-7b", "--hardware", "desktop-cpu", "--dtype", "q4_k_m", "--json", "-")
    with_flash, without = (json.loads(lrcsim(*given, *more).out) for more in ((), ("--set", "nvme=none")))
    assert without["fit"] == "gpu"
    assert without["recommended"]["tokens_per_s"] == with_flash["recommended"]["tokens_per_s"]


def test_json_only(lrcsim: Callable[..., Any], short_trace: str) -> None:
    code, out, err = lrcsim(*USUAL, *HALF, "--trace", short_trace, "--json", "-")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["fit"] == "memory"
    assert data["memory"]["total"] == 119 * 2**20
    assert data["evidence"]["kind"] == "measured"
    low, high = data["recommended"]["range"]
    assert low < data["recommended"]["tokens_per_s"] < high
    assert {flags["engine"] for flags in data["flags"]} == {"llama.cpp", "ktransformers", "vLLM", "SGLang"}


def test_json_file_and_consistency_with_run(lrcsim: Callable[..., Any], short_trace: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    assert lrcsim(*USUAL, *HALF, "--trace", short_trace, "--json", file).code == 0
    data = json.loads(file.read_text())
    budget = data["memory"]["left_for_experts"]
    lru = next(row for row in data["strategies"] if row["strategy"] == "lru")
    run = lrcsim(
        *("run", short_trace, "--cache", f"{budget}B", "--hardware", "rtx-3090", "--dtype", data["dtype"]),
        *("--runtime", lru["runtime"], "--json", "-"),
    )
    wanted = json.loads(run.out)["time"]["decode_tokens_per_s"]
    assert lru["tokens_per_s"] == pytest.approx(wanted, rel=1e-12)


def test_another_model_says_so(lrcsim: Callable[..., Any]) -> None:
    code, out, _ = lrcsim(
        "plan", "--model", "olmoe-1b-7b", "--hardware", "rtx-3090", "--dtype", "q4_k_m", "--vram", "2560MiB"
    )
    assert code == 0
    assert "No trace of olmoe-1b-7b is at hand" in out
    assert "published, from 2 sources of it and of other models" in out


def test_what_forks_give_is_said_to_be_theirs(lrcsim: Callable[..., Any]) -> None:
    code, out, _ = lrcsim("plan", "--model", "qwen3-30b-a3b", "--hardware", "rtx-4060-laptop", "--dtype", "q4_k_m")
    assert code == 0
    first, *_, faster = out[: out.index("\n\n")].splitlines()
    assert first.endswith("with llama.cpp, released")
    assert "lru-split" in faster
    assert ", forks only" in faster


def test_everything_fits(lrcsim: Callable[..., Any]) -> None:
    code, out, _ = lrcsim(*USUAL)
    assert code == 0
    assert "It fits: everything is in GPU memory." in out
    assert "no trace is needed" in out
    assert "--n-cpu-moe" not in out


def test_does_not_fit(lrcsim: Callable[..., Any]) -> None:
    code, out, _ = lrcsim("plan", "--model", "deepseek-v3", "--hardware", "rtx-4060-laptop", "--json", "-")
    assert code == 0
    data = json.loads(out)
    assert (data["fit"], data["recommended"]) == ("no", None)
    code, out, _ = lrcsim("plan", "--model", "deepseek-v3", "--hardware", "rtx-4060-laptop")
    assert code == 0
    assert "It does not fit." in out
    assert "What would fit, each alone" in out
    assert "missing, before any expert" in out


def test_folders_of_traces(
    lrcsim: Callable[..., Any], short_trace: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = str(Path(short_trace).parent)
    (tmp_path / "empty").mkdir()
    for arguments, environment in (
        (("--traces", folder), ""),
        ((), folder),
        (("--traces", folder), str(tmp_path / "no")),
    ):
        monkeypatch.setenv(TRACES, environment)
        code, out, _ = lrcsim(*USUAL, *HALF, *arguments, "--json", "-")
        assert code == 0
        assert json.loads(out)["evidence"]["traces"][0]["name"] == short_trace


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "olmoo", "--hardware", "rtx-3090"), "did you mean 'olmoe-1b-7b'?"),
        (("--model", "olmoe", "--hardware", "rtx-309"), "did you mean 'rtx-3090'"),
        ((*USUAL[1:], "--context", "lots"), "--context 'lots' is no number of tokens"),
        ((*USUAL[1:], "--context", "0"), "--context '0' is no number of tokens"),
        ((*USUAL[1:], "--vram", "24"), "--vram '24' has no unit: write 24GiB"),
        ((*USUAL[1:], "--vram", "many"), "--vram 'many' is not a size"),
        ((*USUAL[1:], "--dtype", "q4_k_n"), "did you mean 'q4_k_m'"),
        ((*USUAL[1:], "--kv-dtype", "q8"), "did you mean 'q8_0'"),
        ((*USUAL[1:], "--trace", "nowhere.h5"), "nowhere.h5"),
        ((*USUAL[1:], "--traces", "nowhere"), "there is no folder of traces 'nowhere'"),
        (("--model", "olmoe", "--hardware", "desktop-cpu", "--vram", "8GiB"), "desktop-cpu has no GPU"),
    ],
    ids=str,
)
def test_one_line_each(refused: Callable[..., None], arguments: tuple[str, ...], said: str) -> None:
    refused(said, "plan", *arguments)


def test_wrong_usage(lrcsim: Callable[..., Any]) -> None:
    code, _, err = lrcsim("plan")
    assert (code, "which MODEL? Give a GGUF file, a name" in err) == (2, True)
    code, _, err = lrcsim("plan", "olmoe", "--model", "olmoe")
    assert (code, "MODEL is given twice" in err) == (2, True)
