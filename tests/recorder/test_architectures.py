"""Every MoE architecture in the installed transformers: what is recorded is what ran.

The witness knows nothing of routers, ids or arguments: it makes an expert's weights different and looks which tokens'
outputs change. Those are the tokens that the expert ran on.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tiny
import torch
from moe_types import moe_types
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lrcsim.base.errors import ConfigError
from lrcsim.recorder import families
from lrcsim.recorder.capture import Capture
from lrcsim.recorder.model import accepts
from lrcsim.recorder.requests import Request
from lrcsim.recorder.runs import generate, teacher_forced

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

NOT_BUILT = {
    "deepseek_ocr2_text": "deepseek_ocr2",
    "ernie4_5_vl_moe_text": "ernie4_5_vl_moe",
    "inkling_mm_model": "inkling_text",
    "nemo_speechlm": "nemotron_h",
    "qwen3_omni_moe": "qwen3_omni_moe_thinker",
    "qwen3_omni_moe_text": "qwen3_omni_moe_thinker",
    "step3p5": "step3p7",
    "unlimited_ocr_text": "unlimited_ocr",
}
"""Types that no tiny model is built of, and the tested type with the same layers; docs/recorder.md says why."""

TESTED = sorted(set(moe_types()) - NOT_BUILT.keys() - families.REFUSED.keys())


@pytest.fixture(scope="module", params=TESTED)
def model(request: pytest.FixtureRequest) -> Any:
    return tiny.tiny_model(request.param)


def test_each_type_is_tested_refused_or_a_part_of_a_tested_one() -> None:
    assert set(NOT_BUILT.values()) <= set(TESTED)
    text = (Path(__file__).parents[2] / "docs/recorder.md").read_text()
    for kind in (*TESTED, *NOT_BUILT, *families.REFUSED):
        assert f"`{kind}`" in text, f"docs/recorder.md does not tell of {kind}"
    for kind, reason in families.REFUSED.items():
        assert reason in " ".join(text.split()), kind


@pytest.mark.parametrize("kind", sorted(families.REFUSED.keys() & CONFIG_MAPPING.keys()))
def test_refused_with_the_reason(kind: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(families.REFUSED[kind])):
        families.refuse(CONFIG_MAPPING[kind]())


def test_recorded_ids_are_the_experts_that_ran(model: Any) -> None:
    capture = Capture(model, logits=True, ahead=1)
    calls: dict[str, list[tuple[Any, Any]]] = {}
    handles = [
        container(model, site).register_forward_pre_hook(keep(calls.setdefault(site.name, [])), with_kwargs=True)
        for site in capture.sites
    ]
    with capture.on():
        run(model, rows=2, tokens=9)
    for handle in handles:
        handle.remove()
    taken = capture.take()
    names = capture.layer_names()
    at = 0
    for stack in sorted(taken):
        experts = taken[stack].columns["experts"]
        for layer in range(experts.shape[1]):
            site = next(site for site in capture.sites if site.name == names[at])
            occurrence = names[:at].count(site.name)
            ran = witnessed(model, site, calls[site.name][occurrence])
            recorded = [set(row[row >= 0].tolist()) for row in experts[:, layer]]
            assert recorded == ran, f"{site.name}, run {occurrence}"
            at += 1
        check_columns(taken[stack].columns, capture)


def container(model: Any, site: Any) -> Any:
    """Return the module whose output, token by token, the site's experts make."""
    name = site.name.rpartition(".")[0] if type(model.get_submodule(site.name)).__name__ == "JetMoeMoA" else site.name
    return model.get_submodule(name)


def keep(calls: list[tuple[Any, Any]]) -> Any:
    def hook(_module: Any, args: Any, kwargs: Any) -> None:
        calls.append(copy.deepcopy((args, {k: v for k, v in kwargs.items() if k not in ("cache", "past_key_values")})))

    return hook


def run(model: Any, rows: int, tokens: int) -> None:
    ids = torch.randint(3, tiny.VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(1))
    given = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = ids.flip(1)
    with torch.inference_mode():
        model(**given, use_cache=False)


