"""Loading a model to record: no code of a stranger runs, all weights are the checkpoint's, lost options are named."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrcsim.base.errors import ConfigError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from lrcsim.recorder import Prompt, Settings, record  # noqa: E402
from lrcsim.recorder.checkpoint import unknown_options  # noqa: E402
from lrcsim.recorder.model import load  # noqa: E402
from lrcsim.traces import RoutingTrace  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

Run = Callable[..., Any]
CODE = "open({!r}, 'w').write('ran')\n"


def saved(folder: Path, model_type: str = "mixtral", class_name: str = "") -> Path:
    """Save a tiny model as transformers does, and return its folder."""
    import tiny
    import transformers

    config = tiny.tiny_config(model_type)
    torch.manual_seed(0)
    made = (getattr(transformers, class_name) if class_name else tiny.model_class(config))(config)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("mixtral"))


@pytest.fixture
def folder(mixtral: Path, tmp_path: Path) -> Path:
    """A copy of a tiny Mixtral that a test may spoil."""
    return Path(shutil.copytree(mixtral, tmp_path / "model"))


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def refused(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(str(folder), device="cpu")
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("answer", ["y", "yes", "Y"])
def test_code_beside_a_model_is_not_run(
    lrcsim: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    folder, ran = tmp_path / "evil", tmp_path / "ran"
    folder.mkdir()
    names = {"AutoConfig": "configuration_evil.EvilConfig", "AutoModelForCausalLM": "modeling_evil.Evil"}
    config = {"model_type": "evil_moe", "architectures": ["Evil"], "auto_map": names, "num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_evil.py").write_text(
        CODE.format(str(ran)) + "from transformers import PretrainedConfig\n"
        "class EvilConfig(PretrainedConfig):\n    model_type = 'evil_moe'\n"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{answer}\nOnce upon a time\n"))
    code, said, err = lrcsim("record", folder, "--prompts", "-", "-o", tmp_path / "out.h5", "--device", "cpu")
    assert (code, said) == (1, "")
    assert err.count("\n") == 1
    assert "with code of its own (auto_map), which lrcsim does not run" in err
    assert "docs/recorder.md" in err
    assert not ran.exists()


def test_code_for_a_known_type_is_not_run_either(folder: Path, tmp_path: Path) -> None:
    """A config of a type that transformers knows and that names code too is loaded with transformers' own class."""
    ran = tmp_path / "ran"
    change_config(folder, auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M", "AutoTokenizer": ["t.T", None]})
    for name in ("c.py", "m.py", "t.py"):
        (folder / name).write_text(CODE.format(str(ran)))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate/generate.py").write_text(CODE.format(str(ran)))
    try:
        loaded = load(str(folder), device="cpu")
    except ConfigError:
        pass
    else:
        assert type(loaded.model).__name__ == "MixtralForCausalLM"
    assert not ran.exists()


def test_a_tokenizer_with_code_is_left_out(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    own = {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["tok.EvilTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    (folder / "tok.py").write_text(CODE.format(str(ran)))
    assert load(str(folder), device="cpu").tokenizer is None
    assert not ran.exists()


@pytest.mark.parametrize("value", ["someone/kernel", {"": "someone/kernel@main:attention"}])
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_kernels_of_a_hub_are_code_too(folder: Path, key: str, value: object) -> None:
    change_config(folder, **{key: value})
    assert "wants code of a hub" in refused(folder)


def test_pickled_weights_hold_tensors_only(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert load(str(folder), device="cpu").notices == ()

    class Evil:
        def __reduce__(self) -> Any:
            return open, (str(ran), "w")

    torch.save(weights | {"lm_head.weight": Evil()}, folder / "pytorch_model.bin")
    assert "hold more than tensors" in refused(folder)
    assert not ran.exists()

    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    assert "more than tensors, or are damaged" in refused(folder)


def test_parts_of_a_config_have_no_code_either(folder: Path) -> None:
    inner = {"model_type": "evil", "auto_map": {"AutoConfig": "c.C"}}
    change_config(folder, model_type="llava", text_config=inner)
    assert "is of type 'evil' with code of its own (auto_map)" in refused(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("num_hidden_layers", 10**6), ("num_local_experts", 10**9), ("num_experts", 3_000)]
)
def test_a_config_of_a_million_layers_is_not_built(folder: Path, key: str, value: int) -> None:
    change_config(folder, **{key: value})
    assert f"its config says {key} = {value}: at most 2,048 are built" in refused(folder)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "../x", "", "a/b/c", "C:\\\\models\\\\x", "x y"])
def test_what_is_no_model_is_said_at_once(name: str) -> None:
    with pytest.raises(ConfigError, match="there is no such folder, and it is no id of a hub"):
        load(name, device="cpu")


def test_a_file_is_no_model(folder: Path) -> None:
    with pytest.raises(ConfigError, match="is a file: give the folder"):
        load(str(folder / "model.safetensors"), device="cpu")


def sharded(folder: Path, second: str) -> None:
    """Divide the weights of a folder into two files, the second under another name in the index."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    where = {name: "model-1.safetensors" if at < 3 else second for at, name in enumerate(names)}
    for file in ("model-1.safetensors", second):
        save_file({name: weights[name] for name in names if where[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_weights_outside_the_folder_are_not_read(folder: Path) -> None:
    whole = Path(shutil.copytree(folder, folder.with_name("whole")))
    sharded(whole, "model-2.safetensors")
    assert load(str(whole), device="cpu").notices == ()
    for outside in ("../other.safetensors", str(folder.parent / "absolute.safetensors")):
        each = Path(shutil.copytree(folder, folder.with_name("part"), dirs_exist_ok=True))
        sharded(each, outside)
        text = refused(each)
        assert f"names the file {outside[:80]!r}" in text
        assert "which is not in that folder" in text
    for odd in (
        "[1]",
        "{",
        '{"weight_map": [1]}',
        '{"weight_map": {"a": "C:\\\\x"}}',
        '{"weight_map": {"a": "a\\\\..\\\\b"}}',
    ):
        (whole / "model.safetensors.index.json").write_text(odd)
        assert "model.safetensors.index.json" in refused(whole)


def test_a_router_that_gives_no_numbers_is_named(lrcsim: Run, folder: Path, tmp_path: Path) -> None:
    def spoil(weights: dict[str, Any]) -> None:
        weights[next(key for key in weights if "gate" in key and "layers.1." in key)][:] = float("nan")

    change_weights(folder, spoil)
    (tmp_path / "prompts").write_text(json.dumps({"token_ids": [3, 4, 5]}))
    for more in (["--max-new-tokens", "4"], ["--teacher-forced", "--sample-tokens", "2"]):
        out = tmp_path / "out.h5"
        code, _, err = lrcsim("record", folder, "--prompts", tmp_path / "prompts", "-o", out, "--device", "cpu", *more)
        assert code == 1
        assert "a router gave weights that are no numbers (layer 1 of those with experts)" in err
        assert err.count("\n") == 1


def test_settings_of_generation_are_those_that_were_asked_for(folder: Path, tmp_path: Path) -> None:
    """Beams and forbidden tokens of a folder's generation_config.json neither add rows nor choose other tokens."""

    def recorded(name: str) -> list[int]:
        settings = Settings(max_new_tokens=6, temperature=0.0)
        record(load(str(folder), device="cpu"), [Prompt(token_ids=(3, 4, 5))], tmp_path / name, settings)
        with RoutingTrace.open(tmp_path / name) as trace:
            return [int(token) for token in trace.token_ids]

    plain = recorded("plain.h5")
    own = {"num_beams": 3, "num_return_sequences": 3, "min_new_tokens": 5, "suppress_tokens": [plain[-1]],
           "no_repeat_ngram_size": 1, "do_sample": True, "top_k": 2}  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(own))
    assert recorded("own.h5") == plain


def test_weights_that_are_missing_are_named(folder: Path) -> None:
    def router_lost(weights: dict[str, Any]) -> None:
        key = next(key for key in weights if "gate" in key and "layers.1." in key)
        del weights[key]

    change_weights(folder, router_lost)
    text = refused(folder)
    assert "the checkpoint lacks 1 weight (model.layers.1." in text
    assert "that the class MixtralForCausalLM needs" in text


def test_a_checkpoint_of_another_architecture_is_refused(folder: Path) -> None:
    def renamed(weights: dict[str, Any]) -> None:
        for key in [key for key in weights if ".layers." in key]:
            weights[key.replace("layers", "blocks")] = weights.pop(key)

    change_weights(folder, renamed)
    text = refused(folder)
    assert "lacks" in text
    assert "more) that the class MixtralForCausalLM does not use" in text
    assert "what it would route means nothing" in text


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    change_config(folder, num_local_experts=4)
    assert "in another shape" in refused(folder)
    change_config(folder, num_local_experts=8, vocab_size=65)
    assert "has 2 weights (lm_head.weight, model.embed_tokens.weight) in another shape" in refused(folder)


def test_layers_that_the_config_does_not_count(folder: Path) -> None:
    change_config(folder, num_hidden_layers=2)
    assert "that the class MixtralForCausalLM does not use" in refused(folder)
    # unless it says that they predict further tokens
    change_config(folder, num_nextn_predict_layers=1)
    assert load(str(folder), device="cpu").notices[0].endswith("layers that predict further tokens are left out")


@pytest.mark.parametrize(
    "key",
    ["model.layers.0.self_attn.rotary_emb.inv_freq", "mtp.layers.0.proj.weight", "model.layers.0.self_attn.k_scale"],
)
def test_weights_that_no_model_needs_are_left_out(folder: Path, key: str) -> None:
    change_weights(folder, lambda weights: weights.update({key: torch.zeros(4)}))
    assert load(str(folder), device="cpu").notices == ()


@pytest.mark.parametrize(
    "kind",
    ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "gemma4", "llama4", "nllb-moe", "switch_transformers", "jamba",
     "dbrx", "olmoe", "granitemoe"],
)  # fmt: skip
def test_what_transformers_saves_loads_without_a_word(kind: str, tmp_path: Path) -> None:
    loaded = load(str(saved(tmp_path, kind)), device="cpu")
    assert loaded.notices == ()


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    import tiny
    import transformers

    config = tiny.tiny_config("mixtral")
    config.tie_word_embeddings = True
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path)
    assert load(str(tmp_path), device="cpu").notices == ()


