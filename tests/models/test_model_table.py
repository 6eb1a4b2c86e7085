"""A model of one's own as TOML: every built-in model there and back, and one clear line for what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.models import load_geometry, model_names
from lrcsim.models.table import geometry_from_toml, toml_of

# By hand: 2 layers of attention 4 x 8 x 8 (2 heads of 4, as many for keys and values) = 512; router 8 x 4 = 32 and
# 4 experts of 3 x 8 x 5 = 120 in layer 1, a dense block of 3 x 8 x 16 = 384 in layer 0; 2 x 100 x 8 = 1,600.
OWN = """
layers = 2
moe_layers = { from = 1 }
experts = 4
top_k = 2
hidden = 8
expert_width = 5
dense_width = 16
heads = 2
kv_heads = 2
head_dim = 4
vocab = 100
"""


def written(folder: Path, text: str, name: str = "own.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    path = written(tmp_path, OWN)
    geometry = load_geometry(path)
    assert (geometry.name, geometry.source, geometry.moe_layers) == ("own", str(path), (1,))
    assert geometry.total_params == 2 * 256 + 32 + 4 * 120 + 384 + 1_600
    assert load_geometry(f"{path}:top_k=1").top_k == 1
    named = load_geometry(written(tmp_path, f'["My model"]{OWN}'))
    assert named == replace(geometry, name="My model")
    assert load_geometry(written(tmp_path, f'name = "My model"{OWN}')) == named


@pytest.mark.parametrize("name", model_names())
def test_there_and_back(name: str, tmp_path: Path) -> None:
    geometry = load_geometry(name)
    assert geometry_from_toml(written(tmp_path, toml_of(geometry)), load_geometry) == geometry


def test_like_another(tmp_path: Path) -> None:
    like = load_geometry("qwen3-30b-a3b")
    path = written(tmp_path, 'like = "Qwen/Qwen3-30B-A3B"\nexperts = 256\n')
    assert load_geometry(path) == replace(like, name="own", source=str(path), experts=256)
    fewer = load_geometry(written(tmp_path, 'like = "qwen3-30b-a3b"\nlayers = 24\n'))
    assert fewer.moe_layers == tuple(range(24))
    assert load_geometry(written(tmp_path, 'like = "deepseek-v3"\nlayers = 10\n')).moe_layers == tuple(range(3, 10))
    with pytest.raises(ConfigError, match="model gpt-oss-20b has 24 layers: with 12 give window_layers too"):
        load_geometry(written(tmp_path, 'like = "gpt-oss-20b"\nlayers = 12\n'))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (OWN + "expert_widht = 5", "the key 'expert_widht' is not known; did you mean 'expert_width'?"),
        (OWN.replace("top_k = 2", ""), "lacks the key 'top_k': give it, or like ="),
        (OWN.replace("top_k = 2", "top_k = 5"), "top_k is 5, must be 1 to 4, the experts"),
        (OWN.replace("top_k = 2", "top_k = 0"), "top_k must be at least 1"),
        (OWN.replace("top_k = 2", 'top_k = "2"'), "top_k must be a whole number"),
        (OWN.replace("top_k = 2", "top_k = true"), "top_k must be a whole number"),
        (OWN.replace("layers = 2", "layers = 1000000000", 1), "layers must be a whole number of 0 to 2,048"),
        (OWN.replace("{ from = 1 }", "{ every = 2 }"), "moe_layers must be a list of layers or { from = 3 }"),
        (OWN.replace("{ from = 1 }", "{ from = 0, every = 0 }"), "moe_layers must be a list of layers"),
        (OWN.replace("{ from = 1 }", "{ from = 2 }"), "no Mixture-of-Experts model"),
        (OWN.replace("{ from = 1 }", "[1, 1]"), "moe_layers must be ascending, once each, below 2"),
        (OWN.replace("{ from = 1 }", "[2]"), "moe_layers must be ascending, once each, below 2"),
        (OWN.replace("dense_width = 16", ""), "dense_width is missing"),
        (OWN + "tied = 1", "tied must be true or false"),
        (OWN + 'biases = ["keys"]', "biases has 'keys', known are q, k, v"),
        (OWN + "biases = [1]", "biases must be a list of texts"),
        (OWN + "matrices = 7", "matrices is 7, must be 3"),
        (OWN + 'dtype = "int3"', "int3"),
        (OWN + "global_attention = { heads = 2 }", "global_attention must be a table with heads"),
        (OWN + "counted = [1, 2, 3]", "the key 'counted' is not known"),
        ('like = "nothing"', "there is no model 'nothing'"),
        ("[a]\nlayers = 1\n[b]\nlayers = 2", "has 2 models, a, b: leave one in each file"),
        ("layers = ", "is no TOML"),
        ("", "lacks the key 'layers'"),
    ],
)
def test_what_is_refused(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_geometry(written(tmp_path, text))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        load_geometry(tmp_path / "none.toml")


values = st.recursive(
    st.one_of(st.integers(-2, 9), st.booleans(), st.text(max_size=3), st.just("qwen3-30b-a3b"), st.integers(10**6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["from", "every"]), inner)),
    max_leaves=4,
)
KEYS = ["layers", "moe_layers", "experts", "top_k", "like", "biases", "window_layers", "attention_layers", "dtype"]


@given(changes=st.dictionaries(st.sampled_from(KEYS), values, min_size=1, max_size=3))
def test_any_value_gives_a_geometry_or_one_line(
    changes: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from lrcsim.models.table import _toml

    table = dict(line.split(" = ", 1) for line in OWN.split("\n") if line)
    table |= {key: _toml(value) for key, value in changes.items()}
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text("\n".join(f"{key} = {value}" for key, value in table.items()), encoding="utf-8")
    try:
        geometry = load_geometry(path)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert geometry.total_params > 0


def test_on_the_command_line(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "mixtral.toml"
    shown = lrcsim("models", "mixtral-8x7b", "--toml", path)
    assert lrcsim("models", path).out == shown.out
    assert "name it, as in" in lrcsim("models", "--toml", path).err
