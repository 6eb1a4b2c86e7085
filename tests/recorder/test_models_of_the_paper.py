"""The 20 models of arXiv 2505.16056, as docs/models-of-the-paper.md says that they come in.

Of each architecture that transformers has, a tiny random model is recorded from end to end. The witness is the model's
own router computed by hand: the state that enters it, times its weights, the k largest.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lrcsim.models import load_geometry
from lrcsim.recorder import Prompt, Settings, families, record
from lrcsim.recorder.model import Loaded
from lrcsim.traces import RoutingTrace, check_file

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

PAGE = Path(__file__).parents[2] / "docs" / "models-of-the-paper.md"
ROW = re.compile(
    r"^\| (?P<number>\d+) \| (?P<name>[^|]+) \| `(?P<geometry>[^|`]+)` \| `(?P<kind>[^|`]+)` \| (?P<way>[^|]+) \|"
)
ROWS = [found for line in PAGE.read_text().splitlines() if (found := ROW.match(line))]
RECORDED = sorted({row["kind"] for row in ROWS if row["kind"] in CONFIG_MAPPING and "recorded" in row["way"]})

ROUTER = re.compile(r"(?:layers?|block)\.(\d+)\.(?!.*atten)(?:.*\.)?(?:gate|router)$")
"""Names of the routers of feed-forward experts."""

CAPACITY = {"switch_transformers": {"expert_capacity": 64}, "nllb-moe": {"expert_capacity": 64}}
"""Room for all tokens, so that what the router chose is what ran."""


def test_the_page_has_the_20_models() -> None:
    assert [int(row["number"]) for row in ROWS] == list(range(1, 21))
    for row in ROWS:
        assert load_geometry(row["geometry"]).experts > 1
    assert len(RECORDED) == 11  # of 12 models, two of which are qwen2_moe
    assert sum(row["kind"] in RECORDED and "recorded" in row["way"] for row in ROWS) == 12
    assert len(PAGE.read_text().splitlines()) <= 120


def routers(model: Any) -> Iterator[tuple[int, int, Any, Any]]:
    """Yield stack, block, module and weights [E, hidden] of every router of feed-forward experts."""
    for name, module in model.named_modules():
        place = ROUTER.search(name)
        if place is None:
            continue
        (weight,) = [data for data in module.parameters() if data.ndim == 2 and data.shape[0] == tiny.EXPERTS]
        yield int("decoder" in name.split(".")), int(place[1]), module, weight


def chosen_by_hand(model: Any, top_k: int, **given: Any) -> dict[int, Any]:
    """Run the model once; return for each stack the ids that its routers' weights choose, [tokens, layers, k]."""
    states: dict[tuple[int, int], Any] = {}

    def keep(place: tuple[int, int]) -> Callable[[Any, Any], None]:
        def hook(_module: Any, args: Any) -> None:
            states[place] = args[0].reshape(-1, args[0].shape[-1]).clone()

        return hook

    found = list(routers(model))
    handles = [module.register_forward_pre_hook(keep((stack, block))) for stack, block, module, _ in found]
    with torch.inference_mode(), families.mended(model):
        model(**given, use_cache=False)
    for handle in handles:
        handle.remove()
    weights = {(stack, block): weight for stack, block, _, weight in found}
    ids = {
        place: (states[place].float() @ weights[place].detach().float().T).topk(top_k).indices
        for place in sorted(states)
    }
    return {
        stack: torch.stack([one for place, one in ids.items() if place[0] == stack], dim=1).numpy()
        for stack in {place[0] for place in ids}
    }


@pytest.mark.parametrize("kind", RECORDED)
def test_recorded_is_what_the_router_says(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiny.SPECIAL, kind, tiny.SPECIAL.get(kind, {}) | CAPACITY.get(kind, {}))
    model = tiny.tiny_model(kind)
    rng = np.random.default_rng(0)
    documents = [Prompt(token_ids=rng.integers(3, tiny.VOCABULARY, 24).tolist(), domain=name) for name in "ab"]
    settings = Settings(teacher_forced=True, sample_tokens=12, layers="ffn")
    out = tmp_path / "out.h5"
    record(Loaded(model, None, kind), documents, out, settings)
    assert check_file(out) == []
    top_k = 1 if kind == "switch_transformers" else tiny.TOP_K
    with RoutingTrace.open(out) as trace:
        assert trace.layers.num_experts.tolist() == [tiny.EXPERTS] * trace.num_layers
        assert trace.domains is not None
        assert set(trace.domains) == {"a", "b"}
        assert trace.token_ids is not None
        stacks = trace.column("stack") if "stack" in trace.columns else np.zeros(trace.num_tokens, int)
        for low, high in zip(trace.offsets[:-1], trace.offsets[1:], strict=True):
            tokens, stack = trace.token_ids[low:high], stacks[low:high]
            given = {"input_ids": torch.tensor(tokens[stack == 0][None].astype(np.int64))}
            if model.config.is_encoder_decoder:
                given["decoder_input_ids"] = torch.tensor(tokens[stack == 1][None].astype(np.int64))
            expected = chosen_by_hand(model, top_k, **given)
            assert trace.num_layers == sum(ids.shape[1] for ids in expected.values())
            for one, ids in expected.items():
                recorded = trace.experts[low:high][stack == one][:, trace.layers.stack == one]
                np.testing.assert_array_equal(np.sort(recorded), np.sort(ids))


def test_the_pages_sample_of_the_pipeline(
    lrcsim: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PAGE.read_text()
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(code, names)
    (console,) = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    said = ""
    for line in console.splitlines():
        if line.startswith("$ "):
            done = lrcsim(*shlex.split(line)[2:])
            assert done.code == 0, done.err
            said += f"{line}\n" + "".join(f"{row.rstrip()}\n" for row in done.out.splitlines())
    assert console == said
    logits = names["logits"].reshape(2, -1, 8)  # layers, tokens of all samples, experts
    best = np.argsort(-logits, axis=-1)[..., :2].transpose(1, 0, 2)
    with RoutingTrace.open(tmp_path / "xverse.h5") as trace:
        np.testing.assert_array_equal(trace.experts, best)
        assert trace.domains == ["c4"] * 4 + ["github"] * 4
