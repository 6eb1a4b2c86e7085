"""The family of small models: sizes by hand, training that resumes, traces that say where they come from."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.experiments.model_family import text
from lrcsim.experiments.model_family.variants import SCALES, VARIANTS, resolve
from lrcsim.traces import RoutingTrace

REASON = "torch and transformers are not installed (pip install '.[record]')"
torch = pytest.importorskip("torch", reason=REASON)
pytest.importorskip("transformers", reason=REASON)

from lrcsim.experiments.model_family import train as training  # noqa: E402
from lrcsim.experiments.model_family.__main__ import parse_runs, parse_snapshots  # noqa: E402
from lrcsim.experiments.model_family.corpus import Corpus  # noqa: E402
from lrcsim.experiments.model_family.record import RecordPlan, record_variant, trace_name  # noqa: E402
from lrcsim.experiments.model_family.variants import config_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

TINY = SCALES["test"]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Two domains of random tokens with unlike frequencies; no text is needed."""
    from tokenizers import Tokenizer, models

    random = np.random.default_rng(0)

    def tokens(low: int, count: int) -> Any:
        return (low + random.integers(0, 20, count)).astype(np.uint16)

    return Corpus(
        Tokenizer(models.BPE()),
        {"one": tokens(0, 500), "two": tokens(100, 500)},
        {"one": tokens(0, 200), "two": tokens(100, 200)},
    )


def model_of(name: str) -> Any:
    return training.make_model(VARIANTS[name], TINY, 0, "cpu")


# --- variants -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "feed_forward"),
    [
        # hidden 16, expert width 8: an expert has 3 * 16 * 8 = 384 weights, its router row 16 (and a bias of 1).
        ("baseline", 2 * 64 * (384 + 17)),
        ("32expert", 2 * 32 * (2 * 384 + 17)),
        ("top16", 2 * 64 * (384 + 17)),
        ("share1", 2 * (63 * (384 + 17) + 384)),
        ("share2", 2 * (62 * (384 + 17) + 2 * 384)),
        # one of the two layers dense: as large as 64 experts, or as 8
        ("skip1", 64 * (384 + 17) + 64 * 384),
        ("sparse2", 64 * (384 + 17) + 64 * 384),
        ("sparse2slim", 64 * (384 + 17) + 8 * 384),
    ],
)
def test_sizes_by_hand(name: str, feed_forward: int) -> None:
    model = model_of(name)
    # attention: queries and output 16 x 16, keys and values 16 x 8; two norms a layer, one at the end; vocabulary 512
    others = 2 * (2 * 256 + 2 * 128 + 2 * 16) + 16 + 2 * 512 * 16
    assert sum(p.numel() for p in model.parameters()) == feed_forward + others


def test_which_layers_have_experts() -> None:
    scale = replace(TINY, layers=8)
    for name, expected in (("baseline", range(8)), ("skip1", range(1, 8)), ("sparse2", range(1, 8, 2))):
        with torch.device("meta"):
            import transformers

            model = transformers.Ernie4_5_MoeForCausalLM(config_of(VARIANTS[name], scale))
        found = [i for i, layer in enumerate(model.model.layers) if hasattr(layer.mlp, "gate")]
        assert found == list(expected)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'share1'"):
        parse_runs("baseline,shared1")
    with pytest.raises(ConfigError, match="seed 'x'"):
        parse_runs("baseline:x")
    with pytest.raises(ConfigError, match="scale 'gpus'"):
        resolve("gpus")
    for wrong in ("0", "100", "x", "10,,30"):
        with pytest.raises(ConfigError, match="1 to 99, as 10,30"):
            parse_snapshots(wrong)
    assert (parse_snapshots(""), parse_snapshots("10, 30")) == ([], [10, 30])
    assert parse_runs("baseline, baseline:1,share1") == [("baseline", 0), ("baseline", 1), ("share1", 0)]


