"""`lrcsim record` from end to end, as a user meets it, with a tiny model and tokenizer in a folder."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcsim.traces import RoutingTrace, check_file

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokens are bytes, in a folder as transformers saves it."""
    import tiny

    where = tmp_path_factory.mktemp("model")
    tiny.save(where)
    return where


def prompts(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text(text)
    return path


def test_generation(lrcsim: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    lines = '{"prompt": "hello", "domain": "prose"}\n{"prompt": "def f(x):", "domain": "code"}\n'
    code, said, err = lrcsim(
        "record", folder, "--prompts", prompts(tmp_path, lines), "-o", out, "--max-new-tokens", 5, "--batch", 2,
        "--predict-next", "--logits", "--router-inputs", "--json", tmp_path / "report.json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert check_file(out) == []
    with RoutingTrace.open(out) as trace:
        assert trace.domains == ["prose", "code"]
        assert trace.offsets.tolist() == [0, 5 + 4, 5 + 4 + 9 + 4]
        assert trace.token_ids is not None
        assert bytes(trace.token_ids[:5].tolist()) == b"hello"
        assert trace.phase is not None
        assert trace.phase[:9].tolist() == [0] * 5 + [1] * 4
        assert set(trace.columns) == {
            "experts", "weights", "logits", "router_inputs", "phase", "token_ids", "predicted_ids",
            "predictions/1", "predictions/2", "predictions/3",
        }  # fmt: skip
        assert trace.column("logits").dtype == np.float16
        assert trace.column("router_inputs").shape == (22, 3, 32)
        assert trace.column("router_inputs").dtype == np.float16
        about = trace.provenance
        assert about["seed"] == 0
        assert about["logits"] == "raw"
        assert about["predicted_ids"].endswith("-1 where generation computes none, as inside prompts")
        assert trace.predicted_ids is not None
        assert (trace.predicted_ids[:9] >= 0).tolist() == [False] * 4 + [True] * 5
        assert about["dtype"] == "float32"
        assert about["layers"] == [f"model.layers.{layer}.mlp.experts" for layer in range(3)]
        assert about["config"]["model_type"] == "olmoe"
        assert str(tmp_path) not in str(about["config"])  # no path of the machine beyond the name that was given
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report.items())[:2] == [("kind", "record"), ("version", 1)]
    assert report["requests"] == 2
    assert report["tokens"] == 22
    assert 0 < report["recall"]["1"] <= 1
    assert f"{100 * report['recall']['1']:.1f} % 1 ahead" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5", "prompts.txt", "report.json"]
    assert lrcsim("run", out, "--policy", "lru").code == 0


def test_the_seed_decides(lrcsim: Run, folder: Path, tmp_path: Path) -> None:
    given = prompts(tmp_path, "hello\nthere\n")

    def tokens(name: str, *options: object) -> list[int]:
        command = ("record", folder, "--prompts", given, "-o", tmp_path / name, "--max-new-tokens", 6)
        assert lrcsim(*command, *options).code == 0
        with RoutingTrace.open(tmp_path / name) as trace:
            assert trace.token_ids is not None
            return [*map(int, trace.token_ids), *map(int, trace.experts.ravel())]

    assert tokens("a.h5", "--seed", 3) == tokens("b.h5", "--seed", 3)
    assert tokens("c.h5", "--seed", 3, "--batch", 2) == tokens("a.h5", "--seed", 3)
    assert tokens("d.h5", "--seed", 4) != tokens("a.h5", "--seed", 3)
    assert tokens("e.h5", "--temperature", 0, "--seed", 1) == tokens("f.h5", "--temperature", 0, "--seed", 2)


def test_teacher_forced_is_the_text_itself(lrcsim: Run, folder: Path, tmp_path: Path) -> None:
    text = "A line.\n\nAnother line of the same text.\n"
    out = tmp_path / "out.h5"
    code, _, err = lrcsim(
        "record", folder, "--prompts", prompts(tmp_path, text), "-o", out, "--teacher-forced", "--sample-tokens", 16,
        "--domain", "prose", "--batch", 2,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert check_file(out) == []
    with RoutingTrace.open(out) as trace:
        assert trace.phase is None
        assert trace.token_ids is not None
        assert bytes(trace.token_ids[:-1].tolist()).decode() == text
        assert int(trace.token_ids[-1]) == 257  # the end of the document
        assert np.diff(trace.offsets).tolist() == [16, 16, len(text) + 1 - 32]
        assert trace.domains == ["prose"] * 3


def test_outputs_that_take_much_room_are_computed_in_smaller_batches(
    lrcsim: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrcsim.recorder import runs

    given = prompts(tmp_path, "A line.\n\nAnother line of the same text, and so on.\n")
    sizes: list[int] = []
    forced = runs.teacher_forced
    monkeypatch.setattr(
        runs, "teacher_forced", lambda capture, batch: sizes.append(len(batch)) or forced(capture, batch)
    )

    def recorded(name: str) -> tuple[str, list[int]]:
        options = ("--teacher-forced", "--sample-tokens", 16, "--batch", 3)
        done = lrcsim("record", folder, "--prompts", given, "-o", tmp_path / name, *options)
        assert done.code == 0
        with RoutingTrace.open(tmp_path / name) as trace:
            assert trace.predicted_ids is not None
            assert (trace.predicted_ids >= 0).all()
            return done.err, [*trace.predicted_ids.tolist(), *trace.experts.ravel().tolist()]

    said, together = recorded("a.h5")
    assert "requests at a time" not in said
    assert sizes == [3, 1]
    sizes.clear()
    monkeypatch.setattr(
        "lrcsim.recorder.with_transformers.OUTPUT_BYTES", 2 * 16 * 258 * 4 + 1
    )  # two samples, 258 tokens known
    said, apart = recorded("b.h5")
    assert "recorded 2 requests at a time: the outputs of one take 0 MiB" in said
    assert sizes == [2, 1, 1]  # the last sample is a shorter one
    assert together == apart


def test_standard_input_and_limit(lrcsim: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\nthree\n"))
    out = tmp_path / "out.h5"
    code, said, _ = lrcsim("record", folder, "--prompts", "-", "-o", out, "--max-new-tokens", 2, "--limit", 2)
    assert code == 0
    assert "in 2 requests" in said


def test_a_conversation_takes_the_chat_template(lrcsim: Run, folder: Path, tmp_path: Path) -> None:
    import tiny

    where = tmp_path / "chat"
    tiny.save(where, chat_template="{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}>")
    given = prompts(tmp_path, '{"prompt": "hi"}\n{"messages": [{"role": "system", "content": "be brief"}]}\n')
    out = tmp_path / "out.h5"
    assert lrcsim("record", where, "--prompts", given, "-o", out, "--max-new-tokens", 1).code == 0
    with RoutingTrace.open(out) as trace:
        assert trace.token_ids is not None
        assert bytes(trace.token_ids.tolist()) == b"<user>hi>" + b"<system>be brief>"
        assert trace.phase is not None
        assert not trace.phase.any()  # the one token sampled is never run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch", 0), "--batch must be at least 1, given 0"),
        (("--temperature", -1), "--temperature must be 0 (greedy) or above"),
        (("--dtype", "bf17"), "--dtype 'bf17' is not known, use auto, bf16, fp16, fp32, fp64; did you mean 'bf16'?"),
        (("--device", "gpu"), "--device 'gpu' is not known, use auto, cuda or cpu; did you mean 'cpu'?"),
        (("--max-new-tokens", 1_000), "is more than the 640 positions of the model"),
        (("--chat",), "needs a chat template, and the model has none"),
        (("--top-k", 2), "are for servers"),
        (("-o", "nowhere/out.h5"), "there is no folder nowhere"),
        (("--prompts", "none.txt"), "--prompts none.txt: No such file or directory"),
    ],
)
def test_one_line_of_error(
    lrcsim: Run, folder: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    given = prompts(tmp_path, "hello\n")
    code, said, err = lrcsim("record", folder, "--prompts", given, "-o", tmp_path / "out.h5", *options)
    assert (code, said) == (1, "")
    assert message in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


def test_errors_about_the_model(lrcsim: Run, folder: Path, tmp_path: Path) -> None:
    given = prompts(tmp_path, '{"token_ids": [999]}\n')
    common = ("--prompts", given, "-o", tmp_path / "out.h5")
    code, _, err = lrcsim("record", folder, *common, "--max-new-tokens", 2)
    assert (code, err) == (1, "Error: request 0 has token id 999, the model's vocabulary has 258\n")
    code, _, err = lrcsim("record", tmp_path / "no model", *common)
    assert code == 1
    assert "there is no such folder, and it is no id of a hub" in err
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit/config.json").write_text('{"model_type": "vitpose_backbone"}')
    code, _, err = lrcsim("record", tmp_path / "vit", *common)
    assert code == 1
    assert "models of type 'vitpose_backbone' cannot be recorded: it reads images" in err


def test_a_model_that_does_not_generate(tmp_path: Path) -> None:
    import tiny

    from lrcsim.base.errors import ConfigError
    from lrcsim.recorder import Prompt, Settings, record
    from lrcsim.recorder.model import Loaded

    loaded = Loaded(tiny.tiny_model("openai_privacy_filter"), None, "tiny")
    prompts = [Prompt(token_ids=(5, 9, 11, 4))]
    with pytest.raises(ConfigError, match="cannot generate text; use --teacher-forced"):
        record(loaded, prompts, tmp_path / "out.h5")
    result = record(loaded, prompts, tmp_path / "out.h5", Settings(teacher_forced=True))
    assert result.tokens == 5  # with the end of the text
    assert check_file(tmp_path / "out.h5") == []


@pytest.mark.parametrize("kind", ["switch_transformers", "nllb-moe"])
@pytest.mark.parametrize("teacher_forced", [False, True])
def test_encoder_decoder_traces_are_good(tmp_path: Path, kind: str, teacher_forced: bool) -> None:
    import tiny

    from lrcsim.recorder import Prompt, Settings, record
    from lrcsim.recorder.model import Loaded

    out = tmp_path / "out.h5"
    settings = Settings(teacher_forced=teacher_forced, max_new_tokens=4, batch=2, sample_tokens=6, predict_next=True)
    prompts = [Prompt(token_ids=(5, 9, 11, 4)), Prompt(token_ids=(7, 8, 3, 22, 14, 9))]
    result = record(Loaded(tiny.tiny_model(kind), None, "tiny"), prompts, out, settings)
    assert bool(result.notices) == (kind == "nllb-moe")
    assert check_file(out) == []
    with RoutingTrace.open(out) as trace:
        assert trace.layers.stack_names == ("encoder", "decoder")
        assert set(trace.column("stack")) == {0, 1}


def test_chosen_layers(lrcsim: Run, tmp_path: Path) -> None:
    import tiny

    where = tmp_path / "jetmoe"
    tiny.tiny_model("jetmoe").save_pretrained(where)
    given = prompts(tmp_path, '{"token_ids": [5, 9, 11, 4]}')
    command = ("record", where, "--prompts", given, "--max-new-tokens", 4, "--temperature", 0)
    whole = lrcsim(*command, "-o", tmp_path / "whole.h5")
    assert whole.code == 0
    assert "Note: 3 of the 6 MoE layers are experts inside attention" in whole.err
    assert "--layers ffn records those of the feed-forward networks only" in whole.err
    some = lrcsim(*command, "-o", tmp_path / "some.h5", "--layers", "ffn")
    assert (some.code, some.err) == (0, "")
    assert lrcsim("trace", "select", tmp_path / "whole.h5", "-o", tmp_path / "later.h5", "--layers", "ffn").code == 0
    with RoutingTrace.open(tmp_path / "some.h5") as one, RoutingTrace.open(tmp_path / "later.h5") as other:
        assert one.provenance["layers"] == [f"model.layers.{block}.mlp" for block in range(3)]
        assert one.provenance["layers"] == other.provenance["layers"]
        assert one.provenance["settings"]["layers"] == "ffn"
        assert one.layers.block.tolist() == other.layers.block.tolist() == [0, 1, 2]
        np.testing.assert_array_equal(one.experts, other.experts)
    wrong = lrcsim(*command, "-o", tmp_path / "wrong.h5", "--layers", "6")
    assert wrong.code == 1
    assert "--layers '6': the MoE layers are 0-5" in wrong.err
    assert not (tmp_path / "wrong.h5").exists()


def test_without_torch_the_command_says_how(tmp_path: Path) -> None:
    """In a process of its own, where importing torch fails."""
    script = "import sys; sys.modules['torch'] = None; from lrcsim.cli.main import main; main()"
    given = prompts(tmp_path, "hello\n")
    command = [sys.executable, "-c", script, "record", "model", "--prompts", given, "-o", tmp_path / "out.h5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: recording needs torch and transformers")
    assert done.stderr.endswith("pip install '.[record]' in a checkout of lrcsim\n")
