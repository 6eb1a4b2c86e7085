"""The pages of docs/questions: README asks each of them, and all have one shape."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from shown import QUESTIONS

README = Path(__file__).resolve().parents[2] / "README.md"
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def test_readme_asks_each_and_every_link_leads_to_a_file() -> None:
    text = README.read_text(encoding="utf-8")
    assert set(QUESTIONS) <= {(README.parent / target.partition("#")[0]).resolve() for _, target in LINK.findall(text)}
    for page in (README, *QUESTIONS):
        for _, target in LINK.findall(page.read_text(encoding="utf-8")):
            assert ":" in target or (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", QUESTIONS, ids=lambda page: page.stem)
def test_a_question_then_the_command_then_how_to_read_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.match(r"# .+\?\n", text)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["How to read it", "What it cannot say", "More"]
    assert text.index("```console\n$ lrcsim ") < text.index("## How to read it")
    assert len(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split()) < 350  # short, but for the output