def test_options_of_another_architecture_are_named(lrcsim: Run, folder: Path, tmp_path: Path) -> None:
    """LLaMA-MoE-v2 says ``mixtral`` and multiplies what its experts give by 4."""
    change_config(folder, scale_factor=4.0, num_moe_contract_layers=2, my_option="x")
    notices = load(str(folder), device="cpu").notices
    assert "num_moe_contract_layers = 2, scale_factor = 4.0" in notices[0]
    assert "route otherwise than recorded" in notices[0]
    assert "my_option = x" in notices[1]
    given = tmp_path / "prompts.jsonl"
    given.write_text('{"token_ids": [5, 6, 7]}\n')
    code, _, err = lrcsim(
        "record", folder, "--prompts", given, "-o", tmp_path / "out.h5", "--max-new-tokens", 2, "--device", "cpu"
    )
    assert code == 0
    assert "Note: the config says num_moe_contract_layers = 2, scale_factor = 4.0" in err


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("mixtral", {"scale_factor": 1.0, "n_group": 1, "use_cache": True, "new_key": None, "pretraining_tp": 4}, ""),
        ("mixtral", {"n_group": 8, "topk_group": 4}, "n_group = 8, topk_group = 4"),
        ("mixtral", {"routed_scaling_factor": 2.5}, "routed_scaling_factor = 2.5"),
        ("mixtral", {"num_shared_experts": 1}, "num_shared_experts = 1"),
        ("qwen3_moe", {"scoring_func": "sigmoid"}, "scoring_func = sigmoid"),
        ("deepseek_v3", {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1, "ep_size": 1,
                         "seq_aux": True, "aux_loss_alpha": 0.001, "num_nextn_predict_layers": 1}, ""),
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func = softmax"),
    ],
)  # fmt: skip
def test_options_with_and_without_effect(kind: str, options: dict[str, Any], says: str) -> None:
    import tiny

    config = tiny.tiny_config(kind)
    lines = unknown_options(config.to_dict() | options, config)
    if says:
        assert says in lines[0]
        assert "route otherwise" in lines[0]
    else:
        assert lines == []


