"""A GGUF file as a model on the command line: models, plan, run, sweep, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrcsim import hardware
from lrcsim.hardware import load_profile
from lrcsim.traces import LayerTable, RoutingTrace

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from gguf_files import block, write

KEYS = {"block_count": 3, "expert_used_count": 2, "attention.head_count": 4, "attention.head_count_kv": 2}

ASKED = {"models": (), "plan": ("--hardware", "rtx-3090", "--context", "1k")}


def tensors(layers: int = 3, moe: bool = True) -> dict[str, tuple[tuple[int, ...], str]]:
    """Layers of 16 experts of 512 wide, the first ones stored finer; a window in the first two of each three."""
    found: dict[str, tuple[tuple[int, ...], str]] = {
        "token_embd.weight": ((256, 4096), "q4_k"), "output.weight": ((256, 4096), "q6_k")
    }  # fmt: skip
    for layer in range(layers):
        kind = "q8_0" if layer == 0 else "q4_k"
        found |= block(layer, attn_q=((256, 256), "q4_k"), attn_k=((256, 128), "q4_k"), attn_v=((256, 128), "q6_k"),
                       attn_output=((256, 256), "q4_k"), ffn_norm=((256,), "f32"))  # fmt: skip
        if moe:
            found |= block(layer, ffn_gate_inp=((256, 16), "f32"), ffn_gate_exps=((256, 512, 16), kind),
                           ffn_up_exps=((256, 512, 16), kind), ffn_down_exps=((512, 256, 16), "q6_k"))  # fmt: skip
        else:
            found |= block(layer, ffn_up=((256, 512), kind), ffn_down=((512, 256), "q6_k"))
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "my models"
    folder.mkdir()
    keys = KEYS | {"attention.sliding_window": 64, "attention.sliding_window_pattern": [1, 1, 0]}
    return write(folder / "Some-16x-UD-Q4_K_XL.gguf", keys, tensors(), "some")


def test_models_shows_what_is_stored(lrcsim: Callable[..., Any], file: Path) -> None:
    code, out, err = lrcsim("models", str(file))
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "Some-16x, from GGUF file Some-16x-UD-Q4_K_XL.gguf, architecture some"
    assert "layers: 3, 3 of them MoE with 16 experts, 2 per token" in lines
    assert any(
        line.startswith("stored as in its file (UD-Q4_K_XL): attention q4_k (9) and q6_k (3), ") for line in lines
    )
    # an expert: 512 blocks of 256 a matrix; q8_0 272 bytes a block, q4_k 144, q6_k 210: 377 and 249 KiB
    # the rest: 640 blocks of q4_k, 128 of q6_k, a norm, a router of 4,096 numbers: 133.2 KiB
    assert "0 377.0 KiB q8_0, q6_k 133.2 KiB q4_k, q6_k" in lines
    assert "1-2 249.0 KiB q4_k, q6_k 133.2 KiB q4_k, q6_k" in lines
    total = 512 * 16 * (2 * 272 + 4 * 144 + 3 * 210) + 3 * (640 * 144 + 128 * 210 + 1024 + 16384) + 4096 * (144 + 210)
    assert lines[-1] == (
        f"file: {file} (UD-Q4_K_XL), {total:,} bytes of tensors; KV cache in f16: 1.5 KiB per token, 2 layers keep the "
        "last 64 tokens"
    )
    data = json.loads(lrcsim("models", str(file), "--json", "-").out)
    assert (data["layers"], data["num_experts"], data["top_k"]) == (3, 16, 2)
    assert data["expert_bytes"] == [512 * (2 * 272 + 210)] + [512 * (2 * 144 + 210)] * 2
    assert (data["bytes"]["dtype"], data["file"]["bytes"], data["file"]["path"]) == ("gguf", total, str(file))
    assert [kind["layers"] for kind in data["file"]["kinds"]] == ["0", "1-2"]
    assert ["ffn_up_exps", 512, 256, "q4_k", "1-2"] in data["stored"]["tensors"]
    assert "file: " not in lrcsim("models", str(file), "--dtype", "q8_0").out


def test_plan_is_of_the_file(lrcsim: Callable[..., Any], file: Path) -> None:
    code, out, err = lrcsim("plan", f"{file}:top_k=1", "--hardware", "rtx-3090", "--context", "1k")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("Some-16x as in its file (UD-Q4_K_XL) on rtx-3090, context 1,024: ")
    assert lines[0].endswith("with llama.cpp, released")
    override = "--override-kv some.expert_used_count=int:1"
    assert lines[1] == f"  llama-server -m '{file}' {override} -c 1024 -ngl 99"
    for other in ("Which quantisation", "vllm serve", "sglang", "--kt-method", "MODEL"):
        assert other not in out
    data = json.loads(lrcsim("plan", str(file), "--hardware", "rtx-3090", "--json", "-").out)
    assert (data["dtype"], data["file"], [one["dtype"] for one in data["quantisations"]]) == (
        "gguf",
        str(file),
        ["gguf"],
    )
    assert "--override-kv" not in data["flags"][0]["command"]
    assert data["memory"]["experts"] == 16 * 512 * (2 * 272 + 4 * 144 + 3 * 210)
    asked = json.loads(lrcsim("plan", str(file), "--hardware", "rtx-3090", "--dtype", "q8_0", "--json", "-").out)
    assert asked["memory"]["experts"] == 16 * 512 * 9 * 272
    assert asked["flags"][0]["command"].startswith("llama-server -m MODEL.gguf")


def test_a_file_alone_is_planned_on_this_machine(
    lrcsim: Callable[..., Any], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever this machine is: its profile is another's."""
    asked: list[Any] = []

    def this(spec: str, overrides: Any = ()) -> Any:
        asked.append((spec, tuple(overrides)))
        return load_profile("desktop-cpu" if spec == "auto" else spec, overrides)

    monkeypatch.setattr(hardware, "load_profile", this)
    code, out, _ = lrcsim("plan", str(file))
    assert (code, asked[0]) == (0, ("auto", ()))
    assert out.startswith("Some-16x as in its file (UD-Q4_K_XL) on desktop-cpu, context 8,192: ")
    note = (
        f"Note: desktop-cpu is {load_profile('desktop-cpu').description.rstrip('.')}. lrcsim hardware auto shows each"
    )
    assert note in " ".join(out.split())
    assert "Note: " not in lrcsim("plan", str(file), "--hardware", "rtx-3090", "--context", "4k").out