def witnessed(model: Any, site: Any, call: tuple[Any, Any]) -> list[set[int]]:
    """Find which experts ran on each token: the rows of the output that change with the expert's weights."""
    module = container(model, site)
    experts = site.experts[-1:] if type(model.get_submodule(site.name)).__name__ == "JetMoeMoA" else site.experts

    def output() -> Any:
        args, kwargs = copy.deepcopy(call)
        with torch.inference_mode(), families.mended(model):
            result = module(*args, **kwargs)
        result = result[0] if isinstance(result, tuple) else result
        return result.reshape(-1, result.shape[-1]).double()

    before = output()
    ran: list[set[int]] = [set() for _ in range(len(before))]
    for expert in range(site.num_experts):
        slices = [part for holder in experts for part in weights_of(holder, expert, site.num_experts)]
        kept = [part.clone() for part in slices]
        with torch.no_grad():
            for part in slices:
                part.uniform_(-1, 1)
        changed = ((output() - before).abs() > 1e-6 * before.abs().max()).any(dim=1)
        with torch.no_grad():
            for part, value in zip(slices, kept, strict=True):
                part.copy_(value)
        for token in changed.nonzero().flatten().tolist():
            ran[token].add(expert)
    return ran


def weights_of(holder: Any, expert: int, count: int) -> list[Any]:
    """Return the slices of parameters that belong to one expert."""
    if hasattr(holder, "keys"):
        return list(holder[f"expert_{expert}"].parameters())
    found = []
    for parameter in holder.parameters():
        data = parameter.detach()
        if data.ndim < 2:  # a norm that all experts share
            continue
        found.append(data[expert] if data.shape[0] == count or data.ndim == 3 else data.view(count, -1)[expert])
    return found


def check_columns(columns: dict[str, npt.NDArray[Any]], capture: Capture) -> None:
    experts, weights = columns["experts"], columns["weights"]
    assert np.isfinite(weights).all()
    assert (weights[experts < 0] == 0).all()
    assert (np.diff(np.where(experts < 0, -np.inf, weights), axis=2)[experts[:, :, 1:] >= 0] <= 0).all()
    assert columns["logits"].shape[2] == tiny.EXPERTS or columns["logits"].shape[2] == 64
    predicted = columns["predictions/1"]
    assert (predicted[:, 0] == -1).all()
    if any(site.guess for site in capture.sites):
        assert (predicted[:, 1:] >= -1).all()
        assert (predicted[:, 1:, 0] >= 0).any(axis=0).all()
    assert len(np.unique(experts)) > 3, "the router is not lively enough to test anything"


UNLIKE = {
    "doge": "a pass over several tokens mixes their routing",
    "openai_privacy_filter": "does not generate",
}


def test_padded_generation_is_single_generation_is_one_pass(model: Any) -> None:
    kind = model.config.model_type
    if not model.can_generate():
        pytest.skip("a part of a model, or one that does not generate")
    capture = Capture(model)
    short = Request([5, 9, 11, 4], None, 0)
    long = Request([7, 8, 3, 22, 14, 9, 40], None, 1)

    def routed(batch: list[Request]) -> list[Any]:
        return generate(capture, batch, max_new_tokens=4, temperature=0, seed=0)

    with capture.on():
        first, second = routed([short])[0], routed([long])[0]
        for single, request in ((first, short), (second, long)):
            made = int((single["phase"] == 1).sum())
            assert single["token_ids"][: len(request.ids)].tolist() == request.ids
            assert made <= 3  # the last token sampled is never run
        if kind not in families.ALONE:
            for single, batched in zip((first, second), routed([short, long]), strict=True):
                assert batched["token_ids"].tolist() == single["token_ids"].tolist()
                assert (batched["experts"] == single["experts"]).all()
                assert (batched["predicted_ids"] == single["predicted_ids"]).all()
        for single in (first, second):  # greedy: what is predicted comes next
            given = int((single["phase"] == 0).sum())
            inside = single["predicted_ids"][: given - 1]
            last_only = model.config.is_encoder_decoder or accepts(model, "logits_to_keep")
            assert ((inside == -1) if last_only else (inside >= 0)).all()
            assert single["predicted_ids"][given - 1 : -1].tolist() == single["token_ids"][given:].tolist()
            assert single["predicted_ids"][-1] >= 0
        if not model.config.is_encoder_decoder and kind not in UNLIKE:
            forced = teacher_forced(capture, [Request(second["token_ids"].tolist(), None, 0)])[0]
            assert (forced["experts"] == second["experts"]).all()
            known = second["predicted_ids"] >= 0
            assert (forced["predicted_ids"][known] == second["predicted_ids"][known]).all()
            assert (forced["predicted_ids"] >= 0).all()