# --- losses and weights -------------------------------------------------------------------------------------------


def losses_of(logits: list[list[float]], chosen: list[list[int]]) -> list[float]:
    losses = training.RouterLosses(torch.nn.Module())
    losses.outputs.append((torch.tensor(logits), torch.tensor(chosen)))
    return [float(value) for value in losses.take()]


def test_router_losses_by_hand() -> None:
    # Two experts, top-1, both used once, even probabilities: 2 * (1/2 * 1/2 + 1/2 * 1/2) = 1; logsumexp of zeros: ln 2.
    assert losses_of([[0.0, 0.0], [0.0, 0.0]], [[0], [1]]) == pytest.approx([1.0, np.log(2) ** 2, 1.0])
    # Both tokens to expert 0, which has probability 3/4: 2 * (1 * 3/4) = 1.5; expert 0 has twice the mean load.
    weights = [[np.log(3), 0.0], [np.log(3), 0.0]]
    assert losses_of(weights, [[0], [0]]) == pytest.approx([1.5, np.log(4) ** 2, 2.0])


def test_small_steps_are_not_lost_in_bf16() -> None:
    # A step of 1e-3 on a weight of 1 is below half a unit of bf16 (2^-8): without float32 copies nothing would move.
    module = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        module.weight.fill_(1.0)
    weights = training.MasterWeights(module, 1e-3)
    for _ in range(10):
        module.weight.sum().backward()
        weights.step(1e-3)
    # Adam moves by the rate against the gradient's sign, weight decay 0.1 adds 1e-4 a step: 1 - 10 * 1.1e-3.
    assert float(weights.copies[0]) == pytest.approx(0.989, abs=2e-4)
    assert float(module.weight) == pytest.approx(0.98828125)  # what bf16 makes of it: 253/256


# --- training -----------------------------------------------------------------------------------------------------


class StoppedError(Exception):
    pass


def test_a_stopped_training_ends_as_if_it_had_not(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    variant = VARIANTS["share1"]

    def stop(line: dict[str, float]) -> None:
        if line["step"] == 3:
            raise StoppedError

    whole = training.train(variant, TINY, 5, corpus, tmp_path / "whole", "cpu")
    with pytest.raises(StoppedError):
        training.train(variant, TINY, 5, corpus, tmp_path / "parts", "cpu", stop)
    assert not (tmp_path / "parts/training.json").exists()
    steps: list[float] = []
    parts = training.train(variant, TINY, 5, corpus, tmp_path / "parts", "cpu", lambda line: steps.append(line["step"]))
    assert steps == [3, 4]  # the checkpoint of step 2 was the last one
    assert parts["validation_loss"] == whole["validation_loss"]
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]
    assert training.train(variant, TINY, 5, corpus, tmp_path / "parts", "cpu", stop) == parts  # done: nothing is run
    with pytest.raises(ConfigError, match="other settings"):
        training.train(variant, TINY, 6, corpus, tmp_path / "parts", "cpu")


def test_snapshots_are_kept_and_change_nothing(corpus: Corpus, tmp_path: Path) -> None:
    variant = VARIANTS["share1"]
    plain = training.train(variant, TINY, 0, corpus, tmp_path / "plain", "cpu")
    taken = training.train(variant, TINY, 0, corpus, tmp_path / "taken", "cpu", snapshots=(25, 50))
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("plain", "taken")]
    assert weights[0] == weights[1]
    assert taken["validation_loss"] == plain["validation_loss"]
    told = [json.loads((tmp_path / f"taken/{at}training.json").read_text()) for at in ("at25/", "at50/", "")]
    assert [one["steps_trained"] for one in told] == [1, 2, 4]
    assert [one["training_tokens"] for one in told] == [64, 128, 256]  # a step: 2 domains, a row of 32 tokens each
    # The model after one step of four: that of a training stopped there, at the same rates.
    models = [(tmp_path / f"taken/{at}model/model.safetensors").read_bytes() for at in ("at25/", "at50/", "")]
    assert len(set(models)) == 3
    assert training.train(variant, TINY, 0, corpus, tmp_path / "taken", "cpu", snapshots=(25, 50)) == taken
    with pytest.raises(ConfigError, match=r"at75 is not there and the training is at step 4, past 3"):
        training.train(variant, TINY, 0, corpus, tmp_path / "taken", "cpu", snapshots=(25, 75))