def test_its_first_bytes_are_enough(lrcsim: Callable[..., Any], file: Path) -> None:
    """As ``curl -r 0-20000000`` gives them: everything is said, with a note."""
    whole = {
        command: json.loads(lrcsim(command, str(file), *more, "--json", "-").out) for command, more in ASKED.items()
    }
    total = file.stat().st_size
    weights = whole["models"]["file"]["bytes"]
    with file.open("r+b") as cut:
        cut.truncate(total - weights)
    for command, more in ASKED.items():
        code, out, err = lrcsim(command, str(file), *more, "--json", "-")
        assert code == 0, err
        said = json.loads(out)
        if command == "models":
            missing = said["file"].pop("missing")
            assert whole[command]["file"].pop("missing") == 0
            assert 0 < weights - 1024 < missing <= weights
            assert f"Note: {file} has its whole header, but " in err  # once in a process
        assert said == whole[command]
    with file.open("r+b") as cut:
        cut.truncate(1000)
    code, out, err = lrcsim("plan", str(file), *ASKED["plan"])
    assert (code, out) == (1, "")
    assert "these are its first 1,000 bytes, headers have up to some 30 MB: fetch more of it" in err


def test_a_file_that_does_not_fit(lrcsim: Callable[..., Any], file: Path) -> None:
    small = ("--hardware", "rtx-3090", "--vram", "6MiB", "--ram", "12MiB", "--reserve", "1MiB", "--context", "1k")
    data = json.loads(lrcsim("plan", str(file), *small, "--json", "-").out)
    assert data["fit"] in ("no", "flash")
    assert data["remedies"]["main_memory_bytes"] is not None or data["remedies"]["device_bytes"] is not None


def test_run_and_sweep_take_its_bytes(lrcsim: Callable[..., Any], file: Path, tmp_path: Path) -> None:
    """Whatever the trace says of its own: the file is what is asked about."""
    ids = [[[i % 16, (i + 1 + j) % 16] for j in range(3)] for i in range(40)]
    RoutingTrace.from_arrays(ids, num_experts=16, model="some", expert_bytes=1000).save(tmp_path / "t.h5")
    given = ("--policy", "lru", "--cache", "8", "--hardware", "rtx-3090")
    trace = str(tmp_path / "t.h5")
    data = json.loads(lrcsim("run", trace, *given, "--model", str(file), "--json", "-").out)
    assert data["run"]["options"]["model"] == str(file)
    finer, coarser = 512 * (2 * 272 + 210), 512 * (2 * 144 + 210)
    loads = data["cache"]["bytes_loaded"]
    assert any(loads == a * finer + b * coarser for a in range(100) for b in range(100))
    layers = LayerTable.build(3, 16, 2, expert_bytes=[finer, coarser, coarser], dense_bytes=1)
    RoutingTrace.from_arrays(ids, num_experts=16, model="some", layers=layers).save(tmp_path / "sized.h5")
    sized = json.loads(lrcsim("run", str(tmp_path / "sized.h5"), *given, "--model", str(file), "--json", "-").out)
    assert sized["time"] == data["time"]
    spec = tmp_path / "s.toml"
    lines = ["[defaults]", f'trace = "{trace}"', 'policy = "lru"', 'cache = "8"', 'hardware = "rtx-3090"']
    spec.write_text("\n".join([*lines, "[grid]", f'model = ["{file.parent}", "{file}:top_k=2"]']))
    code, out, err = lrcsim("sweep", str(spec), "--jobs", "1", "--json", "-")
    assert code == 0, err
    assert json.loads(out)


@pytest.mark.parametrize("command", ["models", "plan"])
def test_what_is_no_model_ends_in_one_line(lrcsim: Callable[..., Any], tmp_path: Path, command: str) -> None:
    write(tmp_path / "dense.gguf", KEYS, tensors(moe=False), "llama")
    (tmp_path / "cut.gguf").write_bytes(write(tmp_path / "x.gguf", KEYS, tensors()).read_bytes()[:1000])
    huge = tmp_path / "huge.gguf"
    with huge.open("wb") as target:  # says that it has a text of 2 GB, and has it
        target.write(b"GGUF" + b"\3\0\0\0" + bytes(8) + b"\1" + bytes(7) + b"\1" + bytes(7) + b"k" + b"\x08\0\0\0")
        target.write((2**31).to_bytes(8, "little"))
        target.truncate(2**31 + 100)
    for name, said in (
        ("dense.gguf", "dense.gguf is no Mixture-of-Experts model: no layer has routed experts"),
        ("cut.gguf", "cut.gguf: is cut off within its header"),
        ("huge.gguf", "is cut off, or lies: it has a text of 2,147,483,648 bytes in its header"),
        ("none.gguf", "none.gguf': give the path of a GGUF file"),
    ):
        more = () if command == "models" else ("--hardware", "rtx-3090")
        code, out, err = lrcsim(command, str(tmp_path / name), *more)
        assert (code, out) == (1, "")
        assert said in err
        assert err.count("\n") == 1
