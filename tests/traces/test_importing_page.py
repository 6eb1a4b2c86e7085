"""docs/importing.md: every example goes through the importer, and every name and option stands on the page."""

import re
from pathlib import Path

import numpy as np
import pytest
from trace_files import imported

from lrcsim.traces.importers import FORMATS, Options
from lrcsim.traces.importers.names import ALIASES
from lrcsim.traces.importers.values import DECODE_WORDS, PREFILL_WORDS

PAGE = Path(__file__).parents[2] / "docs" / "importing.md"
EXAMPLES = re.findall(r"^```(csv|jsonl)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_come_in(number: int, tmp_path: Path) -> None:
    ending, text = EXAMPLES[number]
    (tmp_path / f"t.{ending}").write_text(text)
    needs_k = "logits" in text or text.startswith("layer,expert\n")
    back, report = imported(tmp_path / f"t.{ending}", tmp_path, top_k=2 if needs_k else None)
    with back:
        assert back.top_k == 2
        assert 1 <= back.num_layers <= 2
        if text.lstrip("{").startswith("request") or "prompt_len" in text or text.startswith(("-2", "layer,expert\n")):
            assert back.phase is not None
    assert report.unrecorded == 0


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 9


def test_the_array_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(code, {"np": np})
    back, _ = imported(tmp_path / "request.npz", tmp_path)
    with back:
        assert back.phase is not None
        assert back.phase.tolist() == [0, 1]


@pytest.mark.parametrize("ours", ALIASES)
def test_every_name_stands_on_the_page(ours: str) -> None:
    (row,) = re.findall(rf"^\| `{ours}` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert tuple(row.split(", ")) == ALIASES[ours]


@pytest.mark.parametrize(("phase", "words"), [("prefill", PREFILL_WORDS), ("decode", DECODE_WORDS)])
def test_every_word_of_a_phase_stands_on_the_page(phase: str, words: tuple[str, ...]) -> None:
    (row,) = re.findall(rf"^\| {phase} \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert tuple(row.split(", ")) == words


def test_every_option_of_tables_stands_on_the_page() -> None:
    text = PAGE.read_text()
    for name in FORMATS["table"].options - {"expert_bytes", "model", "num_experts"}:
        assert f"--{name.replace('_', '-')}" in text
    assert "layer_first" in Options.__dataclass_fields__
    assert "--layer-first" in text
