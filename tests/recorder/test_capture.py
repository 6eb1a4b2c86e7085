"""The capture by hand: ids, weights, scores, predictions recomputed from the model's own weights; special families."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch

from lrcsim.base.errors import ConfigError
from lrcsim.recorder.capture import JOIN_TOKENS, Capture
from lrcsim.recorder.passes import sorted_by_weight
from lrcsim.recorder.predict import Recall
from lrcsim.recorder.requests import Request
from lrcsim.recorder.runs import generate, teacher_forced
from lrcsim.traces.choose_layers import choose_layers

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

IDS = [5, 9, 11, 4, 7, 33, 21, 8]


def forced(model: Any, ids: list[int] = IDS, **options: Any) -> tuple[Capture, dict[str, Any]]:
    capture = Capture(model, **options)
    with capture.on():
        return capture, teacher_forced(capture, [Request(ids, None, 0)])[0]


def test_ids_weights_scores_and_predictions_are_the_gates_own() -> None:
    model = tiny.tiny_model("olmoe")
    states: list[Any] = []
    gates = [layer.mlp.gate for layer in model.model.layers]
    hooks = [gate.register_forward_pre_hook(lambda _, args: states.append(args[0].reshape(-1, 32))) for gate in gates]
    with torch.no_grad():
        model(input_ids=torch.tensor([IDS]))
    for hook in hooks:
        hook.remove()
    _, columns = forced(model, logits=True, inputs=True, ahead=3)
    for layer, gate in enumerate(gates):
        scores = torch.nn.functional.linear(states[layer], gate.weight)
        assert (columns["router_inputs"][:, layer] == states[layer].half().numpy()).all()
        best = scores.softmax(-1).topk(2)
        assert (columns["experts"][:, layer] == best.indices.numpy()).all()
        assert np.allclose(columns["weights"][:, layer], best.values.detach().numpy(), atol=1e-3)
        assert np.allclose(columns["logits"][:, layer], scores.detach().numpy(), atol=1e-2, rtol=1e-3)
        for distance in (1, 2, 3):
            predicted = columns[f"predictions/{distance}"][:, layer]
            if distance > layer:
                assert (predicted == -1).all()
            else:
                ahead = torch.nn.functional.linear(states[layer - distance], gate.weight).topk(2).indices
                assert (predicted == ahead.numpy()).all()


def test_weights_are_sorted_where_the_router_leaves_them_unsorted() -> None:
    model = tiny.tiny_model("deepseek_v3")
    seen: list[Any] = []
    experts = model.model.layers[1].mlp.experts
    experts.register_forward_pre_hook(lambda _, args: seen.append((args[1].clone(), args[2].clone())))
    capture, columns = forced(model)
    ids, weights = seen[0]
    order = weights.argsort(dim=-1, descending=True)
    layer = capture.layer_names().index("model.layers.1.mlp.experts")
    assert (columns["experts"][:, layer] == ids.gather(1, order).numpy()).all()
    assert np.allclose(columns["weights"][:, layer], weights.gather(1, order).numpy(), atol=1e-3)


def test_hooks_change_nothing_and_leave_nothing() -> None:
    model = tiny.tiny_model("qwen3_moe")
    ids = torch.tensor([IDS])
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        capture = Capture(model, logits=True, ahead=3)
        with capture.on():
            during = model(input_ids=ids).logits
        assert capture.take()[0].rows == [8]
        after = model(input_ids=ids).logits
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert capture.take() == {}
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_long_passes_are_joined_in_order() -> None:
    model = tiny.tiny_model("mixtral")
    capture = Capture(model)
    ids = torch.randint(3, 60, (3, 40))
    with capture.on(), torch.inference_mode():
        for _ in range(JOIN_TOKENS // 100):
            model(input_ids=ids)
        frames = capture.take()[0]
        model(input_ids=ids)
        alone = capture.take()[0]
    assert frames.rows == [120] * (JOIN_TOKENS // 100)
    assert (frames.columns["experts"] == np.tile(alone.columns["experts"], (len(frames.rows), 1, 1))).all()
    # row 1 of 3, in two passes of 120 rows: positions 40..79 and 160..199
    assert frames.of(1, 3)[:80].tolist() == [*range(40, 80), *range(160, 200)]


def test_predicted_tokens_are_the_outputs_own() -> None:
    model = tiny.tiny_model("mixtral")
    ids = torch.randint(3, 60, (3, 9), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = model(input_ids=ids).logits.argmax(-1)
    capture = Capture(model)
    with capture.on():
        found = teacher_forced(capture, [Request(row, None, i) for i, row in enumerate(ids.tolist())])
        with torch.inference_mode():  # in pieces, of which only the last position's output is asked for
            state = model(input_ids=ids[:, :5], use_cache=True, logits_to_keep=2).past_key_values
            model(input_ids=ids[:, 5:], past_key_values=state, use_cache=True, logits_to_keep=1)
        pieces = capture.take()[0]
    for row, columns in enumerate(found):
        assert columns["predicted_ids"].dtype == np.int32
        assert columns["predicted_ids"].tolist() == expected[row].tolist()
        last = [-1, -1, -1, *expected[row, 3:5].tolist(), -1, -1, -1, int(expected[row, 8])]
        assert pieces.columns["predicted_ids"][pieces.of(row, 3)].tolist() == last


def test_sampled_tokens_are_not_the_predicted_ones() -> None:
    model = tiny.tiny_model("olmoe")
    capture = Capture(model)
    with capture.on():
        made = generate(capture, [Request(IDS, None, 0)], max_new_tokens=20, temperature=5.0, seed=1)[0]
        forced = teacher_forced(capture, [Request(made["token_ids"].tolist(), None, 0)])[0]
    assert made["predicted_ids"][len(IDS) - 1 :].tolist() == forced["predicted_ids"][len(IDS) - 1 :].tolist()
    assert made["predicted_ids"][len(IDS) - 1 : -1].tolist() != made["token_ids"][len(IDS) :].tolist()


def test_an_encoder_predicts_no_tokens() -> None:
    assert "predicted_ids" not in forced(tiny.tiny_model("openai_privacy_filter"))[1]
    columns = forced(tiny.tiny_model("switch_transformers"))[1]
    assert (columns["predicted_ids"] == -1).tolist() == (columns["stack"] == 0).tolist()


def test_outputs_of_other_positions_than_ran_are_refused() -> None:
    from types import SimpleNamespace

    from lrcsim.recorder.outputs import predicted_ids

    scores = torch.tensor([[[0.0, 2, 1], [3, 0, 0]]])  # 1 x 2 positions of 3 tokens
    output = SimpleNamespace(logits=scores)
    assert predicted_ids(output, 3, "cpu").tolist() == [-1, 1, 0]
    assert predicted_ids(SimpleNamespace(), 2, "cpu").tolist() == [-1, -1]
    with pytest.raises(ConfigError, match="outputs of 1 x 2 positions for 1 tokens"):
        predicted_ids(output, 1, "cpu")
    with pytest.raises(ConfigError, match="outputs of 2 x 2 positions for 5 tokens"):
        predicted_ids(SimpleNamespace(logits=scores.expand(2, 2, 3)), 5, "cpu")


def test_the_table_of_layers() -> None:
    capture, _ = forced(tiny.tiny_model("deepseek_v3"))  # block 0 is dense
    layers = capture.layers()
    assert layers.block.tolist() == [1, 2]
    assert layers.num_shared.tolist() == [1, 1]
    assert layers.num_experts.tolist() == [8, 8]
    assert layers.expert_bytes is not None
    assert layers.expert_bytes.tolist() == [4 * 3 * 32 * 16] * 2  # gate, up, down: hidden 32, width 16, float32
    assert forced(tiny.tiny_model("qwen2_moe"))[0].layers().num_shared.tolist() == [1, 1, 1]


def test_zayas_skip_is_no_expert() -> None:
    model = tiny.tiny_model("zaya")
    for layer in model.model.layers:
        layer.mlp.gate.balancing_biases[-1] = 0.8  # so that it is taken at times
    chosen: list[Any] = []
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(
            lambda gate, _, out: chosen.append(out[0].softmax(-1) + gate.balancing_biases)
        )
    _, columns = forced(model)
    want = np.stack([scores.argmax(-1).numpy() for scores in chosen], axis=1)
    assert (want == tiny.EXPERTS).any()
    want[want == tiny.EXPERTS] = -1
    assert (columns["experts"][:, :, 0] == want).all()


def test_longcats_identities_are_no_experts() -> None:
    model = tiny.tiny_model("longcat_flash")
    _, columns = forced(model)
    assert (columns["experts"] < 0).any()
    assert columns["experts"].max() < tiny.EXPERTS
    first, second = columns["experts"][:, :, 0], columns["experts"][:, :, 1]
    assert (first[second >= 0] >= 0).all()  # the missing ones come last


def test_switch_drops_beyond_the_capacity() -> None:
    model = tiny.tiny_model("switch_transformers")  # capacity 3
    capture, columns = forced(
        model, [7] * 9
    )  # equal tokens without positions: the encoder's first layer sends all to one
    encoder = columns["experts"][columns["stack"] == 0][:, 0, 0]
    assert (encoder >= 0).sum() == 3
    assert (encoder[3:] == -1).all()
    assert capture.layers().stack_names == ("encoder", "decoder")
    foreign = columns["stack"][:, None] != capture.layers().stack[None]
    assert (columns["experts"][foreign] == -1).all()


def test_nllb_runs_the_experts_that_were_chosen() -> None:
    """By hand: a block's output is the sum of its two experts' outputs, times their weights, 1 - moe_token_dropout."""
    model = tiny.tiny_model("nllb-moe")
    block = model.model.encoder.layers[1].ffn
    seen: dict[str, Any] = {}
    handles = [
        block.register_forward_hook(lambda _, args, out: seen.update(state=args[0].reshape(-1, 32), out=out)),
        block.router.register_forward_hook(lambda _, __, out: seen.update(combine=out[1].reshape(-1, tiny.EXPERTS))),
    ]
    forced(model)
    for handle in handles:
        handle.remove()
    with torch.inference_mode():
        every = torch.stack([block.experts[f"expert_{e}"](seen["state"]) for e in range(tiny.EXPERTS)], dim=1)
        expected = (seen["combine"][:, :, None] * every).sum(dim=1) * (1 - block.experts.moe_token_dropout)
    torch.testing.assert_close(seen["out"].reshape(-1, 32), expected)
    with torch.inference_mode():  # when nothing is recorded, transformers is as it was
        assert not torch.allclose(block(seen["state"][None]).reshape(-1, 32), expected)


def test_nllb_records_what_was_meant() -> None:
    model = tiny.tiny_model("nllb-moe")
    masks: list[Any] = []
    for name, module in model.named_modules():
        if name.endswith("router"):
            module.register_forward_hook(lambda _, __, out: masks.append((out[0].clone(), out[1].clone())))
    _, columns = forced(model)
    encoder = columns["experts"][columns["stack"] == 0][:, 0]
    top1, combine = masks[0]
    assert (combine > 0).sum() > 8
    for token in range(8):
        assert set(encoder[token][encoder[token] >= 0].tolist()) == set(combine[token].nonzero().flatten().tolist())
        if top1[token].any():
            assert int(top1[token].argmax()) in encoder[token]


def test_encoder_decoder_generation() -> None:
    model = tiny.tiny_model("switch_transformers")
    capture = Capture(model)
    with capture.on():
        columns = generate(capture, [Request(IDS, None, 0)], max_new_tokens=5, temperature=0.8, seed=1)[0]
    made = int((columns["stack"] == 1).sum())
    assert (columns["stack"] == 0).sum() == len(IDS)
    assert columns["phase"].tolist() == [0] * (len(IDS) + 1) + [1] * (made - 1)  # the decoder's start token is given
    assert columns["token_ids"][: len(IDS) + 1].tolist() == [*IDS, model.generation_config.bos_token_id]


def test_layers_that_run_twice_stand_twice() -> None:
    capture, columns = forced(tiny.tiny_model("inkling2_loop_text"))
    names = capture.layer_names()
    assert len(names) == columns["experts"].shape[1] == 6  # 4 blocks, two of them in two passes
    assert len(set(names)) == 4


def test_generation_stops_before_the_end_token() -> None:
    model = tiny.tiny_model("olmoe")
    capture = Capture(model)
    with capture.on():
        whole = generate(capture, [Request(IDS, None, 0)], max_new_tokens=6, temperature=0, seed=0)[0]
        assert len(whole["experts"]) == len(IDS) + 5
        end = int(whole["token_ids"][len(IDS) + 2])  # the third token sampled
        first = whole["token_ids"][len(IDS) :].tolist().index(end)
        model.generation_config.eos_token_id = end
        batch = [Request(IDS, None, 0), Request(IDS[:3], None, 1)]
        stopped = generate(capture, batch, max_new_tokens=6, temperature=0, seed=0)[0]
    assert stopped["token_ids"].tolist() == whole["token_ids"][: len(IDS) + first].tolist()
    assert (stopped["experts"] == whole["experts"][: len(IDS) + first]).all()


def test_samples_depend_on_the_request_not_on_its_batch() -> None:
    model = tiny.tiny_model("olmoe")
    capture = Capture(model)

    def tokens(batch: list[Request], seed: int) -> list[list[int]]:
        with capture.on():
            made = generate(capture, batch, max_new_tokens=8, temperature=1.0, seed=seed)
        return [columns["token_ids"].tolist() for columns in made]

    one, two = Request(IDS, None, 0), Request(IDS, None, 1)
    together = tokens([one, two], 3)
    assert together == tokens([one], 3) + tokens([two], 3)
    assert together[0] != together[1]
    assert tokens([one], 4) != tokens([one], 3)


def test_sampling_follows_the_temperature() -> None:
    from lrcsim.recorder.runs import _Sampler

    # Gumbel's trick: the largest of scores / T + noise is drawn from softmax(scores / T). Here T = 2: 1 / (1 + e^-1).
    requests = [Request([1], None, number) for number in range(4_000)]
    scores = torch.tensor([[2.0, 0.0]]).repeat(len(requests), 1)
    drawn = _Sampler(2.0, 0, requests)(None, scores).argmax(dim=1)
    assert abs(float((drawn == 0).float().mean()) - 0.7311) < 0.02


def test_rank_order_by_hand() -> None:
    ids = np.array([[[1, 2, 3]], [[4, -1, 5]], [[6, 6, 7]]], np.int32)
    weights = np.array([[[0.2, 0.5, 0.3]], [[0.1, 0.9, 0.4]], [[0.3, 0.3, 0.5]]], np.float32)
    sorted_by_weight(ids, weights)
    assert ids.tolist() == [[[2, 3, 1]], [[5, 4, -1]], [[7, 6, -1]]]
    assert np.allclose(weights, [[[0.5, 0.3, 0.2]], [[0.4, 0.1, 0]], [[0.5, 0.3, 0]]])


def test_recall_by_hand() -> None:
    # Layer 0 has no prediction. Layer 1: token 0 finds 1 of 2, token 1 finds 2 of 2; of 4 experts 3 were foreseen.
    recall = Recall()
    experts = np.array([[[0, 1], [2, 3]], [[0, 1], [4, 5]]])
    predicted = np.array([[[-1, -1], [2, 9]], [[-1, -1], [5, 4]]])
    recall.add({"experts": experts, "predictions/1": predicted, "predictions/2": np.full_like(predicted, -1)})
    assert recall.by_distance() == {1: 0.75, 2: None}


def test_a_dense_model_is_refused() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, eos_token_id=2
    )
    with pytest.raises(ConfigError, match=r"\(llama, LlamaForCausalLM\) has no MoE layers"):
        Capture(LlamaForCausalLM(config))


@pytest.mark.parametrize("kind", ["jetmoe", "deepseek_v2"])
@pytest.mark.parametrize("wanted", ["all", "ffn", "1", "0-1", "*.1.*"])
def test_chosen_layers_are_those_of_a_whole_recording(kind: str, wanted: str) -> None:
    model = tiny.tiny_model(kind)
    request = Request(IDS, None, 0)
    found = []
    for layers in (None, wanted):
        capture = Capture(model, logits=True, layers=layers)
        with capture.on():
            columns = generate(capture, [request], max_new_tokens=4, temperature=0, seed=0)[0]
        found.append((columns, capture.layer_names(), capture.layers()))
    (whole, names, table), (some, chosen, left) = found
    kept = choose_layers(wanted, len(names), names)
    assert chosen == [names[layer] for layer in kept]
    assert left.block.tolist() == table.block[kept].tolist()
    for name in ("experts", "weights", "logits"):
        np.testing.assert_array_equal(some[name], whole[name][:, kept])
    np.testing.assert_array_equal(some["token_ids"], whole["token_ids"])


def test_attention_of_jetmoe_is_left_out_by_a_word() -> None:
    names = [site.name for site in Capture(tiny.tiny_model("jetmoe"), layers="ffn").sites]
    assert names == [f"model.layers.{block}.mlp" for block in range(3)]


def test_one_layer_ahead_is_one_recorded_layer_ahead() -> None:
    """By hand: the gate of block 2, given the state that entered the gate of block 0."""
    model = tiny.tiny_model("olmoe")
    states: list[Any] = []
    handle = model.model.layers[0].mlp.gate.register_forward_pre_hook(lambda _, args: states.append(args[0]))
    capture = Capture(model, ahead=1, layers="0,2")
    with capture.on():
        columns = teacher_forced(capture, [Request(IDS, None, 0)])[0]
    handle.remove()
    with torch.inference_mode():
        scores = torch.nn.functional.linear(states[0], model.model.layers[2].mlp.gate.weight)
    np.testing.assert_array_equal(
        columns["predictions/1"][:, 1], scores.topk(tiny.TOP_K).indices.reshape(-1, tiny.TOP_K)
    )


@pytest.mark.parametrize(("wanted", "stack"), [("*encoder*", 0), ("*decoder*", 1)])
def test_one_stack_alone(wanted: str, stack: int) -> None:
    model = tiny.tiny_model("switch_transformers")
    found = []
    for layers in (None, wanted):
        capture = Capture(model, layers=layers)
        with capture.on():
            found.append(generate(capture, [Request(IDS, None, 0)], max_new_tokens=5, temperature=0, seed=1)[0])
    whole, some = found
    own = whole["stack"] == stack
    assert set(some["stack"]) == {stack}
    np.testing.assert_array_equal(some["phase"], whole["phase"][own])
    np.testing.assert_array_equal(some["token_ids"], whole["token_ids"][own])
    layers = [layer for layer in range(whole["experts"].shape[1]) if (whole["experts"][own][:, layer] >= 0).any()]
    np.testing.assert_array_equal(some["experts"], whole["experts"][own][:, layers])