def test_options_of_a_part_are_named_with_it() -> None:
    import tiny

    config = tiny.tiny_config("llama4")
    raw = config.to_dict()
    raw["text_config"]["router_temperature"] = 0.5
    assert "text_config.router_temperature = 0.5" in unknown_options(raw, config)[0]


@pytest.mark.parametrize("names", [["Trainer"], ["pipeline"], ["AutoTokenizer"], ["LlamaForCausalLM"], "x", [3], None])
def test_a_class_that_is_none_of_the_types_own_is_not_taken(folder: Path, names: object) -> None:
    change_config(folder, architectures=names)
    try:
        loaded = load(str(folder), device="cpu")
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert type(loaded.model).__name__ == "MixtralForCausalLM"


HEADLESS = [
    ("nllb-moe", "NllbMoeModel", 2), ("switch_transformers", "SwitchTransformersModel", 2),
    ("switch_transformers", "SwitchTransformersEncoderModel", 1), ("mixtral", "MixtralModel", 1),
    ("mixtral", "MixtralForSequenceClassification", 1),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "stacks"), HEADLESS, ids=[name for _, name, _ in HEADLESS])
def test_models_without_a_head_are_recorded_teacher_forced(kind: str, name: str, stacks: int, tmp_path: Path) -> None:
    """What the message advises is what works."""
    loaded = load(str(saved(tmp_path / "model", kind, name)), device="cpu")
    prompts = [Prompt(token_ids=(5, 9, 11, 4))]
    with pytest.raises(ConfigError, match=f"{name} cannot generate text; use --teacher-forced"):
        record(loaded, prompts, tmp_path / "out.h5")
    result = record(loaded, prompts, tmp_path / "out.h5", Settings(teacher_forced=True))
    assert result.tokens == 5 * stacks


def test_what_a_model_cannot_run_is_said_in_one_line(folder: Path, tmp_path: Path) -> None:
    loaded = load(str(folder), device="cpu")

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")

    loaded.model.model.layers[0].self_attn.forward = fails
    for settings in (Settings(teacher_forced=True), Settings(max_new_tokens=2)):
        with pytest.raises(ConfigError) as caught:
            record(loaded, [Prompt(token_ids=(5, 9))], tmp_path / "out.h5", settings)
        assert "MixtralForCausalLM cannot be run on the prompt (RuntimeError: CUDA out of memory" in str(caught.value)
        assert "\n" not in str(caught.value)
