"""`lrcsim record MODEL.gguf`: the trace is transformers' own, in every way of running, stopped and resumed too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REASON = "torch and transformers are not installed (pip install '.[record]')"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

from as_gguf import write_gguf  # noqa: E402

from lrcsim.base.errors import ConfigError  # noqa: E402
from lrcsim.models import dense_bytes, expert_bytes, geometry_of, load_geometry  # noqa: E402
from lrcsim.recorder import Prompt, Settings, record  # noqa: E402
from lrcsim.recorder.llama_cpp import runner  # noqa: E402
from lrcsim.recorder.llama_cpp.declarations import VERSION  # noqa: E402
from lrcsim.recorder.llama_cpp.library import Library  # noqa: E402
from lrcsim.recorder.llama_cpp.runner import record_gguf  # noqa: E402
from lrcsim.recorder.model import load  # noqa: E402
from lrcsim.simulator import simulate  # noqa: E402
from lrcsim.traces import RoutingTrace, check_file  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

CHECKPOINT = Path(__file__).resolve().parents[3] / "experiments/model_family/checkpoint"
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TEXTS = ["In the beginning was the word, and the word was with code.", "def f(x):\n    return x + 1\n"]
PROMPTS = [Prompt(text=TEXTS[0], domain="prose"), Prompt(text=TEXTS[1], domain="python")]


@pytest.fixture(scope="module")
def file(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "baseline.gguf"
    model = transformers.AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    write_gguf(model, path, CHECKPOINT, CHATML)
    return path


def trace_of(path: Path) -> RoutingTrace:
    assert check_file(path) == []
    return RoutingTrace.open(path)


@pytest.mark.parametrize(
    "settings", [Settings(teacher_forced=True), Settings(max_new_tokens=6, temperature=0, chat=False)]
)
def test_the_trace_is_that_of_transformers(file: Path, settings: Settings, tmp_path: Path) -> None:
    record(load(str(CHECKPOINT), device="cpu", dtype="fp32"), PROMPTS, tmp_path / "t.h5", settings)
    record_gguf(file, PROMPTS, tmp_path / "g.h5", settings, exact=True)
    with trace_of(tmp_path / "t.h5") as theirs, trace_of(tmp_path / "g.h5") as ours:
        assert ours.columns.keys() == theirs.columns.keys()
        assert ours.domains == theirs.domains
        for name in ("experts", "token_ids", "phase"):
            if name in theirs.columns:
                assert (ours.read(name, 0, ours.num_tokens) == theirs.read(name, 0, theirs.num_tokens)).all()
        weights = (trace.read("weights", 0, trace.num_tokens).astype(float) for trace in (ours, theirs))
        assert np.abs(np.subtract(*weights)).max() < 2e-3  # both rounded to 16 bits
        mine, known = (trace.read("predicted_ids", 0, trace.num_tokens) for trace in (ours, theirs))
        assert (mine == known)[known >= 0].all()
        assert (mine >= 0).all()
        table, expected = ours.layers, theirs.layers
        for name in ("num_experts", "top_k", "expert_bytes", "block", "num_shared"):
            assert getattr(table, name).tolist() == getattr(expected, name).tolist()
        # attention of 96 x (96 + 48 + 48 + 96), two norms, a router of 64 x 96 and its 64 biases, 4 bytes each
        assert table.dense_bytes is not None
        assert set(table.dense_bytes.tolist()) == {4 * (96 * 288 + 2 * 96 + 64 * 96 + 64)}


def test_what_provenance_says(file: Path, tmp_path: Path) -> None:
    settings = Settings(max_new_tokens=4, logits=True, layers="0,2-3", batch=3)
    found = record_gguf(file, PROMPTS, tmp_path / "g.h5", settings, source="texts")
    assert found.notices == ["recorded one request at a time, as llama.cpp's context holds one here"]
    with trace_of(tmp_path / "g.h5") as trace:
        about = trace.provenance
        assert trace.model == "baseline.gguf"
        assert trace.layers.block.tolist() == [0, 2, 3]
        assert trace.column("logits").shape == (trace.num_tokens, 3, 64)
        assert about["layers"] == ["blk.0.ffn", "blk.2.ffn", "blk.3.ffn"]
        assert about["versions"]["xllamacpp"] == VERSION
        assert about["file"]["sha256"] == [hashlib.sha256(file.read_bytes()).hexdigest()]
        assert about["gguf"]["general.architecture"] == "ernie4_5-moe"
        assert (about["dtype"], about["engine"], about["logits"]) == ("f32", "llama.cpp, its defaults", "raw")
        assert about["geometry"]["stored"]["file"] == "baseline.gguf"


def test_a_trace_of_a_file_has_times_without_the_file(file: Path, tmp_path: Path) -> None:
    """And the bytes of the file: the same as with it, and as its trace says."""
    record_gguf(file, PROMPTS, tmp_path / "g.h5", Settings(max_new_tokens=4, chat=False))
    with trace_of(tmp_path / "g.h5") as trace:
        found, named = geometry_of(trace), load_geometry(file)
        assert (found.name, found.dtype, found.hidden) == ("baseline.gguf", "gguf", 96)
        assert found.stored is not None
        assert named.stored is not None
        assert found.stored.tensors == named.stored.tensors
        assert trace.expert_bytes is not None
        assert trace.layers.dense_bytes is not None
        assert expert_bytes(found).tolist() == trace.expert_bytes.tolist()
        assert dense_bytes(found)[list(found.moe_layers)].tolist() == trace.layers.dense_bytes.tolist()
        runs = [
            simulate(trace, "lru", "2x", hardware="rtx-3090", bounds=False, model=model).to_dict()["time"]
            for model in (None, found, str(file))
        ]
        assert runs[0] == runs[1] == runs[2]
        settled = simulate(trace, "lru", "2x", hardware="rtx-3090", bounds=False, model=found).to_dict()
        assert json.loads(json.dumps(settled)) == settled


def test_a_stopped_recording_goes_on(file: Path, tmp_path: Path) -> None:
    settings = Settings(max_new_tokens=5, chat=False)
    prompts = PROMPTS * 2

    def stop(requests: int, _tokens: int) -> None:
        if requests == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_gguf(file, prompts, tmp_path / "parts.h5", settings, progress=stop)
    assert not (tmp_path / "parts.h5").exists()
    with pytest.raises(ConfigError, match="unfinished recording"):
        record_gguf(file, prompts, tmp_path / "parts.h5", settings, exact=True)
    found = record_gguf(file, prompts, tmp_path / "parts.h5", settings)
    record_gguf(file, prompts, tmp_path / "whole.h5", settings)
    assert (found.requests, found.resumed) == (4, 2)
    with trace_of(tmp_path / "parts.h5") as parts, trace_of(tmp_path / "whole.h5") as whole:
        assert parts.token_ids is not None
        assert whole.token_ids is not None
        assert parts.token_ids.tolist() == whole.token_ids.tolist()
        assert (parts.experts == whole.experts).all()


def test_long_prompts_go_in_steps(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(0).integers(0, 4096, 300).tolist()
    prompts = [Prompt(token_ids=tuple(ids)), Prompt(token_ids=tuple(ids[:7]))]
    settings = Settings(teacher_forced=True, sample_tokens=307)
    record_gguf(file, prompts, tmp_path / "a.h5", settings, exact=True)
    monkeypatch.setattr(runner, "STEP", 7)
    record_gguf(file, prompts, tmp_path / "b.h5", settings, exact=True)
    with trace_of(tmp_path / "a.h5") as one, trace_of(tmp_path / "b.h5") as other:
        assert one.num_tokens == 307
        assert (np.sort(one.experts) == np.sort(other.experts)).mean() > 0.999


def test_conversations_go_by_the_files_template(file: Path, library: Library, tmp_path: Path) -> None:
    with library.model(file) as model:
        text = model.templated([{"role": "user", "content": "Hi"}], answer=True)
        assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        expected = model.tokenise(text, special=False)
        theirs = transformers.AutoTokenizer.from_pretrained(CHECKPOINT)
        assert expected == theirs(text, add_special_tokens=False)["input_ids"]
    record_gguf(file, [Prompt(text="Hi")], tmp_path / "g.h5", Settings(max_new_tokens=1))
    with trace_of(tmp_path / "g.h5") as trace:
        assert trace.token_ids is not None
        assert trace.token_ids.tolist() == expected


def test_a_text_ends_where_the_file_says(file: Path, tmp_path: Path) -> None:
    """What the model would sample third is made the end: it is not run, nor anything after it."""
    settings, prompts = Settings(max_new_tokens=6, temperature=0, chat=False), PROMPTS[:1]
    record_gguf(file, prompts, tmp_path / "whole.h5", settings, exact=True)
    with trace_of(tmp_path / "whole.h5") as whole:
        assert whole.token_ids is not None
        assert whole.phase is not None
        made = whole.token_ids[whole.phase == 1].tolist()
        prompt = int((whole.phase == 0).sum())
    end = next(token for at, token in enumerate(made) if at >= 2 and token not in made[:at])
    model = transformers.AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    write_gguf(model, tmp_path / "ends.gguf", CHECKPOINT, end=end)
    record_gguf(tmp_path / "ends.gguf", prompts, tmp_path / "short.h5", settings, exact=True)
    with trace_of(tmp_path / "short.h5") as short:
        assert short.token_ids is not None
        assert short.token_ids[prompt:].tolist() == made[: made.index(end)]
    packed = Settings(teacher_forced=True)
    record_gguf(tmp_path / "ends.gguf", PROMPTS, tmp_path / "packed.h5", packed)
    with trace_of(tmp_path / "packed.h5") as joined:
        assert joined.token_ids is not None
        assert [int(joined.token_ids[stop - 1]) for stop in joined.offsets[1:]] == [end, end]  # after each document


def test_what_llama_cpp_does_otherwise_is_said(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Any, tokens: Any, *, every: bool = False) -> None:
        raise RuntimeError("llama_decode returns 1: no room")

    settings = Settings(teacher_forced=True)
    with monkeypatch.context() as patch:
        patch.setattr("lrcsim.recorder.llama_cpp.library.Context.run", refused)
        with pytest.raises(ConfigError, match=r"baseline\.gguf: llama_decode returns 1: no room"):
            record_gguf(file, PROMPTS, tmp_path / "g.h5", settings, restart=True)
    whole = runner.read_header(file)
    fewer = {name: tensor for name, tensor in whole.tensors.items() if name != "blk.7.ffn_gate_inp.weight"}
    monkeypatch.setattr(runner, "read_header", lambda path: replace(whole, tensors=fewer))
    with pytest.raises(
        ConfigError, match=r"routed in layers 0, 1, 2, 3, 4, 5, 6, 7, experts are in 0, 1, 2, 3, 4, 5, 6$"
    ):
        record_gguf(file, PROMPTS, tmp_path / "g.h5", settings, restart=True)


def test_greedy_and_sampled_choices_by_hand() -> None:
    scores = np.array([0.0, 3.0, 1.0], np.float32)
    random = np.random.default_rng(0)
    assert runner._sample(scores, 0, random) == 1
    drawn = np.bincount([runner._sample(scores, 2.0, random) for _ in range(4000)], minlength=3) / 4000
    expected = np.exp(scores / 2) / np.exp(scores / 2).sum()
    assert np.abs(drawn - expected).max() < 0.03  # three times the standard deviation of a share of one half


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--predict-next"], "--predict-next: gates in llama.cpp are not asked"),
        (["--device", "cuda"], "--device 'cuda': GGUF files are run on the CPU"),
        (["--dtype", "bf16"], "--dtype 'bf16': a GGUF file's weights stay as they are"),
        (["--layers", "9"], "the MoE layers are 0-7"),
        (["--num-experts", "8"], "are for servers; a MODEL says them itself"),
        (["--max-new-tokens", "600"], "that is more than the 512 positions of the model"),
    ],
)
def test_wrong_options(file: Path, options: list[str], said: str, lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"token_ids": [1, 2]}))
    code, out, err = lrcsim("record", str(file), "--prompts", str(tmp_path / "p.jsonl"), "-o", "x.h5", *options)
    assert (code, out) == (1, "")
    assert said in err
    assert err.count("\n") == 1
    assert not Path("x.h5").exists()


def test_files_that_cannot_be_recorded(library: Library, lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("words")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\3\0\0\0")
    dense = transformers.MixtralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, num_local_experts=2, max_position_embeddings=64,
    )  # fmt: skip
    write_gguf(transformers.AutoModelForCausalLM.from_config(dense).float(), tmp_path / "plain.gguf")
    for name, said in (
        ("cut.gguf", "cut.gguf: is cut off"),
        ("none.gguf", "none.gguf: cannot be read (No such file or directory)"),
        ("plain.gguf", "prompt 1 is text, and the model has no tokenizer: give token_ids"),
    ):
        code, out, err = lrcsim("record", str(tmp_path / name), "--prompts", str(tmp_path / "p.txt"), "-o", "x.h5")
        assert (code, out) == (1, "")
        assert said in err
