"""The pages of docs/questions: every question of README's table leads to one, and all have one shape."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from shown import QUESTIONS

ROOT = Path(__file__).resolve().parents[2]
START = ROOT / "docs" / "questions" / "README.md"
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def table(path: Path) -> dict[str, str]:
    """Return the command of each question in a file's tables, without links."""
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", LINK.sub(r"\1", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {question: command for question, command in rows if question.endswith("?")}


def test_the_start_page_asks_what_readme_asks() -> None:
    asked = table(ROOT / "README.md")
    assert len(asked) > 20
    answered = table(START)
    assert sorted(answered) == sorted(asked)
    names = {question: re.findall(r"lrcsim ([a-z-]+)", command) for question, command in asked.items()}
    wrong = [q for q, commands in names.items() if not set(commands) <= set(re.findall(r"[a-z-]+", answered[q]))]
    assert wrong == []


def test_every_link_leads_to_a_file_and_every_page_is_linked() -> None:
    linked = {(START.parent / target.partition("#")[0]).resolve() for _, target in LINK.findall(START.read_text())}
    assert [path for path in linked if not path.exists()] == []
    assert set(QUESTIONS) <= linked
    for page in QUESTIONS:
        for _, target in LINK.findall(page.read_text(encoding="utf-8")):
            assert ":" in target or (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", QUESTIONS, ids=lambda page: page.stem)
def test_a_question_then_the_command_then_how_to_read_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.match(r"# .+\?\n", text)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["How to read it", "What it cannot say", "More"]
    assert text.index("```console\n$ lrcsim ") < text.index("## How to read it")
    assert len(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split()) < 350  # short, but for the output