def test_a_snapshot_is_the_model_of_that_step(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training, "LOG_EVERY", 1)

    def stop(line: dict[str, float]) -> None:
        if line["step"] == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        training.train(VARIANTS["baseline"], TINY, 0, corpus, tmp_path, "cpu", stop, snapshots=(50,))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    model = model_of("baseline")
    training.MasterWeights(model, 1e-3).load(state["weights"])
    from safetensors.torch import load_file

    kept = load_file(tmp_path / "at50/model/model.safetensors")
    for name, parameter in model.named_parameters():
        if name in kept:  # experts are saved one by one
            assert torch.equal(kept[name], parameter.detach().to(torch.bfloat16)), name
    assert "lm_head.weight" in kept
    # the training goes on past it, and what was taken is not taken again
    training.train(VARIANTS["baseline"], TINY, 0, corpus, tmp_path, "cpu", snapshots=(50,))


def test_training_learns(corpus: Corpus, tmp_path: Path) -> None:
    result = training.train(
        VARIANTS["baseline"], replace(TINY, steps=60, learning_rate=1e-2), 0, corpus, tmp_path / "run", "cpu"
    )
    # 20 token ids are used in each domain: ln 20 = 3.0 is the best possible, ln 512 = 6.2 is knowing nothing
    assert max(result["validation_loss"].values()) < 4.5


def test_batches_depend_on_seed_and_step_alone(corpus: Corpus) -> None:
    batch = corpus.batch(3, 1, 2, 8)
    assert batch.shape == (4, 9)
    assert torch.equal(batch, corpus.batch(3, 1, 2, 8))
    assert not torch.equal(batch, corpus.batch(4, 1, 2, 8))
    assert int(batch[:2].max()) < 20
    assert int(batch[2:].min()) >= 100


# --- recording ----------------------------------------------------------------------------------------------------


