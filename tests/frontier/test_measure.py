"""Rules on one model: rows, front, and what a stopped run leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from lrcsim.base.errors import ConfigError, PolicyError
from lrcsim.frontier.front import knee_in_words
from lrcsim.frontier.measure import finished, measure
from lrcsim.frontier.one_rule import OneRule
from lrcsim.frontier.rules import parse_rules
from lrcsim.recorder import Prompt
from lrcsim.recorder.model import Loaded
from lrcsim.simulator import simulate

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

RULES = "prior:0.2,0.6;skip:0.4;none"


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return Loaded(tiny.tiny_model("olmoe"), None, "tiny")


def prompts() -> list[Prompt]:
    return [Prompt(token_ids=tuple((7 * i * i + 3 * i + n) % 61 + 3 for i in range(40))) for n in range(3)]


def found(loaded: Loaded, rules: str = RULES, **options: Any) -> Any:
    given = {"cache": 3, "sample_tokens": 40, "limit": 3, **options}
    return measure(loaded, prompts(), parse_rules(rules), **given)


def test_rows(loaded: Loaded) -> None:
    result = found(loaded, hardware="rtx-4090")
    assert [row["rule"] for row in result.rows] == ["none", "prior:0.2", "prior:0.6", "skip:0.4"]
    none, *others = result.rows
    plain = simulate(result.trace, cache=3, bounds=False)
    assert none["hit_rate"] == plain.hit_rate
    assert none["loads_per_access"] == plain.loads_per_access
    assert (none["loss_difference"], none["changed_tokens"], none["loss_interval"]) == (0, 0, [0, 0])
    for row in others:
        assert row["loss"] == pytest.approx(none["loss"] + row["loss_difference"], abs=1e-12)
        assert row["loss_interval"][0] <= row["loss_difference"] <= row["loss_interval"][1]
        assert row["loads_per_access"] < none["loads_per_access"]
        assert row["tokens_per_s"] > none["tokens_per_s"]
        assert 0 < row["mass_kept"] < 1
        assert 0 < row["agreement"] < 1
    # the open loop is what `lrcsim run --route` says of the trace that was recorded without a rule
    replayed = simulate(result.trace, cache=3, route="prior:0.6", bounds=False)
    assert result.rows[2]["open_loop"]["hit_rate"] == pytest.approx(replayed.hit_rate, abs=1e-12)
    assert set(result.front) <= {row["rule"] for row in result.rows}
    assert {"rows", "front", "knee", "requests", "tokens", "options"} <= result.to_dict().keys()


def test_a_sample_of_one_token_is_left_out(loaded: Loaded) -> None:
    texts = [Prompt(token_ids=tuple(range(3, 44)))]  # 41 tokens, and the separator: 2 x 20 and 2
    assert measure(loaded, texts, parse_rules("none"), cache=3, sample_tokens=20).about["requests"] == 3
    assert measure(loaded, texts, parse_rules("none"), cache=3, sample_tokens=41).about["requests"] == 1
    with pytest.raises(ConfigError, match="no sample of two tokens"):
        measure(loaded, texts, parse_rules("none"), cache=3, sample_tokens=1)


def test_a_rule_of_ones_own_is_run(loaded: Loaded, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "from lrcsim.policies import RoutingRule\n"
        "class Mine(RoutingRule):\n"
        "    def choose(self, scores, resident, k):\n"
        "        return np.argsort(-(scores + 9 * resident), axis=1, kind='stable')[:, :k]\n"
    )
    rule = f"{tmp_path}/mine.py:Mine"
    rows = found(loaded, f"{rule};prior:1").rows
    assert rows[1]["rule"] == rule
    assert rows[1]["hit_rate"] > 0.9
    assert len(rows[1]["source_sha256"]) == 64
    (tmp_path / "bad.py").write_text((tmp_path / "mine.py").read_text().replace("[:, :k]", "[:, :1]"))
    with pytest.raises(PolicyError, match=r"choose\(\) returned .*bad.py"):
        found(loaded, f"{tmp_path}/bad.py:Mine")


def test_a_stopped_run_goes_on(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "o.json"
    whole = found(loaded)
    ran = []
    own = OneRule.row

    def stops(self: Any, rule: Any, progress: Any) -> Any:
        if len(ran) == 2 and rule.label == "prior:0.6":
            raise KeyboardInterrupt
        ran.append(rule.label)
        return own(self, rule, progress)

    monkeypatch.setattr(OneRule, "row", stops)
    with pytest.raises(KeyboardInterrupt):
        found(loaded, out=out)
    ran.append("stopped")
    again = found(loaded, out=out)
    assert ran == ["none", "prior:0.2", "stopped", "none", "prior:0.6", "skip:0.4"]
    assert again.rows == whole.rows
    # of other prompts, options or weights nothing is taken over
    with pytest.raises(ConfigError, match=r"unfinished run with other options is there; .*--restart"):
        found(loaded, out=out, cache=4)
    other = Loaded(tiny.tiny_model("olmoe"), None, "tiny")
    other.model.lm_head.weight.data.mul_(1.01)
    with pytest.raises(ConfigError, match=r"a loss of .* other weights; use --restart"):
        measure(other, prompts(), parse_rules(RULES), cache=3, sample_tokens=40, limit=3, out=out)
    finished(out)
    assert not list(tmp_path.iterdir())


def test_a_rule_that_was_edited_is_run_again(loaded: Loaded, tmp_path: Path) -> None:
    file, out = tmp_path / "edited.py", tmp_path / "o.json"
    text = (
        "import numpy as np\n"
        "from lrcsim.policies import RoutingRule\n"
        "class Mine(RoutingRule):\n"
        "    def choose(self, scores, resident, k):\n"
        "        return np.argsort(-(scores + 9 * resident), axis=1, kind='stable')[:, :k]\n"
    )
    file.write_text(text)
    first = found(loaded, f"{file}:Mine", out=out).rows[1]
    file.write_text(text.replace("9 *", "0 *"))
    again = found(loaded, f"{file}:Mine", out=out).rows[1]
    assert again["loss_difference"] == 0 != first["loss_difference"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"access": "paper"}, "access 'paper' looks whole tokens up"),
        ({"access": "sequential"}, "skip leaves misses of a layer-step out"),
        ({"policy": "belady"}, "needs to know the uses to come"),
        ({"route": "prior:0.1"}, "'route' cannot be used with frontier"),
        ({"miss": "cpu", "hardware": "rtx-4090"}, "'miss' cannot be used with frontier"),
        ({"batch": 2}, "'batch' cannot be used with frontier"),
        ({"scope": "model", "one_at_a_time": False}, "tokens must run one at a time"),
    ],
)
def test_what_does_not_go_together(loaded: Loaded, options: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, PolicyError), match=said) as raised:
        found(loaded, **options)
    assert "\n" not in str(raised.value)


def test_knee_in_words() -> None:
    rows: list[dict[str, Any]] = [
        {"rule": "none", "loss_difference": 0.0, "loads_per_access": 0.5, "tokens_per_s": None, "loss_interval": None},
        {
            "rule": "skip:0.1", "loss_difference": 0.01, "loads_per_access": 0.2, "tokens_per_s": None,
            "loss_interval": [-0.01, 0.03],
        },
    ]  # fmt: skip
    assert knee_in_words(rows, ["none", "skip:0.1"], "skip:0.1") == (
        "skip:0.1: 0.40x the loads for +0.0100 nats (95 % interval -0.0100 to +0.0300, no difference shown)"
    )
    assert knee_in_words(rows, ["none", "skip:0.1"], None).startswith("no knee")
    assert knee_in_words(rows, ["none"], "none").startswith("the knee is at none")