def test_recorded_traces(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    training.train(VARIANTS["sparse2"], TINY, 0, corpus, run, "cpu")
    (run / "sources.json").write_text('{"one": {"licence": "none needed"}}', encoding="utf-8")
    names = {kind: trace_name("sparse2", 0, kind) for kind in ("generated", "teacher_forced")}
    plan = RecordPlan(samples=3, requests=2, new_tokens=8, columns=("weights",))
    paths = record_variant(run, corpus, TINY, plan, tmp_path / "traces", names, "cpu")
    assert sorted(path.name for path in (tmp_path / "traces").iterdir()) == sorted(names.values())
    forced, generated = (RoutingTrace.open(path) for path in paths)
    with forced, generated:
        assert forced.num_layers == 1  # the other one is dense
        assert np.diff(forced.offsets).tolist() == [32] * 6
        assert forced.domains == ["one", "two"] * 3
        assert forced.phase is None
        assert forced.token_ids is not None
        assert set(forced.columns) == {"experts", "weights", "token_ids", "predicted_ids"}
        expected = [ids for _, row in corpus.samples(3, 32) for ids in row]
        assert forced.token_ids.tolist() == expected
        assert generated.phase is not None
        for start, prompt in zip(generated.offsets, corpus.prompts(2, 24), strict=False):
            length = len(prompt[1])
            assert generated.token_ids is not None
            assert generated.token_ids[start : start + length].tolist() == prompt[1]
            assert generated.phase[start : start + length + 1].tolist() == [0] * length + [1]
        assert generated.provenance["training"]["variant"]["name"] == "sparse2"
        assert generated.provenance["text"]["one"]["licence"] == "none needed"
        assert generated.expert_bytes is not None
        assert generated.expert_bytes.tolist() == [384 * 4]


def test_a_snapshot_is_recorded_on_the_same_text_as_the_end(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    training.train(VARIANTS["baseline"], TINY, 0, corpus, run, "cpu", snapshots=(50,))
    plan = RecordPlan(samples=2, requests=0, new_tokens=1)
    traces = []
    for folder, percent in ((run / "at50", 50), (run, 100)):
        (folder / "sources.json").write_text("{}", encoding="utf-8")
        names = {"teacher_forced": trace_name("baseline", 0, "teacher_forced", percent)}
        traces += record_variant(folder, corpus, TINY, plan, tmp_path / "series", names, "cpu")
    assert [path.name for path in traces] == [f"baseline.at{part}.teacher_forced.h5" for part in (50, 100)]
    with RoutingTrace.open(traces[0]) as half, RoutingTrace.open(traces[1]) as end:
        assert np.array_equal(half.column("token_ids"), end.column("token_ids"))
        assert not np.array_equal(half.experts, end.experts)
        trained = [trace.provenance["training"] for trace in (half, end)]
    assert [one["steps_trained"] for one in trained] == [2, 4]
    assert [one["training_tokens"] for one in trained] == [128, 256]


def test_requests_recorded_at_once_are_those_recorded_alone(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    training.train(VARIANTS["share1"], TINY, 0, corpus, run, "cpu")
    (run / "sources.json").write_text("{}", encoding="utf-8")
    names = {kind: f"{kind}.h5" for kind in ("generated", "teacher_forced")}
    plan = RecordPlan(samples=2, requests=2, new_tokens=8)
    alone = record_variant(run, corpus, TINY, plan, tmp_path / "alone", names, "cpu")
    at_once = record_variant(run, corpus, TINY, plan, tmp_path / "at_once", names, "cpu", batch=3)  # of 4: 3 and 1
    for one, other in zip(alone, at_once, strict=True):
        with RoutingTrace.open(one) as a, RoutingTrace.open(other) as b:
            assert np.array_equal(a.offsets, b.offsets)
            for name in a.columns.keys() | b.columns.keys():
                assert np.array_equal(a.columns[name], b.columns[name]), name
            assert (a.provenance["settings"]["batch"], b.provenance["settings"]["batch"]) == (1, 3)


def test_held_out_windows(corpus: Corpus) -> None:
    rows = corpus.windows("one", 3, 10, (0.5, 1.0))
    held_out = corpus.held_out["one"]
    assert rows.tolist() == [held_out[start : start + 10].tolist() for start in (100, 145, 190)]


# --- text ---------------------------------------------------------------------------------------------------------


def test_a_dict_is_read_by_its_index(tmp_path: Path) -> None:
    # "about" at 0, 6 bytes; "alpha" at 6, 9; "beta" at 15, 7: in base 64, A is 0, G 6, H 7, J 9, P 15
    data = b"ABOUT\nalpha: a\nbeta: b\n"
    (tmp_path / "x.dict.dz").write_bytes(gzip.compress(data))
    (tmp_path / "x.index").write_text(
        "00-database-info\tA\tG\nbeta\tP\tH\nalpha\tG\tJ\nalpha too\tG\tJ\n", encoding="utf-8"
    )
    assert text.read_dict(tmp_path / "x") == "alpha: a\n\nbeta: b"


def test_missing_packages_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="apt-get install bible-kjv"):
        text.prepare(tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_blocks_end_at_line_ends() -> None:
    lines = "x" * 99 + "\n"
    blocks = text.cut_blocks(lines * 400)
    assert "".join(blocks) == lines * 400
    assert [len(block) for block in blocks] == [16_400, 16_400, 7_200]
